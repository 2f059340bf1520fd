"""gosu, su-exec and setpriv that really change the user where the kernel knows one id only.

Official images of databases start as root, give their data directory to their own user and go on as that user by one of these programs.
With one id the change can only be emulated, and then a server that refuses to run as root ends, and an entrypoint that starts itself again
does so for ever. So the programs are replaced, in the container's own layer: a short script looks the user up and hands
over to the switcher of `programs`, which makes a user namespace in which that user is the one id there is. All files that were ours are
now his, as they would be after `chown -R`. What the scripts do not understand, and every call by somebody who is not root, goes to the
program that was there.
"""

from __future__ import annotations

import os
import stat

from gha_apptainer.node import files
from gha_apptainer.node.engine import programs, rootpaths

FOLDER = "/.singularity.d/gha-apptainer"
"""Where the switcher and the original programs are in a container."""
TOOLS = ("gosu", "su-exec", "setpriv")
_PLACES = ("/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin")
_MARK = b"#!/bin/sh\n# by gha-apptainer: changes the user for good, see docs/explanation/networks.md\n"

_COMMON = r"""
original=FOLDER/TOOL
while read -r key real effective rest; do [ "$key" = Uid: ] && break; done </proc/self/status
[ "$effective" = 0 ] || exec "$original" "$@"
look_up() { # FILE NAME: sets name, id, group, home of the row with that name or number, or fails
    while IFS=: read -r name word id group gecos home shell; do
        [ "$name" = "$2" ] || [ "$id" = "$2" ] && return 0
    done <"$1"
    return 1
}
find_user() { # USER: sets uid, gid, place
    if look_up /etc/passwd "$1"; then
        uid=$id gid=$group place=$home
    else
        case $1 in '' | *[!0-9]*) echo "TOOL: unable to find user $1" >&2; exit 1 ;; esac
        uid=$1 gid=0 place=/
    fi
}
find_group() { # GROUP: sets gid
    if look_up /etc/group "$1"; then
        gid=$id
    else
        case $1 in '' | *[!0-9]*) echo "TOOL: unable to find group $1" >&2; exit 1 ;; esac
        gid=$1
    fi
}
switch() { # COMMAND...: as uid and gid
    [ "$uid" = 0 ] && exec "$@"
    exec FOLDER/switcher "$uid 0 1" "$gid 0 1" /bin/sh sh -c 'exec "$@"' TOOL "$@"
}
"""
_STEP_DOWN = r"""
case ${1-} in '' | -*) exec "$original" "$@" ;; esac
[ $# -gt 1 ] || exec "$original" "$@"
find_user "${1%%:*}"
case $1 in *:*) find_group "${1#*:}" ;; esac
shift
export HOME="$place"
switch "$@"
"""
_SETPRIV = r"""
uid= gid= count=$#
for word do
    [ -z "${wanted-}" ] || { set_to=$wanted; wanted=; eval "$set_to=\$word"; count=$((count - 1)); continue; }
    case $word in
        --reuid=*) reuid=${word#*=} ;;
        --regid=*) regid=${word#*=} ;;
        --reuid) wanted=reuid ;;
        --regid) wanted=regid ;;
        --inh-caps=* | --bounding-set=* | --groups=*) ;;
        --inh-caps | --bounding-set | --groups) wanted=dropped ;;
        --init-groups | --clear-groups | --keep-groups | --no-new-privs | --nnp) ;;
        --) count=$((count - 1)); break ;;
        -*) exec "$original" "$@" ;;
        *) break ;;
    esac
    count=$((count - 1))
done
[ -n "${reuid-}" ] && [ "$count" -gt 0 ] || exec "$original" "$@"
find_user "$reuid"
gid=0
[ -z "${regid-}" ] || find_group "$regid"
shift $(($# - count))
switch "$@"
"""


def place(merged: str, machine: str) -> None:
    """Replace the programs in a container's root that has them."""
    if not os.path.exists(rootpaths.resolve(merged, "/bin/sh")):
        return
    seen = set()
    ready = False
    for folder in _PLACES:
        outside = rootpaths.resolve(merged, folder)
        if outside in seen:
            continue
        seen.add(outside)
        for tool in TOOLS:
            path = os.path.join(outside, tool)
            try:
                found = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not ready:
                target = rootpaths.make_target(merged, FOLDER + "/switcher", directory=False)
                files.write_whole(target, programs.machine_programs(machine).switcher, mode=0o755)
                ready = True
            _replace(path, found, os.path.dirname(target), tool, "/" + os.path.relpath(outside, merged))


def _replace(path: str, found: os.stat_result, folder: str, tool: str, inside: str) -> None:
    kept = os.path.join(folder, tool)
    if stat.S_ISLNK(found.st_mode):  # to busybox, as a rule
        files.remove_tree(kept)
        os.symlink(os.path.normpath(os.path.join(inside, os.readlink(path))), kept)
    elif stat.S_ISREG(found.st_mode):
        data = files.read_whole(path)
        if data.startswith(_MARK):
            return  # it was replaced at an earlier start
        files.write_whole(kept, data, mode=0o755)
    else:
        return
    files.write_whole(path, script(tool), mode=0o755)


def script(tool: str) -> bytes:
    """What stands in a tool's place."""
    text = _COMMON + (_SETPRIV if tool == "setpriv" else _STEP_DOWN)
    return _MARK + text.replace("FOLDER", FOLDER).replace("TOOL", tool).lstrip("\n").encode()
