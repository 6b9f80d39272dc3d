#!/usr/bin/env bash
# One step of TRL's real trainers on published snapshots, with a tiny random model: do they take the data as it is?
#
#   tests/python/trainers.sh PAIRS UNPAIRED      directories below snapshots/preference_pairs/ and snapshots/unpaired/
#
# A stage of its own: torch brings 6 GB and a quarter of an hour. Kept in $UPTAKE_CACHE (default: target/python).
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${UPTAKE_CACHE:-$here/../../target/python}"

if [ "$#" -ne 2 ]; then
    echo "usage: $0 PAIRS UNPAIRED" >&2
    exit 2
fi

# shellcheck source=environment.sh
. "$here/environment.sh"

python="$(environment "$cache" "$here/requirements-trainers.txt")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
HF_HOME="$work" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 WANDB_DISABLED=true TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES= \
    "$python" "$here/train_step.py" "$work" "$@"
