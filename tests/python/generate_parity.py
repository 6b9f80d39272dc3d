"""Greedy answers of transformers (and PEFT), token by token next to those of `uptake generate`.

usage: generate_parity.py record FIXTURES                       writes FIXTURES/adapter and FIXTURES/expected/greedy.json
       generate_parity.py adapter MODEL DIRECTORY               an adapter of PEFT's with random weights
       generate_parity.py prompts FILE                          prompts of many lengths, as JSON lines
       generate_parity.py compare MODEL ANSWERS [ADAPTER]       ANSWERS: of `uptake generate --token-ids` at temperature 0

Recorded are tiny models (of policy_base.py), which the Rust tests compare with; an answer in which two tokens are nearly
equally likely is left out, since it would compare rounding. `compare` takes a real model. Where an answer is another one,
each of its steps must be as likely as the likeliest token up to a gap in the logits of 1e-3, which is what single precision
leaves open; each such step is printed.
"""

import json
import sys
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-3
NEW_TOKENS = 48
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

QUESTIONS = [
    "Hi", "What is the capital of France?", "Write a haiku about rain.", "Name three prime numbers and say why they are prime.",
    "Übersetze ins Englische: „Wie spät ist es?“", "Translate to French: the cat sleeps on the warm stove.",
    "Give me a Python function that reverses a list.", "Why is the sky blue? Answer in two sentences.",
    "List the planets of the solar system in order.", "What should I cook with rice, eggs and spinach?",
    "Explain to a child what a volcano is.", "2 + 2 * 3 = ?", "Tell me a joke about computers. 😀",
    "Summarise: " + "The river rises in the hills, passes four towns and a forest, and meets the sea near the old harbour. " * 6,
    "Is it better to run in the morning or in the evening?", "Write one line of SQL that counts users by country.",
    "Fix the grammar: he go to school yesterday and see she.", "How do I remove a coffee stain from a cotton shirt?",
    "Continue the story: The door was open, but nobody had lived there for years.", "日本の首都はどこですか。",
    "Sort these words: pear, apple, fig, banana, cherry. " + "Then explain how you sorted them, step by step. " * 12,
    "What is the difference between a list and a tuple?",
]


def message(role, content):
    return {"role": role, "content": content}


def prompts():
    """Questions alone, with a system message, and in the middle of a conversation."""
    for at, question in enumerate(QUESTIONS):
        before = []
        if at % 4 == 1:
            before = [message("system", "Answer briefly and say when you are not sure.")]
        if at % 4 == 2:
            before = [message("user", "I need some help."), message("assistant", "Gladly. What is it about?")] * (1 + at % 3)
        yield f"q{at}", [*before, message("user", question)]


def load(directory, adapter=None):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    return model.eval()


def make_adapter(directory, out, rank, size):
    """Factors that both are random: a fresh adapter of PEFT's changes nothing."""
    torch.manual_seed(3)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MODULES, bias="none", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, size)
    model.save_pretrained(out)
    for extra in ("README.md",):
        (Path(out) / extra).unlink(missing_ok=True)
    config = json.loads((Path(out) / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = Path(directory).name
    config["target_modules"] = sorted(config["target_modules"])
    (Path(out) / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def prompt_of(tokenizer, messages):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)


@torch.no_grad()
def greedy(model, tokenizer, messages, new_tokens):
    chat = prompt_of(tokenizer, messages)
    length = chat["input_ids"].shape[1]
    answer = model.generate(**chat, max_new_tokens=new_tokens, do_sample=False)[0, length:]
    return chat["input_ids"][0].tolist(), answer.tolist()


@torch.no_grad()
def gaps(model, prompt, answer):
    """Of each token of an answer: how far its logit lies below the highest, and the highest above the second."""
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1:-1]
    best, second = logits.topk(2, dim=-1).values.unbind(-1)
    own = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
    return (best - own).tolist(), (best - second).tolist()


def record(fixtures):
    make_adapter(fixtures / "llama", fixtures / "adapter", 4, 0.1)
    runs = []
    for base, adapter in (("llama", None), ("llama", "adapter"), ("qwen2", None), ("qwen3", None)):
        tokenizer = AutoTokenizer.from_pretrained(fixtures / base)
        model = load(fixtures / base, fixtures / adapter if adapter else None)
        answers = []
        for _, messages in prompts():
            if prompt_of(tokenizer, messages)["input_ids"].shape[1] > 256 - NEW_TOKENS:
                continue
            prompt, answer = greedy(model, tokenizer, messages, NEW_TOKENS)
            if min(gaps(model, prompt, answer)[1]) > TOLERANCE:
                answers.append({"messages": messages, "prompt_ids": prompt, "answer_ids": answer})
        runs.append({"base": base, "adapter": adapter, "answers": answers})
        print(f"ok: {base}, adapter {adapter}: {len(answers)} answers, {sum(len(row['answer_ids']) for row in answers)} tokens")
    if sum(a["answer_ids"] != b["answer_ids"] for a, b in zip(runs[0]["answers"], runs[1]["answers"])) < 5:
        raise SystemExit("FAILED: the adapter changes nothing")
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    recorded = {"versions": versions, "new_tokens": NEW_TOKENS, "runs": runs}
    (fixtures / "expected" / "greedy.json").write_text(json.dumps(recorded, ensure_ascii=False) + "\n")


def compare(directory, answers, adapter):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = load(directory, adapter)
    rows = [json.loads(line) for line in Path(answers).read_text().splitlines()]
    asked = dict(prompts())
    if [row["id"] for row in rows] != list(asked):
        raise SystemExit(f"FAILED: {len(rows)} answers do not belong to the {len(asked)} prompts in their order")
    same, tokens, ties, wrong = 0, 0, [], []
    longest = max(row["tokens"] for row in rows)
    for row in rows:
        prompt, theirs = greedy(model, tokenizer, asked[row["id"]], longest)
        ours = row["token_ids"]
        if len(ours) != row["tokens"]:
            raise SystemExit(f"FAILED: {row['id']} says {row['tokens']} tokens and has {len(ours)}")
        tokens += len(ours)
        if ours == theirs:
            same += 1
            text = tokenizer.decode(ours, skip_special_tokens=True)
            if text != row["response"]:
                raise SystemExit(f"FAILED: {row['id']}: the text {row['response']!r} should be {text!r}")
            continue
        step = next(at for at, (a, b) in enumerate(zip(ours + [None], theirs + [None])) if a != b)
        below, _ = gaps(model, prompt, ours)
        print(f"{row['id']}: step {step} differs, the logits' gap is {below[step] if step < len(below) else None}")
        for at, gap in enumerate(below):
            if gap > 0:
                (ties if gap < TOLERANCE else wrong).append((row["id"], at, gap))
                print(f"  {row['id']} step {at}: ours {ours[at]}, gap {gap:.2e}")
        if len(ours) != len(theirs) and row["finish_reason"] == "stop" and ours[-1] not in tokenizer.all_special_ids:
            wrong.append((row["id"], len(ours), None))
    print(
        f"{'FAILED' if wrong else 'ok'}: transformers {transformers.__version__}, adapter {bool(adapter)}: {same} of {len(rows)} "
        f"answers are the same, {tokens} tokens compared; {len(ties)} steps with a gap below {TOLERANCE}, {len(wrong)} above"
    )
    if wrong or tokens < 20 * 32:
        raise SystemExit(1)


def main(arguments):
    match arguments:
        case ["record", fixtures]:
            record(Path(fixtures))
        case ["adapter", model, out]:
            make_adapter(Path(model), Path(out), 8, 0.01)
        case ["prompts", file]:
            lines = [json.dumps({"id": name, "prompt": messages}, ensure_ascii=False) for name, messages in prompts()]
            Path(file).write_text("\n".join(lines) + "\n")
        case ["compare", model, answers, *adapter]:
            compare(Path(model), answers, Path(adapter[0]) if adapter else None)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
