"""A writable layer in an ext4 file system in one file, for machines that have nothing but network storage for it.

An overlay's upper directory on network storage is not supported (https://docs.kernel.org/filesystems/overlayfs.html); a file there is.
fuse2fs serves what is in it, without root. The file is reserved as a whole before it is used: fuse2fs writes behind its caller's back, so
that storage which is full would lose what a command was told is written (seen with 1.47.0). Full is then only what the file's own size
makes full, which commands are told.
"""

from __future__ import annotations

import errno
import os
import time

from gha_apptainer.domain.errors import EngineFailed, HostUnfit, disk_full, is_disk_full
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.node import files, process
from gha_apptainer.node.engine import kernel, layers
from gha_apptainer.node.host import trying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Tuple

_FILE, _DISK = "layer.ext4", "disk"
LEAST = 64 << 20
"""Bytes below which a file is no layer."""
_MAKE_LIMIT = 300.0  # seconds for mke2fs, which writes a few MB
_CHECK_LIMIT = 1800.0  # seconds for e2fsck after a kill; a clean file takes none
_SERVE_LIMIT = 60.0
_REPAIRED = (1, 2)
"""e2fsck(8): errors were corrected."""


def unfit(layer: str, host: HostFacts) -> str:
    """Why no image file can be used at `layer`; empty if it can."""
    if host.fuse_reason:
        return host.fuse_reason
    wanted = (("fuse2fs", host.fuse2fs), ("mke2fs", host.mke2fs), ("e2fsck", host.e2fsck), ("fuse-overlayfs", host.fuse_overlayfs))
    missing = [name for name, path in wanted if not path]
    if missing:
        return "an image file needs %s, not installed here" % " and ".join(missing)
    if "," in layer or "\\" in layer:  # fuse2fs puts the file's name into its mount options, where both mean something
        return "an image file's path can have no comma and no backslash: %s" % layer
    return ""


def size(wanted: int, free: int) -> int:
    """How big the file is to be in bytes: what the site says, but not more than half of what is free; 0 if that is too little."""
    found = min(wanted, free // 2) >> 20 << 20
    return found if found >= LEAST else 0


def kept(layer: str, host: HostFacts) -> bool:
    """Whether the container has such a file from an earlier start. Raises HostUnfit where it cannot be used any more."""
    path = os.path.join(layer, _FILE)
    if not os.path.exists(path):
        return False
    reason = unfit(layer, host)
    if reason:
        raise HostUnfit("the container's writable layer %s cannot be opened here" % path, cause=reason, remedy="start it where it began")
    return True


def make(layer: str, wanted: int, host: HostFacts, tell: Callable[[str], None]) -> str:
    """Make the file below the directory `layer`; gives the reason where there can be none, else the empty text.

    Raises DiskFull, naming the path, where not even the least size can be had, and ProcessFailed where mke2fs fails.
    """
    reason = unfit(layer, host)
    if reason:
        return reason
    if os.path.isdir(os.path.join(layer, "upper")):
        return "it began there"
    found = os.statvfs(layer)
    planned = size(wanted, found.f_bavail * found.f_frsize)
    if not planned:
        return "only %d MB are free at %s" % (found.f_bavail * found.f_frsize >> 20, layer)
    path = os.path.join(layer, _FILE)
    making = path + ".new"  # a file without this ending is whole
    try:
        got = _reserve(making, planned)
        if not got:
            return "its file system cannot reserve the space of an image file"
        process.run(mke2fs_argv(host, making, got), timeout=_MAKE_LIMIT).check()
        os.rename(making, path)
    finally:
        files.remove_tree(making)
    tell("the writable layer is in an image file of %d MB, %s: there is only network storage for it" % (got >> 20, path))
    return ""


def _reserve(path: str, wanted: int) -> int:
    """Reserve at most `wanted` bytes, half as many where a quota forbids so much; 0 where the file system cannot reserve."""
    size = wanted
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise (disk_full(error, path) if is_disk_full(error) else error) from error
    try:
        while True:
            try:
                kernel.allocate(handle, size)
                return size
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                    return 0
                if not is_disk_full(error):
                    raise EngineFailed("cannot reserve %s: %s" % (path, error)) from error
                os.ftruncate(handle, 0)
                size = size // 2 >> 20 << 20
                if size < LEAST:
                    raise disk_full(error, path) from error
    finally:
        os.close(handle)


def mke2fs_argv(host: HostFacts, path: str, size: int) -> Tuple[str, ...]:
    """ext4 without what fuse2fs has no use for: a journal, blocks kept for root; and without giving the reserved space back. mke2fs(8)."""
    options = "root_owner=0:0,lazy_itable_init=1,nodiscard"
    return (host.mke2fs, "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", options, path, "%dk" % (size >> 10))


def fuse2fs_argv(host: HostFacts, path: str, target: str) -> Tuple[str, ...]:
    """It mounts by itself, as root of our namespace: libfuse 2, which it may be built with, takes no mounted descriptor.

    The kernel checks permissions (default_permissions), so that fuse2fs need not (fakeroot).
    """
    return (host.fuse2fs, "-f", "-o", "fakeroot,allow_other,default_permissions", path, target)


def mount(layer: str, host: HostFacts, tell: Callable[[str], None]) -> Tuple[str, int]:
    """Mount the file, in the namespace that this process has made; gives the directory and the pid of who serves it.

    A file that was not closed, because its server was killed, is repaired first.
    """
    path, target = os.path.join(layer, _FILE), os.path.join(layer, _DISK)
    os.makedirs(target, mode=0o755, exist_ok=True)
    checked = process.run((host.e2fsck, "-p", path), timeout=_CHECK_LIMIT)
    if checked.code in _REPAIRED:
        tell("%s had not been closed; e2fsck repaired it" % path)
    elif checked.code:
        words = files.decode(checked.stdout + checked.stderr).strip()[-1500:]
        raise EngineFailed("the writable layer %s is damaged" % path, cause=words, remedy="remove the container, or try e2fsck by hand")
    heard, said = os.pipe2(os.O_CLOEXEC)
    try:
        pid = layers.start_helper(fuse2fs_argv(host, path, target), said=said)
        os.close(said)
        said = -1
        _await_mount(layer, target, pid, heard)
    finally:
        os.close(heard)  # what it says later is heard by nobody; it ignores SIGPIPE as we do
        if said >= 0:
            os.close(said)
    return target, pid


def _await_mount(layer: str, target: str, pid: int, heard: int) -> None:
    deadline = time.monotonic() + _SERVE_LIMIT
    outside = os.stat(layer).st_dev

    def look() -> None:
        if os.stat(target).st_dev == outside:
            raise OSError(errno.EAGAIN, "not mounted")

    while True:
        reason = trying.attempt(look, _SERVE_LIMIT)
        if not reason:
            return
        if process.reap(pid, 0.0) or time.monotonic() > deadline:
            os.set_blocking(heard, False)
            try:
                words = files.decode(os.read(heard, 4096)).strip()
            except BlockingIOError:
                words = ""
            raise EngineFailed("fuse2fs does not serve %s" % target, cause=words or reason)
        time.sleep(0.005)
