"""`uptake tag` as a process: follow-ups a second and peak memory, held against the encoder alone in the same run."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from conversations import varied
from measure import ROOT, binary, busy_share, machine, machine_in_words, number, profile, profile_in_words, run_measured, table, write

MODEL = ROOT / "crates/tagger/model"
SINGLE = {"RAYON_NUM_THREADS": "1", "CANDLE_NUM_THREADS": "1"}
# The encoder alone is measured on the first so many follow-ups.
LIMIT_TEXTS = 200


def encoder_alone(texts: Path, folder: Path) -> float:
    """Follow-ups per second of processor time that the encoder does when the tokens are there."""
    sample = folder / "sample.jsonl"
    with texts.open() as lines:
        sample.write_text("".join(line for _, line in zip(range(LIMIT_TEXTS), lines)))
    command = [binary("uptake-bench"), "tagger", MODEL, sample]
    answers = subprocess.run(
        command, input="inputs\n" + "forward sorted 2048\n" * 3, env={**os.environ, **SINGLE}, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    count = len(json.loads(answers[0])["tokens"])
    return max(count / json.loads(answer)["processor"] for answer in answers[1:])


def tagged(texts: Path, folder: Path, threads: int, environment: dict) -> dict:
    out = folder / "out.jsonl"
    command = [binary("uptake"), "tag", texts, "--threads", threads, "--output", out]
    found = run_measured(command, environment, stderr=subprocess.DEVNULL, cwd=folder)
    with out.open() as lines:
        found["follow_ups"] = sum(1 for _ in lines)
    return found


def report(results: dict) -> str:
    rows, limit, texts = [], results["encoder_alone"], results["texts"]
    for name, found in results["variants"].items():
        rate = found["follow_ups"] / found["processor"]
        rows.append([
            name, number(found["follow_ups"] / found["wall"], 1), number(rate, 1), f"{rate / limit:.2f}", number(found["peak_memory_mib"]),
        ])
    whole = results["variants"][results["default"]]
    per_follow_up, share = whole["processor"] / whole["follow_ups"], texts["follow_ups"] / texts["messages"]
    hours = per_follow_up * 1e6 / 3600
    small = results["quarter"]
    return "\n".join([
        "# `uptake tag` as a process", "",
        f"Written by `benches/run tag`. Processor: {machine_in_words(results['machine'])}. Build: {results['profile_in_words']}.",
        f"One file: {number(texts['messages'])} messages (turns) in {number(texts['conversations'])} conversations with {number(texts['follow_ups'])} follow-ups, "
        f"{texts['bytes'] / 2**20:.1f} MiB; {results['busy']:.0%} of the cores were in use by others when it began.", "",
        table(["threads", "follow-ups/s by the clock", "per second of processor time", "of the encoder alone", "peak memory, MiB"], rows), "",
        f"The encoder alone, one thread, tokens ready: {number(limit, 1)} follow-ups per second of processor time. What the process needs beyond it is "
        "start, reading, normalising, tokenising, writing.", "",
        f"A million follow-ups are {hours:.1f} hours of processor time at this rate; a million turns of chats like these, of which {share:.0%} are follow-ups, "
        f"{hours * share:.1f} hours; wall time is that over the cores.",
        f"Peak memory does not grow with the file: {number(small['peak_memory_mib'])} MiB for a quarter of it, {number(whole['peak_memory_mib'])} MiB for all.",
    ])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benches/run tag", description=__doc__)
    parser.add_argument("--turns", type=int, default=2400, help="messages in the file, of any role (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="decides the texts (default: %(default)s)")
    parser.add_argument("--default-only", action="store_true", help="leave out the variants of threads")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    found, busy, cores = machine(), busy_share(), os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="uptake-bench-") as name:
        folder = Path(name)
        texts, quarter = folder / "conversations.jsonl", folder / "quarter.jsonl"
        conversations = list(varied(arguments.turns, arguments.seed))
        texts.write_text("".join(json.dumps(entry) + "\n" for entry in conversations))
        quarter.write_text("".join(json.dumps(entry) + "\n" for entry in conversations[: len(conversations) // 4]))
        limit = encoder_alone(texts, folder)
        default = f"{cores} workers (the default)"
        variants = {default: tagged(texts, folder, 0, {})}
        if not arguments.default_only:
            variants[f"{cores} workers, products on one thread each"] = tagged(texts, folder, cores, SINGLE)
            variants["1 worker, one thread"] = tagged(texts, folder, 1, SINGLE)
        small = tagged(quarter, folder, 0, {})
        if small["follow_ups"] * 3 > variants[default]["follow_ups"] * 2:
            sys.exit("the smaller file is not smaller: peak memory would say nothing")
        results = {
            "machine": found, "busy": busy, "profile": profile(), "profile_in_words": profile_in_words(), "seed": arguments.seed,
            "texts": {
                "messages": sum(len(entry["messages"]) for entry in conversations), "conversations": len(conversations),
                "follow_ups": variants[default]["follow_ups"], "bytes": texts.stat().st_size,
            },
            "encoder_alone": limit, "default": default, "variants": variants, "quarter": small,
        }
    write("tag", results, report(results))


if __name__ == "__main__":
    main()
