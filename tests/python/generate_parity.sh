#!/usr/bin/env bash
# Greedy answers next to those of transformers and PEFT, token by token.
#
#   tests/python/generate_parity.sh          records those of the tiny models below crates/train/fixtures/policy, which the Rust
#                                            tests compare with
#   tests/python/generate_parity.sh MODEL    then answers 22 prompts with a real model (a directory as Hugging Face lays it
#                                            out, such as SmolLM2-135M-Instruct), alone and with an adapter, and compares
#
# A stage of its own: torch brings 6 GB and a quarter of an hour. Kept in $UPTAKE_CACHE (default: target/python).
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
cache="${UPTAKE_CACHE:-$root/target/python}"

# shellcheck source=environment.sh
. "$here/environment.sh"

python="$(environment "$cache" "$here/requirements-trainers.txt")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export HF_HOME="$work/hub" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=

fixtures="$root/crates/train/fixtures/policy"
"$python" "$here/policy_base.py" "$fixtures"
"$python" "$here/generate_parity.py" record "$fixtures"

if [ "$#" -eq 0 ]; then
    exit 0
fi
model="$1"
uptake="${UPTAKE_BINARY:-${CARGO_TARGET_DIR:-$root/target}/debug/uptake}"
if [ ! -x "$uptake" ]; then
    (cd "$root" && cargo build --quiet --locked --package uptake-app --package uptake-tests)
fi
"$python" "$here/generate_parity.py" prompts "$work/prompts.jsonl"
"$python" "$here/generate_parity.py" adapter "$model" "$work/adapter"
"$uptake" generate --model "$model" "$work/prompts.jsonl" -o "$work/plain.jsonl" --max-new-tokens 64 --token-ids
"$python" "$here/generate_parity.py" compare "$model" "$work/plain.jsonl"
"$uptake" generate --model "$model" --adapter "$work/adapter" "$work/prompts.jsonl" -o "$work/adapted.jsonl" \
    --max-new-tokens 64 --token-ids --batch 8
"$python" "$here/generate_parity.py" compare "$model" "$work/adapted.jsonl" "$work/adapter"
if cmp -s "$work/plain.jsonl" "$work/adapted.jsonl"; then
    echo "FAILED: the adapter changes nothing" >&2
    exit 1
fi
