"""`uptake consume --tag`: from a record to its signal on the topic, at several rates."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import kafka
from measure import binary, busy_share, machine, machine_in_words, number, profile, profile_in_words, table, write


def ours(*arguments) -> dict | None:
    said = subprocess.run([str(part) for part in (binary("uptake-bench"), *arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said) if said.strip() else None


def measure(bootstrap: str, folder: Path, rate: int, flush_age: str, arguments: argparse.Namespace) -> dict:
    """One rate: a consumer of its own on topics of its own, into a lake of its own."""
    name = f"rate-{rate}-{flush_age}"
    messages, signals = f"{name}.messages", f"{name}.signals"
    ours("signals-prepare", bootstrap, messages, signals, arguments.partitions)
    command = [binary("uptake"), "--lake", folder / name, "consume", "--brokers", bootstrap, "--group", name, "--tag",
               "--topic", f"messages={messages}", "--signals-topic", signals]
    environment = {**os.environ, "UPTAKE_SUBJECT_PEPPER": "a pepper for the benches alone", "UPTAKE_SIGNALS_FLUSH_AGE": flush_age}
    log = folder / f"{name}.log"
    with log.open("w") as said:
        consumer = subprocess.Popen([str(part) for part in command], env=environment, stderr=said, cwd=folder)
        try:
            found = ours("signals", bootstrap, messages, signals, rate, arguments.seconds, arguments.seed)
            consumer.send_signal(signal.SIGTERM)
            status = consumer.wait(timeout=120)
        finally:
            if consumer.poll() is None:
                consumer.kill()
                consumer.wait()
    if status != 0:
        sys.exit(f"uptake consume ended with {status} and said:\n{log.read_text()}")
    return {**found, "flush_age": flush_age}


def report(results: dict) -> str:
    def seconds(value: float | None) -> str:
        return "–" if value is None else number(value, 2)

    rows = [[row["flush_age"], number(row["rate"]), number(row["signals_per_second"], 1), number(row["signals"]), seconds(row["p50"]),
             seconds(row["p90"]), seconds(row["p99"]), seconds(row["max"]), seconds(row["last_signal_after"] - row["sent_in"])]
            for row in results["rows"]]
    return "\n".join([
        "# From a record to its signal", "",
        f"Written by `benches/run signals`. Processor: {machine_in_words(results['machine'])}. Build: {results['profile_in_words']}.",
        f"Messages of a sample log, sent at a fixed rate for {results['seconds']} s to a topic of {results['partitions']} partitions on Apache Kafka on the same "
        f"machine; {results['busy']:.0%} of the cores were in use by others when it began.", "",
        table(["`signals.flush_age`", "records/s sent", "signals/s", "signals", "p50, s", "p90, s", "p99, s", "longest, s", "last signal after the last record, s"], rows), "",
        "Seconds from when the record that completes a follow-up was due to be sent until its signal was read from the topic: Kafka twice, the wait for the flush, "
        "the commit, context, the tagger.", "",
    ])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benches/run signals", description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=[5, 20, 60, 120], help="records a second (default: %(default)s)")
    parser.add_argument("--flush-ages", nargs="+", default=["1s", "200ms"], help="values of signals.flush_age (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=20, help="seconds a rate (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=4, help="partitions of the topics (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample log (default: %(default)s)")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    found, busy = machine(), busy_share()
    rows = []
    with tempfile.TemporaryDirectory(prefix="uptake-bench-") as name, kafka.running() as bootstrap:
        for flush_age in arguments.flush_ages:
            for rate in arguments.rates:
                rows.append(measure(bootstrap, Path(name), rate, flush_age, arguments))
                print(json.dumps(rows[-1]), file=sys.stderr)
    results = {"machine": found, "busy": busy, "profile": profile(), "profile_in_words": profile_in_words(), "seconds": arguments.seconds,
               "partitions": arguments.partitions, "seed": arguments.seed, "rows": rows}
    write("signals", results, report(results))


if __name__ == "__main__":
    main()
