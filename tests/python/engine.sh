#!/usr/bin/env bash
# Real TRL behind `uptake train policy --engine trl`: DPO, KTO and SFT on published snapshots with a tiny random model, registered,
# and loaded again by PEFT.
#
# A stage of its own: torch brings 6 GB and a quarter of an hour. Kept in $UPTAKE_CACHE (default: target/python).
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
cache="${UPTAKE_CACHE:-$root/target/python}"

# shellcheck source=environment.sh
. "$here/environment.sh"

python="$(environment "$cache" "$here/requirements-trainers.txt")"
built="${CARGO_TARGET_DIR:-$root/target}/debug"
if [ ! -x "$built/examples/gold_lake" ]; then
    (cd "$root" && cargo build --quiet --locked --workspace --all-targets)
fi
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export HF_HOME="$work/hub" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 WANDB_DISABLED=true TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=

"$built/examples/gold_lake" "$work/lake"
uptake() { "$built/uptake" --lake "$work/lake" "$@"; }
base="$root/crates/train/fixtures/policy/llama"
cd "$work"
for pair in dpo:preference_pairs kto:unpaired sft:supervised; do
    method="${pair%%:*}" table="${pair##*:}"
    uptake snapshot publish "$table" >"$work/published"
    snapshot="$(echo "$work/lake/snapshots/$table"/*)"
    uptake train policy --engine trl --python "$python" --method "$method" --data "$snapshot" --base "$base" --base-name tiny \
        --out "$work/$method" --max-steps 3 --batch 4 --accumulate 1 --lora-rank 4 --learning-rate 1e-3 --register "tiny-$method"
    "$python" "$here/check_engine.py" "$base" "$work/$method" "$snapshot"
done
uptake models list
