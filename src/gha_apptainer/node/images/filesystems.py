"""What kind of storage a path lies on, measured: an image's form follows it."""

from __future__ import annotations

import os

from gha_apptainer.domain.values import dataclass

LOCAL, MEMORY, NETWORK = "local", "memory", "network"

_MEMORY_TYPES = frozenset(("tmpfs", "ramfs", "rootfs"))
_NETWORK_TYPES = frozenset(
    (
        "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "smbfs", "panfs", "afs", "orangefs", "pvfs2", "glusterfs",
        "wekafs", "vastnfs", "9p", "virtiofs", "ocfs2", "gfs2", "cvmfs2", "quobyte",
    )
)  # fmt: skip
_LOCAL_FUSE = frozenset(("fuseblk", "fuse.fuse-overlayfs", "fuse.squashfuse", "fuse.squashfuse_ll", "fuse.bindfs"))


@dataclass(frozen=True)
class Space:
    """A place for files: its file system's type, nature (local, memory, network), and free bytes and inodes for us (-1: not told)."""

    path: str
    type: str
    nature: str
    free_bytes: int
    free_inodes: int


def measure(path: str) -> Space:
    """The storage on which `path` lies or would lie. An unknown FUSE type counts as network, the careful answer."""
    there = existing(path)
    kind = type_of(there, _mountinfo())
    found = os.statvfs(there)
    return Space(path, kind, nature_of(kind), found.f_bavail * found.f_frsize, found.f_favail if found.f_files else -1)


def existing(path: str) -> str:
    """The nearest directory above `path` that exists, links resolved."""
    there = os.path.realpath(path)
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    return there


def nature_of(kind: str) -> str:
    """local, memory or network for a file system's type."""
    if kind in _MEMORY_TYPES:
        return MEMORY
    if kind in _NETWORK_TYPES or (kind.startswith("fuse") and kind not in _LOCAL_FUSE):
        return NETWORK
    return LOCAL


def type_of(path: str, mountinfo: str) -> str:
    """The type of the file system mounted over `path` (absolute, without links) in a /proc/PID/mountinfo text."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, found = left.split(), right.split()
        if len(fields) < 5 or not found:
            continue
        point = fields[4]
        if "\\" in point:
            import re

            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), point)
        if (path == point or point == "/" or path.startswith(point + "/")) and len(point) >= len(best):
            best, kind = point, found[0]  # of equal points the last one lies on top
    return kind


def _mountinfo() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
        return handle.read()
