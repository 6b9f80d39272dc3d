"""`uptake consume` into a lake on disk, between its two limits: librdkafka alone, and the tables alone."""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kafka
from measure import best_and_median, binary, busy_share, machine, machine_in_words, number, profile, profile_in_words, run_measured, table, write

TOPICS = {"messages": "chat.messages", "reactions": "chat.reactions", "completions": "gateway.completions"}
STORED = re.compile(r"(\d+) events and (\d+) dead letters stored in (\d+) flushes, (\d+) copies dropped, (\d+) tombstones")
CONSUME, EMPTY = "uptake consume", "uptake consume, nothing new"
DRAIN, STORE = "librdkafka alone, no sink", "decoding and tables alone, no Kafka"


def ours(*arguments) -> dict:
    command = [str(part) for part in (binary("uptake-bench"), *arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def consume(bootstrap: str, lake: Path, expected: int, folder: Path) -> dict:
    """One run of the real program up to the ends; refuses to go on when a record is missing."""
    log = folder / "consume.log"
    topics = [part for contract, topic in TOPICS.items() for part in ("--topic", f"{contract}={topic}")]
    command = [binary("uptake"), "--lake", lake, "consume", "--brokers", bootstrap, "--group", lake.name, "--until-end", *topics]
    with log.open("w") as said:
        found = run_measured(command, {"UPTAKE_SUBJECT_PEPPER": "a pepper for the benches alone"}, stderr=said, cwd=folder)
    counts = STORED.search(log.read_text())
    if not counts:
        sys.exit(f"uptake consume said:\n{log.read_text()}")
    events, letters, flushes, copies, tombstones = map(int, counts.groups())
    if events + letters + copies + tombstones != expected:
        sys.exit(f"{expected} records went in, {counts[0]} came out; uptake consume said:\n{log.read_text()}")
    return {**found, "events": events, "letters": letters, "flushes": flushes}


def report(results: dict) -> str:
    rows, log = [], results["log"]
    for name in (DRAIN, STORE, CONSUME):
        rate = results["rates"][name]
        rows.append([name, number(rate["wall"]["best"]), number(rate["wall"]["median"]), number(rate["processor"]["best"]),
                     number(rate["megabytes"], 1), f"{rate['wall']['best'] / results['rates'][DRAIN]['wall']['best']:.2f}",
                     f"{rate['processor']['best'] / results['rates'][STORE]['processor']['best']:.2f}"])
    return "\n".join([
        "# `uptake consume` between its limits", "",
        f"Written by `benches/run ingest`. Processor: {machine_in_words(results['machine'])}. Build: {results['profile_in_words']}; librdkafka is "
        "optimised in either.",
        f"A sample log of {number(log['records'])} records ({log['bytes'] / 1e6:.0f} MB, {log['bytes'] / log['records']:.0f} bytes each on average) in three topics of "
        f"{results['partitions']} partitions on Apache Kafka on the same machine; {results['rounds']} rounds in turn; {results['busy']:.0%} of the cores were in use by "
        "others when it began.", "",
        table(["", "records/s, best", "median", "records per second of processor time", "MB/s, best", "of librdkafka, by the clock", "of the tables, by processor time"], rows), "",
        f"A run that finds nothing new (start, joining the group, waiting for it to settle, leaving) takes {results['empty']['wall']:.1f} s by the clock and "
        f"{results['empty']['processor']:.1f} s of processor time at best; the row of `uptake consume` is what comes on top of that. With it: "
        f"{number(results['gross'])} records/s. Peak memory {number(results['peak_memory_mib'])} MiB, of which the settings allow 256 MiB for records.", "",
        "The broker runs on the same cores and is not counted in processor time, but slows the clock of all who read from it.",
    ])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benches/run ingest", description=__doc__)
    parser.add_argument("--conversations", type=int, default=12_000, help="conversations of the sample log (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=4, help="partitions of each topic (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample log (default: %(default)s)")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    found, busy = machine(), busy_share()
    took: dict[str, list[dict]] = {name: [] for name in (DRAIN, STORE, CONSUME, EMPTY)}
    with tempfile.TemporaryDirectory(prefix="uptake-bench-") as name, kafka.running() as bootstrap:
        folder = Path(name)
        log = ours("fill", bootstrap, arguments.partitions, arguments.conversations, arguments.seed)
        for turn in range(arguments.rounds):
            drained = ours("drain", bootstrap)
            if drained["records"] != log["records"]:
                sys.exit(f"librdkafka read {drained['records']} of {log['records']} records")
            took[DRAIN].append(drained["took"])
            lake = folder / f"store-{turn}"
            took[STORE].append(ours("store", lake, arguments.conversations, arguments.seed)["took"])
            shutil.rmtree(lake)
            lake = folder / f"consume-{turn}"
            took[CONSUME].append(consume(bootstrap, lake, log["records"], folder))
            took[EMPTY].append(consume(bootstrap, lake, 0, folder))
            shutil.rmtree(lake)
            print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr)
    empty = {clock: min(one[clock] for one in took[EMPTY]) for clock in ("wall", "processor")}
    rates = {}
    for label in (DRAIN, STORE, CONSUME):
        fixed = empty if label == CONSUME else {"wall": 0, "processor": 0}
        rates[label] = {clock: best_and_median([log["records"] / max(one[clock] - fixed[clock], 1e-3) for one in took[label]]) for clock in fixed}
        rates[label]["megabytes"] = rates[label]["wall"]["best"] * log["bytes"] / log["records"] / 1e6
    results = {
        "machine": found, "busy": busy, "profile": profile(), "profile_in_words": profile_in_words(), "seed": arguments.seed,
        "partitions": arguments.partitions, "rounds": arguments.rounds, "log": log, "took": took, "empty": empty, "rates": rates,
        "gross": max(log["records"] / one["wall"] for one in took[CONSUME]),
        "peak_memory_mib": max(one["peak_memory_mib"] for one in took[CONSUME]),
    }
    write("ingest", results, report(results))


if __name__ == "__main__":
    main()
