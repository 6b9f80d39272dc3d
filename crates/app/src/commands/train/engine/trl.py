"""Trains a policy with TRL on a published snapshot: the ready engine behind `uptake train policy --engine trl`.

usage: trl.py OPTIONS.json

The options are those of `uptake train policy`, with the paths that the run was given. The adapter lands in `out` as PEFT
writes it, one JSON line per logged step in `out`/metrics.jsonl.
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch
import transformers
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

try:
    from trl import KTOConfig, KTOTrainer
except ImportError:
    from trl.experimental.kto import KTOConfig, KTOTrainer

TRAINERS = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer), "sft": (SFTConfig, SFTTrainer)}


class Metrics(TrainerCallback):
    """One line a logged step, flushed, so that whoever started this can follow."""

    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8")

    def on_log(self, arguments, state, control, logs=None, **_):
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        if numbers:
            self.file.write(json.dumps({"step": state.global_step, **numbers}) + "\n")
            self.file.flush()


def arguments_of(config, options, out):
    """What this version of TRL knows of the options; names come and go between versions."""
    wanted = {
        "output_dir": str(out / "trainer"),
        "num_train_epochs": options["epochs"],
        "max_steps": options["max_steps"] or -1,
        "per_device_train_batch_size": options["batch"],
        "gradient_accumulation_steps": options["accumulate"],
        "max_length": options["max_length"],
        "learning_rate": options["learning_rate"],
        "lr_scheduler_type": "cosine",
        "warmup_ratio": options["warm_up"],
        "max_grad_norm": options["clip"],
        "weight_decay": options["weight_decay"],
        "seed": options["seed"],
        "beta": options["beta"],
        "desirable_weight": options["desirable_weight"],
        "undesirable_weight": options["undesirable_weight"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    }
    known = {field.name for field in dataclasses.fields(config)}
    if int(transformers.__version__.split(".")[0]) >= 5:
        # A fraction of the steps goes by the name of the steps there.
        wanted["warmup_steps"] = wanted.pop("warmup_ratio")
    if options["method"] == "sft":
        wanted.pop("beta")
    return config(**{name: value for name, value in wanted.items() if name in known})


def main(path):
    options = json.loads(Path(path).read_text(encoding="utf-8"))
    out = Path(options["out"])
    config, trainer_of = TRAINERS[options["method"]]
    rows = load_dataset(options["data"])["train"]
    tokenizer = AutoTokenizer.from_pretrained(options["base"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    trainer = trainer_of(
        model=AutoModelForCausalLM.from_pretrained(options["base"]),
        args=arguments_of(config, options, out),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=options["lora_rank"],
            lora_alpha=options["lora_alpha"],
            target_modules=options["lora_modules"],
            task_type="CAUSAL_LM",
        ),
        callbacks=[Metrics(out / "metrics.jsonl")],
    )
    print(f"{len(rows)} rows, {len(trainer.train_dataset)} of them fit", flush=True)
    trainer.train()
    if options["base_name"]:
        trainer.model.peft_config["default"].base_model_name_or_path = options["base_name"]
    trainer.model.save_pretrained(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
