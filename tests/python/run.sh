#!/usr/bin/env bash
# Loads published snapshots with the readers that people use: two versions of `datasets`, pandas and DuckDB.
#
#   tests/python/run.sh SNAPSHOT...      each a directory below snapshots/<name>/<id>
#
# Virtual environments are kept in $UPTAKE_CACHE (default: target/python), so that only the first run fetches packages.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cache="${UPTAKE_CACHE:-$here/../../target/python}"

if [ "$#" -eq 0 ]; then
    echo "usage: $0 SNAPSHOT..." >&2
    exit 2
fi

# shellcheck source=environment.sh
. "$here/environment.sh"

for requirements in requirements-datasets-3.6 requirements-datasets-newest; do
    python="$(environment "$cache" "$here/$requirements.txt")"
    # A cache of its own, emptied first: `datasets` must read the files, not what it read the last time.
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    HF_HOME="$work" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 "$python" "$here/check_snapshot.py" "$@"
    rm -rf "$work"
done
