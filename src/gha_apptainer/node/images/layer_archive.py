"""A directory as one layer of an OCI image: a tar archive, gzip, the same bytes for the same files.

https://github.com/opencontainers/image-spec/blob/main/layer.md. Names in order; owners 0:0 unless the tree's are real ones; times to the
second, because compiled Python files name those of their sources; nothing that belongs to Apptainer.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from typing import IO, Callable, Dict, Tuple, cast

from gha_apptainer.domain.errors import ImageFailed, Refused, disk_full, is_disk_full
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.images.build_layers import walk

LEVEL = 3
"""Twice as fast as 6 and 5 % larger; part of what makes the bytes the same."""
SCRIPTS = ".singularity.d"
_SCRIPT_LINKS = (".exec", ".run", ".shell", ".test", "singularity", "environment")


@dataclass(frozen=True)
class LayerFile:
    """A layer as a file: digest and size of what is sent, and the digest of the archive in it (diff_id)."""

    path: str
    digest: str
    size: int
    diff_id: str


class _Hashed:
    """A stream that hashes and counts what passes."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target, self.found, self.size = target, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Pass it on."""
        self.found.update(data)
        self.size += len(data)
        self._target.write(data)
        return len(data)

    def flush(self) -> None:
        """For who asks."""
        self._target.flush()


def write_layer(rootfs: str, target: str, *, owners: bool, progress: Callable[[int], None]) -> LayerFile:
    """Write the layer. `owners` keeps the tree's owners. Raises Refused for names that a layer cannot hold, ImageFailed, DiskFull."""
    try:
        with open(target, "xb") as handle:
            packed = _Hashed(handle)
            with gzip.GzipFile("", "wb", LEVEL, cast("IO[bytes]", packed), mtime=0) as zipped:
                plain = _Hashed(cast("IO[bytes]", zipped))
                stream = cast("IO[bytes]", plain)
                with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as archive:
                    _add_all(archive, rootfs, owners=owners, progress=lambda: progress(plain.size))
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, target) from error
        raise ImageFailed(
            "cannot pack %s: %s: %s" % (rootfs, error.filename or target, error.strerror),
            cause="a file that only its owner may read" if isinstance(error, PermissionError) else "",
        ) from error
    return LayerFile(target, "sha256:" + packed.found.hexdigest(), packed.size, "sha256:" + plain.found.hexdigest())


def _add_all(archive: tarfile.TarFile, rootfs: str, *, owners: bool, progress: Callable[[], None]) -> None:
    seen: Dict[Tuple[int, int], str] = {}
    for name, path, state in walk(rootfs):
        if _foreign(name, path):
            continue
        base = os.path.basename(name)
        if base.startswith(".wh."):
            raise Refused("%s cannot be in an image: the name %s removes a file in a layer" % (name, base), remedy="rename it in the build")
        member = tarfile.TarInfo(name)
        member.mode, member.mtime = stat.S_IMODE(state.st_mode), int(state.st_mtime)
        if owners:
            member.uid, member.gid = state.st_uid, state.st_gid
        kind = stat.S_IFMT(state.st_mode)
        if kind == stat.S_IFREG:
            first = seen.setdefault((state.st_dev, state.st_ino), name) if state.st_nlink > 1 else name
            if first != name:
                member.type, member.linkname = tarfile.LNKTYPE, first
                archive.addfile(member)
                continue
            with open(path, "rb") as reader:
                member.size = os.fstat(reader.fileno()).st_size
                archive.addfile(member, reader)
            progress()
            continue
        if kind == stat.S_IFDIR:
            member.type = tarfile.DIRTYPE
        elif kind == stat.S_IFLNK:
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777
        elif kind == stat.S_IFIFO:
            member.type = tarfile.FIFOTYPE
        else:
            continue  # sockets and devices are made where a container runs
        archive.addfile(member)


def _foreign(name: str, path: str) -> bool:
    """Whether a file is Apptainer's own: its scripts, and the links to them."""
    if name == SCRIPTS or name.startswith(SCRIPTS + "/"):
        return True
    return name in _SCRIPT_LINKS and os.path.islink(path) and SCRIPTS in os.readlink(path)
