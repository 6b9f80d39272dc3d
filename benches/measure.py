"""What the benches share: the machine in words, processes with their cost, rounds, tables."""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(os.environ.get("UPTAKE_BENCH_RESULTS", ROOT / "benches" / "results"))
# Of all that a processor can, what matrix products and text decide by.
INSTRUCTION_SETS = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "sve")

# A bench that is told to stop leaves no server and no folder behind.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))


def machine() -> dict:
    """The processor and what it can; nothing that names the machine."""
    text = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "processor": fields.get("model name", platform.machine()),
        "family": f"{fields.get('cpu family', '?')}/{fields.get('model', '?')}",
        "cores": os.cpu_count(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
    }


def machine_in_words(found: dict) -> str:
    sets = ", ".join(found["instruction_sets"])
    return f"{found['processor']} (family/model {found['family']}), {found['cores']} cores, {sets}"


def profile() -> str:
    """The build profile that is measured."""
    return os.environ["UPTAKE_BENCH_PROFILE"]


def profile_in_words() -> str:
    if profile() == "release":
        return "release"
    return "development (of our code `model` and `tagger`, of others' the tensor, token and compression crates are optimised; the rest is not)"


def binary(name: str) -> Path:
    return Path(os.environ["UPTAKE_BENCH_BINARIES"]) / name


def busy_share(seconds: float = 1.0) -> float:
    """Which share of the cores others use right now."""

    def ticks() -> tuple[int, int]:
        values = [int(value) for value in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return sum(values[:8]), values[3] + values[4]

    (all_before, idle_before), _ = ticks(), time.sleep(seconds)
    all_after, idle_after = ticks()
    return 1 - (idle_after - idle_before) / max(all_after - all_before, 1)


def run_measured(command: list, environment: dict | None = None, **options) -> dict:
    """Runs a process to its end: seconds by the clock, of processor time, and its largest resident memory."""
    begun = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], env={**os.environ, **(environment or {})}, **options)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command[0]} {command[1]} ended with {process.returncode}")
    # Linux counts `ru_maxrss` in KiB; it is what /proc calls VmHWM.
    return {"wall": wall, "processor": usage.ru_utime + usage.ru_stime, "peak_memory_mib": usage.ru_maxrss / 1024}


def best_and_median(values: list[float]) -> dict:
    return {"best": max(values), "median": statistics.median(values), "rounds": values}


def table(header: list[str], rows: list[list]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def write(name: str, results: dict, text: str) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(text.rstrip() + "\n")
    print(text)
