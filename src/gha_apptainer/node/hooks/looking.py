"""What a container's files say of it, read without running anything of the image: a child of ours enters and reads."""

from __future__ import annotations

import os
import select
import signal
from typing import Dict, List, Sequence, Tuple

from gha_apptainer.domain.errors import EngineFailed, TimedOut
from gha_apptainer.domain.hook_nodes import Libc, libc_of
from gha_apptainer.node.engine import kernel
from gha_apptainer.node.engine.flat import JoinRecord
from gha_apptainer.node.engine.join import _enter as enter

_LIMIT = 60.0
_SIZE = 8 << 20
_BANNER = b"GNU C Library"
_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_ALPINE = "/etc/alpine-release"
_LIBRARIES = ("/lib64", "/usr/lib64", "/lib/%s-linux-gnu", "/usr/lib/%s-linux-gnu", "/lib", "/usr/lib")


def libc(record: JoinRecord) -> Libc:
    """The C library of a running container's image."""
    machine = record.machine
    loaders = ["/lib/ld-musl-%s.so.1" % machine, "/usr/lib/ld-musl-%s.so.1" % machine]
    libraries = [place % machine if "%" in place else place for place in _LIBRARIES]
    found = look(record, [*_OS_RELEASE, _ALPINE], loaders, [place + "/libc.so.6" for place in libraries])
    release = found.get(_OS_RELEASE[0]) or found.get(_OS_RELEASE[1]) or b""
    banners = [found[place + "/libc.so.6"] for place in libraries if found.get(place + "/libc.so.6")]
    return libc_of(
        release.decode("utf-8", "replace"),
        _ALPINE in found,
        any(one in found for one in loaders),
        banners[0].decode("utf-8", "replace") if banners else "",
    )


def look(
    record: JoinRecord, texts: Sequence[str], present: Sequence[str], banners: Sequence[str], identities: Sequence[str] = ()
) -> Dict[str, bytes]:
    """The first kilobytes of `texts`, nothing of `present`, of `banners` the line that glibc's library says of itself, of `identities`
    device and inode; by path.

    Files that are not there are left out. Raises EngineFailed where the container cannot be entered.
    """
    source, target = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _in_child(record, (texts, present, banners, identities), target)
    os.close(target)
    try:
        return _answers(source, [*texts, *present, *banners, *identities])
    finally:
        os.close(source)
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(child, 0)


def places(record: JoinRecord, paths: Sequence[str]) -> Dict[str, Tuple[int, int]]:
    """Device and inode of what lies at each path inside, as the kernel has it; what is not there is left out."""
    found = {}
    for path, data in look(record, (), (), (), paths).items():
        device, _, inode = data.partition(b":")
        found[path] = (int(device), int(inode))
    return found


def _answers(source: int, paths: Sequence[str]) -> Dict[str, bytes]:
    data = b""
    while True:
        if not select.select([source], [], [], _LIMIT)[0]:
            raise TimedOut("the image's files cannot be read within %d s" % _LIMIT)
        part = os.read(source, 1 << 16)
        if not part:
            break
        data += part
    if not data.endswith(b"!"):
        raise EngineFailed("the container cannot be looked into", cause=data.decode("utf-8", "replace")[-300:])
    found = {}
    at = 0
    while data[at : at + 1] == b"F":
        index, size = int(data[at + 1 : at + 5]), int(data[at + 5 : at + 13])
        found[paths[index]] = data[at + 13 : at + 13 + size]
        at += 13 + size
    return found


def _in_child(record: JoinRecord, wanted: Sequence[Sequence[str]], target: int) -> None:
    """Never returns. Nothing may be imported once we are inside."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        enter(record)
        index = 0
        for kind, paths in enumerate(wanted):
            for path in paths:
                _tell(target, index, kind, path)
                index += 1
        os.write(target, b"!")
    except BaseException as error:  # noqa: BLE001  # the only way out of a forked process is a report
        os.write(target, str(error).encode("utf-8", "replace")[:300])
    os._exit(0)


def _tell(target: int, index: int, kind: int, path: str) -> None:
    if kind == 3:
        try:
            found = os.lstat(path)
        except OSError:
            return
        data = b"%d:%d" % (found.st_dev, found.st_ino)
        os.write(target, b"F%04d%08d" % (index, len(data)) + data)
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if os.fstat(handle).st_mode & 0o170000 != 0o100000:
            return
        data = b""
        if kind == 0:
            data = os.read(handle, 1 << 14)
        elif kind == 2:
            parts: List[bytes] = []
            while sum(map(len, parts)) < _SIZE:
                part = os.read(handle, 1 << 20)
                if not part:
                    break
                parts.append(part)
            text = b"".join(parts)
            start = text.find(_BANNER)
            if start < 0:
                return
            data = text[start : start + 200].split(b"\n")[0]
        os.write(target, b"F%04d%08d" % (index, len(data)) + data)
    finally:
        os.close(handle)
