"""The tagger's encoder beside ONNX Runtime: the same weights, the same tokens, one thread each, rounds in turn."""

import argparse
import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

import bert_graph
from conversations import chosen
from measure import ROOT, best_and_median, binary, busy_share, machine, machine_in_words, number, profile, profile_in_words, table, write

MODEL = ROOT / "crates/tagger/model"
# Tokens of a batch in the tagger's default options.
BATCH_TOKENS = 2048
BATCHES = (1, 8, 32)
# Batches whose activations stay in the cache of one core.
SMALL_BATCH_TOKENS = 384
SMALL = f"uptake, packed, arrival order, batches of {SMALL_BATCH_TOKENS} tokens"
# Two f32 engines that add up in another order may differ by this much in a logit.
TOLERANCE = 1e-3
ONE_THREAD = {"RAYON_NUM_THREADS": "1", "CANDLE_NUM_THREADS": "1"}


class Ours:
    """Our own code in a process of its own, which answers a request a line."""

    def __init__(self, model: Path, conversations: Path):
        command = [binary("uptake-bench"), "tagger", model, conversations]
        environment = {**os.environ, **ONE_THREAD}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: str) -> dict:
        print(request, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"uptake-bench ended at `{request}`")
        return json.loads(answer)


class Peer:
    """ONNX Runtime on one thread."""

    def __init__(self, path: Path, tokens: list[list[int]], first_segment: list[int], profile_to: Path | None = None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        if profile_to:
            options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.tokens, self.first_segment = tokens, first_segment

    def feeds(self, order: list[int], size: int) -> list[dict]:
        """Padded batches of `size` inputs in this order, made before the clock starts."""
        feeds = []
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            longest = max(len(self.tokens[row]) for row in rows)
            feed = {name: np.zeros((len(rows), longest), np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")}
            for at, row in enumerate(rows):
                length = len(self.tokens[row])
                feed["input_ids"][at, :length] = self.tokens[row]
                feed["token_type_ids"][at, self.first_segment[row] : length] = 1
                feed["attention_mask"][at, :length] = 1
            feeds.append(feed)
        return feeds

    def run(self, feeds: list[dict]) -> dict:
        wall, processor = time.monotonic(), time.process_time()
        self.outputs = [self.session.run(None, feed)[0] for feed in feeds]
        return {"processor": time.process_time() - processor, "wall": time.monotonic() - wall}


def fires(model: Path, logits: np.ndarray) -> np.ndarray:
    """Which outputs fire, by the model's calibration and thresholds."""
    settings = json.loads((model / "tagger.json").read_text())
    scale, bias = (np.array([entry[name] for entry in settings["calibration"]]) for name in ("scale", "bias"))
    return 1 / (1 + np.exp(-(scale * logits + bias))) >= np.array(settings["thresholds"])


def compared(model: Path, ours: np.ndarray, peer: np.ndarray) -> dict:
    difference = np.abs(ours - peer)
    changed = fires(model, ours) != fires(model, peer)
    return {
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "outputs": int(changed.size),
        "outputs_that_fire": int(fires(model, ours).sum()),
        "decisions_changed": int(changed.sum()),
    }


# Which part of the encoder a sample belongs to, by the functions that its address is in, inlined ones included; the first that matches.
PARTS = (
    ("bias + GELU", r"add_bias_gelu"),
    ("bias + residual + norm", r"add_bias_residual_normalise|normalise"),
    ("attention", r"kernels::(attention|Head|scores|softmax|mix)|Head::(attend|gather)"),
    ("bias", r"add_bias"),
    ("matrix products", r"gemm"),
    ("other of the tagger", r"uptake_tagger"),
    ("memory: zeroing, copying, page faults", r"mem(set|cpy|move)|page|clear_|alloc|free"),
)


def sampled(ours: Ours, seconds: float, folder: Path) -> dict[str, float] | None:
    """Share of samples per part while our encoder runs; nothing where `perf` or `addr2line` is missing or not allowed."""
    if not shutil.which("perf") or not shutil.which("addr2line"):
        return None
    data, program = folder / "perf.data", binary("uptake-bench").resolve()
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "299", "-o", data, "-p", str(ours.process.pid)]
    perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ours.ask(f"forward arrival {BATCH_TOKENS}")
    perf.send_signal(signal.SIGINT)
    perf.wait()
    maps = [line.split() for line in Path(f"/proc/{ours.process.pid}/maps").read_text().splitlines()]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in maps if line[-1] == str(program)]
    base, top = min(span[0] for span in spans), max(span[1] for span in spans)
    script = subprocess.run(["perf", "script", "-i", data, "-F", "ip,sym"], capture_output=True, text=True, check=False).stdout
    samples = [line.split(None, 1) for line in script.splitlines() if line.strip()]
    places = sorted({int(sample[0], 16) - base for sample in samples if base <= int(sample[0], 16) < top})
    # The same code is called by the same generic name in many places: the line tables say which source it comes from.
    lines = subprocess.run(
        ["addr2line", "-a", "-f", "-i", "-C", "-e", program], input="\n".join(map(hex, places)), capture_output=True, text=True, check=False
    ).stdout
    named = {int(head, 16): rest for head, rest in re.findall(r"^(0x[0-9a-f]+)\n((?:(?!0x).*\n?)*)", lines, re.MULTILINE)}
    shares: collections.Counter = collections.Counter()
    for sample in samples:
        text = named.get(int(sample[0], 16) - base, "") + (sample[1] if len(sample) > 1 else "")
        part = next((name for name, pattern in PARTS if re.search(pattern, text)), "other")
        shares[part] += 1 / len(samples)
    return dict(shares.most_common()) or None


def operators(path: Path, tokens, first_segment, order: list[int], folder: Path) -> dict[str, float]:
    """Share of ONNX Runtime's own time per operator, by its own profiler."""
    peer = Peer(path, tokens, first_segment, folder / "operators")
    peer.run(peer.feeds(order, 8))
    events = json.loads(Path(peer.session.end_profiling()).read_text())
    times: collections.Counter = collections.Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"]
    total = sum(times.values())
    return {name: value / total for name, value in times.most_common(6)}


def report(results: dict) -> str:
    rows = []

    def best_in_arrival_order(kind: str) -> str:
        names = [name for name in results["peers"] if kind in name and "arrival" in name]
        return max(names, key=lambda name: results["rates"][name]["best"])

    best = best_in_arrival_order("f32")
    base, int8 = results["rates"][best], results["rates"][best_in_arrival_order("int8")]
    for name, rate in results["rates"].items():
        rows.append([
            name, number(rate["best"]), number(rate["median"]), number(rate["best"] / results["tokens_mean"], 1),
            f"{rate['best'] / base['best']:.2f}", f"{rate['median'] / base['median']:.2f}",
        ])
    ours = results["rates"]["uptake, packed, arrival order"]
    padded = results["rates"]["ONNX Runtime f32, batches of 32, arrival order"]
    text = [
        "# The tagger's encoder beside ONNX Runtime", "",
        f"Written by `benches/run tagger`. Processor: {machine_in_words(results['machine'])}. Build: {results['profile_in_words']}.",
        f"Model: {results['tagger']}, {results['layers']} layers. Texts: {results['inputs']} follow-ups, {number(results['tokens'])} tokens "
        f"({results['tokens_mean']:.0f} on average, {results['tokens_shortest']} to {results['tokens_longest']}); padding included, batches of 32 "
        f"in arrival order have {results['padding_arrival']:.2f} times as many, sorted by length {results['padding_sorted']:.2f}.",
        f"One thread each, {results['rounds']} rounds in turn, seconds of processor time; {results['busy']:.0%} of the cores were in use by others "
        "when it began. Tokens are real ones, padding does not count.", "",
        f"**In arrival order: {ours['best'] / padded['best']:.2f} × ONNX Runtime f32 in batches of 32, {ours['best'] / base['best']:.2f} × the best f32 "
        f"batch size for it; {ours['best'] / int8['best']:.2f} × the best int8.**", "",
        table(["engine", "tokens/s, best", "median", "follow-ups/s, best", "ratio of bests", "of medians"], rows), "",
        f"Ratios are to *{best}*, the best f32 peer that takes texts as they come.", "",
        "## The same function?", "",
    ]
    for name, found in results["same"].items():
        text.append(
            f"- {name}: largest difference of a logit {found['largest_difference']:.2g} (mean {found['mean_difference']:.2g}); "
            f"{found['decisions_changed']} of {found['outputs']} decisions differ ({found['outputs_that_fire']} outputs fire)."
        )
    text += ["", "## Where the time goes", ""]
    part = results["parts"]
    text.append(
        f"From text to probabilities the tagger does {number(part['whole_tokens_per_second']['best'])} tokens/s; reading the text (normalise, tokenise) takes "
        f"{part['encode_share']:.0%} of that time, the encoder nearly all of the rest."
    )
    if part["sampled"]:
        text += ["", "Samples of our encoder (`perf`): " + ", ".join(f"{name} {share:.0%}" for name, share in part["sampled"].items()) + "."]
    text += ["", "ONNX Runtime f32 by its own profiler: " + ", ".join(f"{name} {share:.0%}" for name, share in part["operators_f32"].items()) + "."]
    text += ["", "ONNX Runtime int8: " + ", ".join(f"{name} {share:.0%}" for name, share in part["operators_int8"].items()) + "."]
    rate = results["multiplications"]
    text += ["", f"Matrix products of the layers alone are {rate['per_token'] / 1e6:.1f} M multiplications a token: ours go through at "
             f"{2 * rate['per_token'] * ours['best'] / 1e9:.0f} GFLOP/s over the whole forward pass, the peer's f32 at {2 * rate['per_token'] * base['best'] / 1e9:.0f}."]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benches/run tagger", description=__doc__)
    parser.add_argument("--texts", type=int, default=100, help="conversations, of about 1.4 follow-ups each (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all engines (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which texts, and in which order (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL, help="directory of another model than the default one")
    arguments = parser.parse_args()
    model = arguments.model
    print(f"seed {arguments.seed}")
    found, busy = machine(), busy_share()
    with tempfile.TemporaryDirectory(prefix="uptake-bench-") as name:
        folder = Path(name)
        texts = folder / "conversations.jsonl"
        texts.write_text("".join(json.dumps(entry) + "\n" for entry in chosen(arguments.texts, arguments.seed)))
        config = bert_graph.build(model, folder / "raw.onnx")
        fused = bert_graph.optimise(folder / "raw.onnx", folder / "f32.onnx", config)
        # Without VNNI the products of eight bits saturate, and ONNX Runtime's documentation asks for seven.
        reduced = not any("vnni" in name for name in found["instruction_sets"])
        bert_graph.quantise(folder / "raw.onnx", folder / "int8.onnx", reduced)

        ours = Ours(model, texts)
        inputs = ours.ask("inputs")
        tokens, first_segment = inputs["tokens"], inputs["first_segment"]
        lengths = [len(row) for row in tokens]
        arrival = list(range(len(tokens)))
        by_length = sorted(arrival, key=lengths.__getitem__)
        expected = np.array(ours.ask("logits")["logits"], np.float32)

        runs, same = {}, {}
        for order, request in (("arrival order", "arrival"), ("sorted by length", "sorted")):
            runs[f"uptake, packed, {order}"] = lambda request=request: ours.ask(f"forward {request} {BATCH_TOKENS}")
        runs[SMALL] = lambda: ours.ask(f"forward arrival {SMALL_BATCH_TOKENS}")
        peers = []
        for kind in ("f32", "int8"):
            peer = Peer(folder / f"{kind}.onnx", tokens, first_segment)
            for size, order, rows in [*((size, "arrival order", arrival) for size in BATCHES), (32, "sorted by length", by_length)]:
                label = f"ONNX Runtime {kind}, batches of {size}, {order}"
                feeds = peer.feeds(rows, size)
                peers.append(label)
                runs[label] = lambda peer=peer, feeds=feeds: peer.run(feeds)
            peer.run(peer.feeds(arrival, 32))
            same[f"ONNX Runtime {kind}"] = compared(model, expected, np.concatenate(peer.outputs))
        if not same["ONNX Runtime f32"]["largest_difference"] <= TOLERANCE:
            sys.exit(f"the engines compute different functions: {same['ONNX Runtime f32']}; nothing is compared")
        runs["text to tokens"] = lambda: ours.ask("encode")
        runs["uptake, text to probabilities"] = lambda: ours.ask("tag")

        took: dict[str, list[dict]] = collections.defaultdict(list)
        names = list(runs)
        for turn in range(arguments.rounds):
            # Each round begins with another engine, so that none is always first after the pause.
            for label in names[turn % len(names) :] + names[: turn % len(names)]:
                took[label].append(runs[label]())
            print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr)

        total = sum(lengths)
        rates = {label: best_and_median([total / one["processor"] for one in took[label]]) for label in names}
        encode, whole = rates.pop("text to tokens"), rates.pop("uptake, text to probabilities")
        heads_width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
        results = {
            "machine": found, "busy": busy, "profile": profile(), "profile_in_words": profile_in_words(), "seed": arguments.seed,
            "versions": {"onnxruntime": onnxruntime.__version__}, "fused": fused, "int8_reduced_range": reduced,
            "tagger": inputs["tagger"], "layers": layers, "inputs": len(tokens), "tokens": total, "tokens_mean": total / len(tokens),
            "tokens_shortest": min(lengths), "tokens_longest": max(lengths), "rounds": arguments.rounds,
            "padding_arrival": padded(lengths, arrival) / total, "padding_sorted": padded(lengths, by_length) / total,
            "rates": rates, "peers": peers, "same": same,
            "multiplications": {"per_token": layers * (4 * heads_width**2 + 2 * heads_width * inner)},
            "parts": {
                "whole_tokens_per_second": whole, "encode_tokens_per_second": encode, "encode_share": whole["best"] / encode["best"],
                "sampled": sampled(ours, 8, folder),
                "operators_f32": operators(folder / "f32.onnx", tokens, first_segment, arrival, folder),
                "operators_int8": operators(folder / "int8.onnx", tokens, first_segment, arrival, folder),
            },
        }
        ours.process.stdin.close()
        ours.process.wait()
    write("tagger", results, report(results))


def padded(lengths: list[int], order: list[int], size: int = 32) -> int:
    groups = (order[start : start + size] for start in range(0, len(order), size))
    return sum(len(group) * max(lengths[row] for row in group) for group in groups)


if __name__ == "__main__":
    main()
