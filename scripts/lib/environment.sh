# shellcheck shell=bash
# What the scripts share: where things are, how they speak, and the Python environment of a checkout.
# Sourced by scripts/{setup,run,test,check}; sets `root`, `venv`, `cache` and the functions below.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$root/.venv
umask 022
# a person's own Python settings must not steer ours
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV

say() { echo "${script:-scripts}: $*" >&2; }
die() { local code=$1; shift; say "$@"; exit "$code"; }

# The directory for everything that is made once and kept: never the system's, never the checkout's.
cache_directory() {
    local place=${XDG_CACHE_HOME:-}
    [[ $place == /* ]] || place=${HOME:+$HOME/.cache}
    [[ -n $place ]] || die 73 "HOME is not set, so there is no place to keep things: set HOME or XDG_CACHE_HOME to a directory of yours"
    mkdir -p "$place/gha-apptainer" 2>/dev/null && [[ -w $place/gha-apptainer ]] ||
        die 73 "cannot write below $place: set XDG_CACHE_HOME to a directory that you may write to"
    echo "$place/gha-apptainer"
}

digest() { cat "$@" | sha256sum | cut -c1-16; }

# Prints the first Python that is new enough and whole. Shims that only look like one are passed over.
find_python() {
    local name found
    for name in python3 python3.{11..19} /usr/bin/python3 /usr/bin/python3.{11..19} /usr/local/bin/python3; do
        found=$(command -v "$name" 2>/dev/null) || continue
        "$found" -I -c 'import sys; assert sys.version_info >= (3, 11); import ctypes, hashlib, ssl, zipfile, zlib; print(sys.executable)' \
            2>/dev/null && return 0
    done
    # uv keeps Pythons of its own and can fetch one
    if command -v uv >/dev/null; then
        say "no Python 3.11 or newer here, asking uv for one"
        uv python install --quiet 3.12 >&2 && uv python find 3.12 && return 0
    fi
    return 1
}

explain_python() {
    local system=
    # shellcheck disable=SC1091
    [[ -r /etc/os-release ]] && system=$(. /etc/os-release && echo "${ID:-} ${ID_LIKE:-}")
    case " $system " in
        *debian* | *ubuntu*) echo "install it with: sudo apt-get install python3 (Debian 12, Ubuntu 24.04) or python3.11 (Ubuntu 22.04)" ;;
        *rhel* | *fedora* | *centos*) echo "install it with: sudo dnf install python3.11" ;;
        *) echo "install it with the system's packages, or put uv (https://docs.astral.sh/uv/) on PATH, which brings one without root" ;;
    esac
}

# Makes an empty environment. Debian's python3 may lack ensurepip, and its minimal one even venv: an environment is only
# a file and two links, https://docs.python.org/3/library/venv.html#how-venvs-work
make_environment() {
    local python=$1 where=$2
    rm -rf "$where"
    "$python" -I -m venv --without-pip "$where" 2>/dev/null && return 0
    rm -rf "$where"
    mkdir -p "$where/bin"
    "$python" -I - "$where" <<'PY'
import os, sys
where = sys.argv[1]
real = os.path.realpath(sys.executable)
os.makedirs(os.path.join(where, "lib", "python%d.%d" % sys.version_info[:2], "site-packages"))
os.symlink("lib", os.path.join(where, "lib64"))
for name in ("python", "python3"):
    os.symlink(real, os.path.join(where, "bin", name))
with open(os.path.join(where, "pyvenv.cfg"), "w", encoding="utf-8") as file:
    file.write("home = %s\ninclude-system-site-packages = false\nversion = %d.%d.%d\n" % ((os.path.dirname(real),) + sys.version_info[:3]))
PY
}

# The pinned pip, run from its wheel with the environment's Python: `pip install …`
pip() {
    local wheel
    wheel=$("$venv/bin/python" -I "$root/scripts/lib/pinned_pip.py" "$root/locks/pip.txt" "$venv/share") ||
        die 78 "cannot fetch pip; set PIP_INDEX_URL to a package index that this machine reaches"
    "$venv/bin/python" -I "$wheel/pip" --disable-pip-version-check --no-input "$@"
}

# The checkout itself is the package: a path file and a command, so that nothing has to be built.
link_project() {
    local packages
    packages=$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "$root/src" >"$packages/gha_apptainer_checkout.pth"
    # not Python's path in the first line: it may hold blanks or be longer than the kernel takes
    cat >"$venv/bin/gha-apptainer.new" <<PY
#!/bin/sh
'''exec' "$venv/bin/python" -I "\$0" "\$@"
' '''
import sys
from gha_apptainer.cli import main
sys.exit(main())
PY
    chmod 755 "$venv/bin/gha-apptainer.new"
    mv "$venv/bin/gha-apptainer.new" "$venv/bin/gha-apptainer"
}

# environment run|dev: makes .venv hold what locks/run.txt (and locks/dev.txt) say. Nothing to do costs two digests.
environment() {
    local kind=$1 python run_key dev_key
    run_key=$(echo "$venv" | cat - "$root"/locks/{run,pip}.txt "$root/scripts/lib/environment.sh" | digest)
    dev_key=$(digest "$root/locks/dev.txt")
    if environment_holds "$kind" "$run_key" "$dev_key"; then return 0; fi
    [[ -w $root ]] || die 73 "cannot write to $root: clone the project to a directory of your own"
    if command -v flock >/dev/null; then  # two set-ups of one checkout wait for each other
        exec 9>"$root/.venv.lock"
        flock -w 900 9 || die 75 "another set-up of $root has not ended for 15 minutes"
        if environment_holds "$kind" "$run_key" "$dev_key"; then exec 9>&-; return 0; fi
    fi
    if ! environment_holds run "$run_key" "" || [[ -e $venv/.dev-key ]]; then
        python=$(find_python) || die 73 "Python 3.11 or newer is needed and was not found; $(explain_python)"
        say "making a Python environment in $venv with $python"
        make_environment "$python" "$venv" || die 78 "cannot make a Python environment in $venv"
        say "installing the Python packages of locks/run.txt into it"
        pip install --quiet --require-hashes --only-binary :all: -r "$root/locks/run.txt" || die 78 "pip could not install locks/run.txt"
        link_project
        echo "$run_key" >"$venv/.run-key"
    fi
    if [[ $kind == dev ]]; then
        say "installing the Python packages of locks/dev.txt into it"
        pip install --quiet --require-hashes --only-binary :all: -r "$root/locks/dev.txt" || die 78 "pip could not install locks/dev.txt"
        echo "$dev_key" >"$venv/.dev-key"
    fi
    if command -v flock >/dev/null; then exec 9>&-; fi
}

environment_holds() {
    [[ -x $venv/bin/gha-apptainer && -r $venv/.run-key && $(<"$venv/.run-key") == "$2" ]] &&
        "$venv/bin/python" -I -c '' 2>/dev/null &&
        { [[ $1 == run ]] || [[ -r $venv/.dev-key && $(<"$venv/.dev-key") == "$3" ]]; }
}
