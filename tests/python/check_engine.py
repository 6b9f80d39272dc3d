"""Looks at what `uptake train policy --engine trl` left.

usage: check_engine.py BASE ADAPTER SNAPSHOT

The adapter must load in PEFT and change what the model says, and the run's report must name the snapshot and hold what the
trainer logged.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def check(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def main(base, adapter, snapshot):
    run = json.loads((Path(adapter) / "run.json").read_text())
    manifest = json.loads((Path(snapshot) / "manifest.json").read_text())
    check(run["data"]["id"] == manifest["id"], f"run.json names {run['data']}")
    check(run["engine"] == "trl" and run["steps"] == 3, f"run.json says {run['engine']}, {run['steps']} steps")
    check("loss" in run["last"], f"no loss among {sorted(run['last'])}")
    lines = [json.loads(line) for line in (Path(adapter) / "metrics.jsonl").read_text().splitlines()]
    check(len(lines) >= 3, f"{len(lines)} lines of metrics")
    config = json.loads((Path(adapter) / "adapter_config.json").read_text())
    check(config["base_model_name_or_path"] == "tiny", f"the adapter's base is {config['base_model_name_or_path']}")
    check(config["r"] == 4, f"the adapter's rank is {config['r']}")
    model = AutoModelForCausalLM.from_pretrained(base)
    tokens = torch.arange(1, 9).unsqueeze(0)
    with torch.no_grad():
        before = model(tokens).logits
        after = PeftModel.from_pretrained(model, adapter)(tokens).logits
    difference = (before - after).abs().max().item()
    check(difference > 0, "the adapter changes nothing")
    print(f"ok: {Path(adapter).name}: loss {run['first']['loss']:.4f}, then {run['last']['loss']:.4f}; logits differ by {difference:.2e}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
