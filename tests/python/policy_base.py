"""Tiny decoders with random weights, as Hugging Face directories: what the tests of policy training start from.

usage: policy_base.py DIRECTORY

Writes DIRECTORY/{llama,qwen2,qwen3}. Needs nothing but Python's own library; the same bytes each time.
"""

import json
import random
import struct
import sys
from pathlib import Path

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nBe kind<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SHAPE = {"vocab_size": 260, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "eos_token_id": 2,
         "bos_token_id": 1, "pad_token_id": 0}
CONFIGS = {
    # The rotation stands where the newest transformers writes it, and is not the default.
    "llama": {"architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
              "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 3, "num_key_value_heads": 1, "tie_word_embeddings": False, "rope_theta": 500.0,
              "sliding_window": None, "use_sliding_window": False},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True,
              "rope_theta": 5000.0, "rope_scaling": None, "attention_bias": False, "use_sliding_window": False},
}


def byte_alphabet():
    """The printable characters that stand for the 256 bytes, as GPT-2 chose them."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {**{byte: chr(byte) for byte in own}, **{byte: chr(256 + at) for at, byte in enumerate(others)}}


def tokenizer():
    vocabulary = {token: at for at, token in enumerate(SPECIAL)}
    for byte, character in sorted(byte_alphabet().items()):
        vocabulary[character] = len(SPECIAL) + byte
    added = [
        {"id": at, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for at, token in enumerate(SPECIAL)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": []},
    }


def shapes(kind, config):
    width, inner, heads, keys = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    head = config.get("head_dim", width // heads)
    found = {"model.embed_tokens.weight": (SHAPE["vocab_size"], width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (SHAPE["vocab_size"], width)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        found[at + "input_layernorm.weight"] = found[at + "post_attention_layernorm.weight"] = (width,)
        for name, rows, columns in (
            ("self_attn.q_proj", heads * head, width), ("self_attn.k_proj", keys * head, width),
            ("self_attn.v_proj", keys * head, width), ("self_attn.o_proj", width, heads * head),
            ("mlp.gate_proj", inner, width), ("mlp.up_proj", inner, width), ("mlp.down_proj", width, inner),
        ):
            found[f"{at}{name}.weight"] = (rows, columns)
            if kind == "qwen2" and name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                found[f"{at}{name}.bias"] = (rows,)
        if kind == "qwen3":
            found[at + "self_attn.q_norm.weight"] = found[at + "self_attn.k_norm.weight"] = (head,)
    return found


def write_weights(path, found, seed):
    """safetensors in half precision."""
    draw = random.Random(seed)
    header, data = {}, bytearray()
    for name, shape in sorted(found.items()):
        count = 1
        for size in shape:
            count *= size
        centre, spread = (1.0, 0.2) if "norm" in name else (0.0, 0.25)
        start = len(data)
        data += struct.pack(f"<{count}e", *(draw.gauss(centre, spread) for _ in range(count)))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, len(data)]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def main(directory):
    def write(path, value):
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    for kind, config in CONFIGS.items():
        base = Path(directory) / kind
        base.mkdir(parents=True, exist_ok=True)
        write(base / "config.json", {"model_type": kind, **SHAPE, **config})
        (base / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False) + "\n")
        write(base / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[1], "eos_token": SPECIAL[2],
            "pad_token": SPECIAL[0], "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False,
        })
        write_weights(base / "model.safetensors", shapes(kind, config), kind)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
