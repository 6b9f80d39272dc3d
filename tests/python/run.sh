#!/usr/bin/env bash
# Loads published snapshots with the readers that people use: two versions of `datasets`, pandas and DuckDB.
#
#   tests/python/run.sh [SNAPSHOT...]      each a directory below snapshots/<name>/<id>
#
# Without arguments the gold tables of `cargo run -p uptake-tests --example gold_lake` are published and loaded.
# Virtual environments are kept in $UPTAKE_CACHE (default: target/python), so that only the first run fetches packages.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
cache="${UPTAKE_CACHE:-$root/target/python}"

# shellcheck source=environment.sh
. "$here/environment.sh"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

snapshots=("$@")
if [ "${#snapshots[@]}" -eq 0 ]; then
    cd "$root"
    # `tests/run` has built both already; alone, this builds what it needs.
    if [ -z "${UPTAKE_BUILT:-}" ]; then
        cargo build --quiet --locked --package uptake-app --package uptake-tests --bins --examples
    fi
    built="${CARGO_TARGET_DIR:-target}/debug"
    "$built/examples/gold_lake" "$work/lake"
    uptake="$built/uptake"
    for table in preference_pairs unpaired love prompts supervised; do
        "$uptake" --lake "$work/lake" snapshot publish "$table" >"$work/published"
        snapshots+=("$(echo "$work/lake/snapshots/$table"/*)")
    done
fi

for requirements in requirements-datasets-3.6 requirements-datasets-newest; do
    python="$(environment "$cache" "$here/$requirements.txt")"
    # A cache of its own each time: `datasets` must read the files, not what it read the last time.
    HF_HOME="$(mktemp -d -p "$work")" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 \
        "$python" "$here/check_snapshot.py" "${snapshots[@]}"
done
