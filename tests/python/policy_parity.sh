#!/usr/bin/env bash
# Policy training next to TRL and PEFT on the same tiny weights and rows.
#
#   tests/python/policy_parity.sh            records what TRL makes of them below crates/train/fixtures/policy/expected, which
#                                            the Rust tests compare with; then trains with `uptake` and loads that with PEFT
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
export HF_HOME="$work/hub" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 WANDB_DISABLED=true TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=

fixtures="$root/crates/train/fixtures/policy"
"$python" "$here/policy_base.py" "$fixtures"
"$python" "$here/policy_parity.py" record "$fixtures"

uptake="${CARGO_TARGET_DIR:-$root/target}/debug/uptake"
if [ ! -x "$uptake" ]; then
    (cd "$root" && cargo build --quiet --locked --package uptake-app --package uptake-tests)
fi
"$python" -c 'import json, sys; [print(json.dumps(row)) for row in json.load(open(sys.argv[1]))]' "$fixtures/rows.json" >"$work/rows.jsonl"
for kind in llama qwen2 qwen3; do
    "$uptake" train policy --method dpo --data "$work/rows.jsonl" --base "$fixtures/$kind" --out "$work/$kind" \
        --max-length 96 --batch 2 --accumulate 2 --epochs 4 --learning-rate 1e-2 --merge >"$work/said"
    "$python" "$here/policy_parity.py" load "$work/$kind"
done
