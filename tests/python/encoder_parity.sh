#!/usr/bin/env bash
# Records what transformers makes of tiny random encoders of each type that is served (weights, tokens, logits, gradients)
# below crates/tagger/fixtures/encoders. The tests of serving and of training compare with it.
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

"$python" "$here/encoder_parity.py" "$root/crates/tagger/fixtures/encoders"
