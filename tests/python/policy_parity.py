"""What TRL and PEFT make of tiny models and rows, written down for the tests of policy training; and PEFT on our adapters.

usage: policy_parity.py record FIXTURES        writes FIXTURES/expected
       policy_parity.py load ADAPTER           loads an adapter with its merged weights, compares and generates

FIXTURES holds the bases of policy_base.py and rows.json. Recorded of each trainer (SFT, DPO, KTO), with a fresh adapter and
rows in their order: the tokens that it made of the rows, loss of each micro-batch, what it logged, the gradients of the third
step, the adapter after the last one, and logits of the merged model.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import datasets
import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

try:
    from trl import KTOConfig, KTOTrainer
except ImportError:
    from trl.experimental.kto import KTOConfig, KTOTrainer

LIMIT = 96
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RECORDED_STEP = 2  # counted from 0: by then both factors have moved


def message(role, content):
    return [{"role": role, "content": content}]


def base_of(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")


def adapted(directory):
    torch.manual_seed(17)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=MODULES, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    return get_peft_model(base_of(directory), config)


def state(model):
    return {name: tensor.detach().clone().float().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}


class Recorder(TrainerCallback):
    """Gradients as the optimiser gets them."""

    def __init__(self):
        self.gradients = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if state.global_step == RECORDED_STEP:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    self.gradients[name.replace(".default", "")] = parameter.grad.detach().clone().float()


def recording(trainer):
    """The trainer with rows in their order, and the loss of each micro-batch kept."""

    class Recording(trainer):
        def _get_train_sampler(self, *_, **__):
            return SequentialSampler(self.train_dataset)

        def compute_loss(self, *arguments, **named):
            result = super().compute_loss(*arguments, **named)
            self.micro_losses.append(float((result[0] if isinstance(result, tuple) else result).detach()))
            return result

    Recording.micro_losses = []
    return Recording


def arguments(config, work, **more):
    return config(
        output_dir=work, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-2,
        lr_scheduler_type="cosine", warmup_steps=1, max_grad_norm=1.0, weight_decay=0.0, max_length=LIMIT, report_to=[],
        disable_tqdm=True, save_strategy="no", logging_steps=1, use_cpu=True, bf16=False, gradient_checkpointing=False, seed=17,
        dataset_num_proc=1, **more,
    )


def record(name, trainer, config, rows, base, expected, **more):
    model = adapted(base)
    start = state(model)
    recorder = Recorder()
    tokenizer = AutoTokenizer.from_pretrained(base)
    with tempfile.TemporaryDirectory() as work:
        run = recording(trainer)(
            model=model, args=arguments(config, work, **more), train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer, callbacks=[recorder],
        )
        run.train()
    columns = [column for column in run.train_dataset.column_names if column.endswith(("ids", "mask", "label", "labels"))]
    prepared = [{column: row[column] for column in columns} for row in run.train_dataset]
    log = [entry for entry in run.state.log_history if "loss" in entry or "rewards/chosen" in entry]
    (expected / f"{name}.json").write_text(
        json.dumps({"prepared": prepared, "micro_losses": run.micro_losses, "log": log}, ensure_ascii=False) + "\n"
    )
    end = state(run.model)
    probe = torch.tensor([probe_of(tokenizer)])
    with torch.no_grad():
        merged = run.accelerator.unwrap_model(run.model).merge_and_unload()(probe).logits[0]
    tensors = {f"start.{key}": value for key, value in start.items()}
    tensors |= {f"end.{key}": value for key, value in end.items()}
    tensors |= {f"gradient.{key}": value for key, value in recorder.gradients.items()}
    save_file(tensors | {"merged_logits": merged.float().contiguous()}, expected / f"{name}.safetensors")
    print(f"ok: {name}: {len(prepared)} rows, losses {run.micro_losses[0]:.4f} to {run.micro_losses[-1]:.4f}, columns {columns}")


def probe_of(tokenizer):
    return tokenizer("Hello <|im_end|>, tea? ☕")["input_ids"]


def record_all(fixtures):
    expected = fixtures / "expected"
    expected.mkdir(exist_ok=True)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl, peft, datasets)}
    logits = {}
    for kind in ("llama", "qwen2", "qwen3"):
        tokenizer = AutoTokenizer.from_pretrained(fixtures / kind)
        with torch.no_grad():
            logits[kind] = base_of(fixtures / kind)(torch.tensor([probe_of(tokenizer)])).logits[0].contiguous()
    save_file(logits, expected / "logits.safetensors")
    (expected / "versions.json").write_text(json.dumps({**versions, "probe": probe_of(tokenizer)}, indent=1) + "\n")

    rows = json.loads((fixtures / "rows.json").read_text())
    pairs = [
        {"prompt": row["prompt"], **{side: message("assistant", row[side]) for side in ("chosen", "rejected")}} for row in rows
    ]
    supervised = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs]
    unpaired = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs for side in ("chosen", "rejected")
    ]
    base = fixtures / "llama"
    # Four steps each: more would compare how rounding grows, since Adam moves by the sign of a gradient that is near 0.
    record("sft", SFTTrainer, SFTConfig, supervised, base, expected, num_train_epochs=2, packing=False, completion_only_loss=True)
    record("dpo", DPOTrainer, DPOConfig, pairs, base, expected, num_train_epochs=2, beta=0.1)
    record("kto", KTOTrainer, KTOConfig, unpaired, base, expected, num_train_epochs=1, beta=0.1)


def load(adapter):
    """PEFT's merge of the adapter is the merge that lies beside it."""
    merged = AutoModelForCausalLM.from_pretrained(adapter / "merged", dtype=torch.float32)
    config = json.loads((adapter / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(adapter / "merged")
    model = PeftModel.from_pretrained(base, adapter)
    chat = tokenizer.apply_chat_template(
        message("user", "Hello"), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        plain = base_of(config["base_model_name_or_path"])(**chat).logits
        ours, theirs = merged(**chat).logits, model(**chat).logits
        answer = model.generate(**chat, max_new_tokens=16, do_sample=False)
    changed, difference = float((theirs - plain).abs().max()), float((ours - theirs).abs().max())
    # The merged weights are stored in half precision.
    if not (changed > 1e-3 and difference < 0.02 * max(1.0, float(theirs.abs().max())) and math.isfinite(difference)):
        raise SystemExit(f"FAILED: the adapter changes logits by {changed}, merged weights differ by {difference}")
    text = tokenizer.decode(answer[0, chat["input_ids"].shape[1]:], skip_special_tokens=True)
    print(f"ok: peft {peft.__version__} loads the adapter; logits move by {changed:.4f}, merged differ by {difference:.5f}: {text!r}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "load"):
        raise SystemExit(__doc__)
    {"record": record_all, "load": load}[sys.argv[1]](Path(sys.argv[2]))
