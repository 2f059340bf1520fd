# shellcheck shell=bash
# The unit tests of domain and node on Python 3.9: the one on PATH, else Debian bullseye's in a container of its packages.
# Needs environment.sh and an environment with the pinned pip.
# shellcheck source=environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# Prints a directory with the packages of locks/py39.txt, made once per lock.
python39_packages() {
    local place
    place=$(cache_directory)/py39-$(digest "$root/locks/py39.txt")
    if [[ ! -d $place ]]; then
        say "installing the Python packages of locks/py39.txt into $place"
        rm -rf "$place.$$"
        pip install --quiet --require-hashes --no-deps --only-binary :all: --python-version 3.9 --implementation py --abi none --platform any \
            --target "$place.$$" -r "$root/locks/py39.txt" >&2 || die 78 "pip could not install locks/py39.txt"
        mv -T "$place.$$" "$place" 2>/dev/null || rm -rf "$place.$$"  # another run was faster
    fi
    echo "$place"
}

python39_local() {
    local name found
    for name in ${GHA_PYTHON39:-} python3.9 python3 /usr/bin/python3.9 /usr/bin/python3; do
        found=$(command -v "$name" 2>/dev/null) || continue
        "$found" -I -c 'import sys; assert sys.version_info[:2] == (3, 9); import ctypes; print(sys.executable)' 2>/dev/null && return 0
    done
    return 1
}

# python39_pytest ARGUMENTS: runs pytest from the checkout on Python 3.9. Never skipped: no 3.9 at all is a failure.
python39_pytest() {
    local packages python image apptainer counts
    packages=$(python39_packages) || return
    if [[ -z ${GHA_PYTHON39_IMAGE:-} ]] && python=$(python39_local); then
        (cd "$root" && env PYTHONPATH="$packages" "$python" -s -m pytest -p no:cacheprovider "$@")
        return
    fi
    # hosts without a Debian archive take it from the registry
    image=$("$venv/bin/python" -I -S "$root/src" provision --image python39) || image=docker://docker.io/library/python:3.9-slim
    apptainer=${GHA_APPTAINER:-$("$venv/bin/python" -I -S "$root/src" provision)} || return
    counts=$(dirname "$GHA_TEST_COUNTS")
    # plain Apptainer: this must not depend on the code that it tests
    "$apptainer" -s exec --userns --contain --cleanenv --ipc --pid --no-home --writable-tmpfs --no-mount hostfs,bind-paths \
        --bind "$root:$root:ro" --bind "$packages:$packages:ro" --bind "$counts:$counts" --cwd "$root" "$image" \
        env PYTHONPATH="$packages" PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis \
        GHA_TEST_COUNTS="$GHA_TEST_COUNTS" CI="${CI:-}" HOME=/tmp PATH=/usr/local/bin:/usr/bin:/bin \
        python3.9 -s -m pytest -p no:cacheprovider "$@"
}
