"""One step of TRL's DPO, KTO and reward trainers on published snapshots, with a tiny random model.

usage: train_step.py WORK PAIRS UNPAIRED

The question is not whether the model learns, but whether the trainers take the files as they are: every row that fits the
length comes through, the answers land where they belong (decoded and compared), the loss is finite, weights move.
"""

import copy
import json
import math
import sys
from pathlib import Path

import datasets
import torch
import transformers
import trl
from datasets import load_dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

try:
    from trl import KTOConfig, KTOTrainer
except ImportError:
    from trl.experimental.kto import KTOConfig, KTOTrainer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

MAX_LENGTH = 1024
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def check(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def make_tokenizer(rows):
    """A byte-level tokenizer learnt from the rows: any text survives a round trip."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    texts = (message["content"] for row in rows for message in row["prompt"])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>", bos_token="<|im_start|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def config_of(tokenizer, **more):
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


def arguments_of(config, work, name, **more):
    return config(
        output_dir=str(Path(work) / name),
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        max_length=MAX_LENGTH,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        seed=17,
        dataset_num_proc=1,
        **more,
    )


def step(name, trainer, rows):
    """Trains one step; all rows have come through the trainer's own preparation."""
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    prepared = trainer.train_dataset
    check(len(prepared) == rows, f"{name}: {len(prepared)} of {rows} rows came through")
    result = trainer.train()
    check(math.isfinite(result.training_loss), f"{name}: loss is {result.training_loss}")
    after = trainer.model.state_dict()
    moved = sum(not torch.equal(value, after[key]) for key, value in before.items())
    check(moved > 0, f"{name}: no weight moved")
    print(f"ok: {name}: {rows} rows, loss {result.training_loss:.4f}, {moved} of {len(before)} weights moved")
    return prepared


def check_answers(name, prepared, rows, tokenizer, columns):
    """What the trainer made of each row ends in the answer of that row."""
    for candidates, answer in columns:
        column = next((column for column in candidates if column in prepared.column_names), None)
        check(column, f"{name}: none of {candidates} among {prepared.column_names}")
        for at in range(min(len(rows), 50)):
            text = tokenizer.decode([token for token in prepared[at][column] if token >= 0], skip_special_tokens=True)
            content = rows[at][answer][0]["content"]
            check(text.strip().endswith(content.strip()), f"{name}: row {at}: {column} is {text!r}, not {content!r}")


def fitting(rows, tokenizer, answers):
    """Rows that the trainers do not cut: what they drop is reported by the snapshot, not tested here."""

    def fits(row):
        longest = max(
            len(tokenizer(tokenizer.apply_chat_template(row["prompt"] + row[answer], tokenize=False))["input_ids"])
            for answer in answers
        )
        return longest <= MAX_LENGTH

    kept = rows.filter(fits)
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} of {len(rows)} rows are longer than {MAX_LENGTH} tokens of this tokenizer")
    return kept


def main(work, pairs_directory, unpaired_directory):
    versions = {"torch": torch, "transformers": transformers, "trl": trl, "datasets": datasets}
    print(", ".join(f"{name} {module.__version__}" for name, module in versions.items()))
    datasets.disable_progress_bars()
    torch.manual_seed(17)
    pairs = load_dataset(pairs_directory)["train"]
    unpaired = load_dataset(unpaired_directory)["train"]
    for directory, rows in ((pairs_directory, pairs), (unpaired_directory, unpaired)):
        manifest = json.loads((Path(directory) / "manifest.json").read_text())
        check(len(rows) == manifest["rows"]["train"], f"{directory}: {len(rows)} rows")
    tokenizer = make_tokenizer(pairs)
    pairs = fitting(pairs, tokenizer, ["chosen", "rejected"])
    unpaired = fitting(unpaired, tokenizer, ["completion"])

    model = LlamaForCausalLM(config_of(tokenizer))
    trainer = DPOTrainer(
        model=model,
        ref_model=copy.deepcopy(model),
        args=arguments_of(DPOConfig, work, "dpo"),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    prepared = step("DPO", trainer, len(pairs))
    check_answers(
        "DPO", prepared, pairs, tokenizer,
        [(["chosen_ids", "chosen_input_ids"], "chosen"), (["rejected_ids", "rejected_input_ids"], "rejected")],
    )

    trainer = RewardTrainer(
        model=LlamaForSequenceClassification(config_of(tokenizer, num_labels=1)),
        args=arguments_of(RewardConfig, work, "reward"),
        train_dataset=pairs,
        processing_class=tokenizer,
    )
    prepared = step("reward", trainer, len(pairs))
    check_answers(
        "reward", prepared, pairs, tokenizer,
        [(["chosen_ids", "chosen_input_ids", "input_ids_chosen"], "chosen"),
         (["rejected_ids", "rejected_input_ids", "input_ids_rejected"], "rejected")],
    )

    model = LlamaForCausalLM(config_of(tokenizer))
    trainer = KTOTrainer(
        model=model,
        ref_model=copy.deepcopy(model),
        args=arguments_of(KTOConfig, work, "kto"),
        train_dataset=unpaired,
        processing_class=tokenizer,
    )
    prepared = step("KTO", trainer, len(unpaired))
    check_answers("KTO", prepared, unpaired, tokenizer, [(["completion_ids", "answer_input_ids", "completion_input_ids"], "completion")])
    # Liked and disliked rows came through as what they are.
    check([bool(label) for label in prepared["label"]] == list(unpaired["label"]), "KTO: labels changed")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
