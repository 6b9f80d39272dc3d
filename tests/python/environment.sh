# Shared by the scripts beside it.

# environment CACHE REQUIREMENTS: prints the Python of a virtual environment with these packages, made when it is not there.
environment() {
    local cache="$1" requirements="$2" name directory
    name="$(basename "$requirements" .txt)-$(sha256sum "$requirements" | cut -c1-12)"
    directory="$cache/$name"
    # The mark is written last: an environment whose making was broken off is made anew.
    if [ ! -f "$directory/complete" ]; then
        rm -rf "$directory"
        mkdir -p "$cache"
        "${PYTHON:-python3}" -m venv "$directory" >&2
        "$directory/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
        touch "$directory/complete"
    fi
    echo "$directory/bin/python"
}
