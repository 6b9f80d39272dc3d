"""Conversations to measure on: the ones written for this project, and variations of them."""

import gzip
import json
import random
import re

from measure import ROOT

WORD = re.compile(r"[A-Za-z]{4,}")


def authored() -> list[dict]:
    """The labelled follow-ups written for this project: each a conversation that ends with one."""
    with gzip.open(ROOT / "crates/sample/data/authored.jsonl.gz", "rt") as lines:
        found = [json.loads(line) for line in lines]
    return [{"conversation_id": entry["conversation_id"], "messages": entry["messages"]} for entry in found]


def chosen(count: int, seed: int) -> list[dict]:
    """So many of them, in an order as good as that in which chats arrive."""
    every = authored()
    random.Random(seed).shuffle(every)
    return every[:count]


def varied(messages: int, seed: int):
    """Conversations of so many messages in all, without end: in each, one long word in twelve is another one, so that no two
    responses are the same while lengths, casing and punctuation stay."""
    draw, every = random.Random(seed), authored()
    words = sorted({word for entry in every for message in entry["messages"] for word in WORD.findall(message["content"])})

    def swap(match: re.Match) -> str:
        return draw.choice(words) if draw.random() < 1 / 12 else match.group()

    written = 0
    while written < messages:
        entry = draw.choice(every)
        last = len(entry["messages"]) - 1
        # Follow-ups stay as they were written: short ones do repeat themselves.
        said = [
            {"role": message["role"], "content": message["content"] if index == last else WORD.sub(swap, message["content"])}
            for index, message in enumerate(entry["messages"])
        ]
        written += len(said)
        yield {"conversation_id": f"bench-{written}", "messages": said}
