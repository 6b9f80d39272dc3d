"""Tiny random encoders, and what transformers computes with them.

usage: encoder_parity.py DIRECTORY

Writes DIRECTORY/{bert,roberta,xlm-roberta,modernbert}: config.json and model.safetensors as transformers saves a model for masked tokens
(so the encoder's weights have their prefix, and others stand beside them) with a head of 20 outputs added, tokenizer.json, and
expected.json: rows of tokens, the logits of that head on the first state beside the mean of all, the gradients' norms of half
the sum of their squares, and how transformers' own tokenizer takes some texts.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

OUTPUTS = 20
WIDTH = 24
SHAPE = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "hidden_act": "gelu",
    "initializer_range": 0.3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}
LENGTHS = [1, 5, 64, 13, 40, 2]
TEXTS = ["thanks, it worked!", "no  that's wrong", "É ☕ 写", "<s> x </s>"]


def byte_level(special=("<s>", "<pad>", "</s>", "<unk>"), reserved=()):
    """RoBERTa's kind: pieces of bytes, special tokens before them."""
    vocabulary = {token: at for at, token in enumerate([*special, *reserved])}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    merges = [("t", "h"), ("Ġ", "t"), ("i", "t"), ("Ġ", "it"), ("th", "a"), ("n", "k"), ("tha", "nk")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def unigram():
    """XLM-R's kind: likely pieces of text, words marked by what stands before them."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁thank", -5.0), ("s", -4.0)]
    pieces += [("▁it", -5.0), ("ed", -5.5), ("work", -6.0)]
    pieces += [(letter, -7.0 - at / 10) for at, letter in enumerate("abcdefghijklmnopqrtuvwxyz,.!'<>/")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer


def word_pieces():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "thanks", "it", "worked", "no", "that", "wrong", "'", "s", ",", "!", "x", "e"]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


def models_of_all_types():
    bert, roberta, xlm = word_pieces(), byte_level(), unigram()
    yield "bert", bert, transformers.BertForMaskedLM(transformers.BertConfig(
        vocab_size=bert.get_vocab_size(), max_position_embeddings=64, **SHAPE)), 0
    yield "roberta", roberta, transformers.RobertaForMaskedLM(transformers.RobertaConfig(
        vocab_size=roberta.get_vocab_size(), max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, **SHAPE)), 1
    yield "xlm-roberta", xlm, transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(
        vocab_size=xlm.get_vocab_size(), max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, **SHAPE)), 1
    modern = byte_level(("[PAD]", "[UNK]", "[CLS]", "[SEP]"), [f"[unused{number}]" for number in range(1, 21)])
    shape = {key: value for key, value in SHAPE.items() if key in ("hidden_size", "num_attention_heads", "intermediate_size")}
    # Eight tokens wide: narrower than the rows, so that what it hides is seen.
    yield "modernbert", modern, transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(
        vocab_size=modern.get_vocab_size(), max_position_embeddings=64, num_hidden_layers=4, local_attention=8,
        global_rope_theta=2000.0, local_rope_theta=100.0, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
        sep_token_id=3, initializer_range=0.3, attn_implementation="eager", **shape)), 0


def logits_of(model, rows, pad, head):
    """All rows in one padded batch, as transformers takes them."""
    longest = max(len(row["tokens"]) for row in rows)
    tokens = torch.full((len(rows), longest), pad)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    segments = torch.zeros(len(rows), longest, dtype=torch.long)
    for at, row in enumerate(rows):
        count = len(row["tokens"])
        tokens[at, :count] = torch.tensor(row["tokens"])
        mask[at, :count] = 1
        if getattr(model.config, "type_vocab_size", 1) > 1:
            segments[at, row["first_segment"]:count] = 1
    more = {} if model.config.model_type == "modernbert" else {"token_type_ids": segments}
    state = model.base_model(input_ids=tokens, attention_mask=mask, **more).last_hidden_state
    mean = (state * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    weight, bias = head
    return torch.cat([state[:, 0], mean], 1) @ weight.T + bias


def record(directory, name, tokenizer, model, pad):
    to = directory / name
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    model.eval()
    # Fresh biases and gains are all alike: a mix-up of them would not be seen.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    head = (torch.nn.Parameter(torch.randn(OUTPUTS, 2 * WIDTH) * 0.3), torch.nn.Parameter(torch.randn(OUTPUTS) * 0.3))
    vocabulary = model.config.vocab_size
    usable = [token for token in range(vocabulary) if token != pad]
    rows = []
    for length in LENGTHS:
        drawn = torch.randint(len(usable), (length,)).tolist()
        rows.append({"tokens": [usable[at] for at in drawn], "first_segment": (length + 1) // 2})
    logits = logits_of(model, rows, pad, head)
    (logits.square().sum() / 2).backward()
    prefix = model.base_model_prefix + "."
    norms = {
        parameter_name.removeprefix(prefix): parameter.grad.norm().item()
        for parameter_name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter_name.startswith(prefix) and parameter.grad is not None
    }
    norms |= {"classifier.weight": head[0].grad.norm().item(), "classifier.bias": head[1].grad.norm().item()}
    model.save_pretrained(to)
    (to / "generation_config.json").unlink(missing_ok=True)
    weights = load_file(to / "model.safetensors")
    weights |= {"classifier.weight": head[0].detach(), "classifier.bias": head[1].detach()}
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(to / "tokenizer.json"))
    # As the tagger takes texts: what they spell is never a special token.
    tokenizer.encode_special_tokens = True
    texts = [{"text": text, "tokens": tokenizer.encode(text, add_special_tokens=False).ids} for text in TEXTS]
    expected = {
        "transformers": transformers.__version__, "torch": torch.__version__, "rows": rows,
        "logits": logits.detach().tolist(), "gradient_norms": norms, "texts": texts,
    }
    (to / "expected.json").write_text(json.dumps(expected) + "\n")


def main():
    directory = Path(sys.argv[1])
    torch.manual_seed(7)
    for name, tokenizer, model, pad in models_of_all_types():
        record(directory, name, tokenizer, model, pad)
    for path in sorted(directory.rglob("*.*")):
        print(path.relative_to(directory), path.stat().st_size)


main()
