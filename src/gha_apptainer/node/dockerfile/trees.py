"""The files of a stage while it is built: an image's directory with saved layers over it; and one directory made of them in the end."""

from __future__ import annotations

import os
import stat
from typing import List, Tuple

from gha_apptainer.domain.images import Digest, Image, OciConfig
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import files
from gha_apptainer.node.images.build_layers import StoredLayer, opaque, walk, whiteout

_LIMIT = 3600.0
_SCRIPTS = ".singularity.d"
_SCRIPT_LINKS = (".exec", ".run", ".shell", ".test", "singularity", "environment")


@dataclass(frozen=True)
class Tree:
    """The files of a stage. `base` is a directory that nobody changes, `layers` lie over it, the uppermost first.

    `key` is the digest of all that led here, `root` that of the base alone; `image` is what the base came from, for its hold in the store.
    """

    base: str
    key: str
    root: str
    image: Image
    layers: Tuple[StoredLayer, ...] = ()


def bare_image(rootfs: str) -> Image:
    """A directory of ours as an image without a name."""
    return Image("", Digest(), OciConfig(), rootfs, "sandbox", "build")


def flatten(base: str, layers: Tuple[str, ...], target: str, *, link: bool) -> None:
    """One tree of a base and its layers (the uppermost first), in a new directory.

    Files are hard links to those of the layers and, with `link`, of the base: nobody ever writes to either, containers work on an
    overlay. Apptainer's own scripts in the base are left out: they set an environment that is not this image's.
    """
    os.mkdir(target, 0o755)
    _lay(base, target, link=link, bottom=True)
    for layer in reversed(layers):
        _lay(layer, target, link=True, bottom=False)
    files.remove_tree(os.path.join(target, _SCRIPTS))
    for name in _SCRIPT_LINKS:
        path = os.path.join(target, name)
        if os.path.islink(path) and _SCRIPTS in os.readlink(path):
            os.unlink(path)


def _lay(source: str, target: str, *, link: bool, bottom: bool) -> None:
    """Put one layer over what is there."""
    times: List[Tuple[str, os.stat_result]] = []
    seen: dict[Tuple[int, int], str] = {}
    for name, path, state in walk(source):
        here = os.path.join(target, name)
        kind = stat.S_IFMT(state.st_mode)
        if kind == stat.S_IFDIR:
            if not bottom:
                _make_room(here, directory=True, clear=opaque(path))
            try:
                os.mkdir(here)
            except FileExistsError:
                pass
            times.append((here, state))
            continue
        if not bottom:
            _make_room(here, directory=False, clear=True)
        if kind == stat.S_IFCHR and whiteout(state):
            continue
        if link and _linked(path, here):
            continue
        first = seen.get((state.st_dev, state.st_ino), "") if state.st_nlink > 1 else ""
        if first and _linked(first, here):
            continue
        seen[(state.st_dev, state.st_ino)] = here
        _copied(path, here, state)
    times.append((target, os.lstat(source)))
    for here, state in reversed(times):
        _owned(here, state)
        os.chmod(here, stat.S_IMODE(state.st_mode) | (0o755 if here == target else 0))
        os.utime(here, ns=(state.st_atime_ns, state.st_mtime_ns))


def _make_room(path: str, *, directory: bool, clear: bool) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not directory or clear or not stat.S_ISDIR(found.st_mode):
        files.remove_tree(path)


def _linked(source: str, target: str) -> bool:
    """A hard link, where the file system gives one: other devices, too many links or a rule against it say no."""
    try:
        os.link(source, target, follow_symlinks=False)
        return True
    except OSError:
        return False


def _copied(source: str, target: str, state: os.stat_result) -> None:
    kind = stat.S_IFMT(state.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(source), target)
    elif kind == stat.S_IFREG:
        files.copy_file(source, target)
    elif kind == stat.S_IFIFO:
        os.mkfifo(target, 0o600)
    else:
        return  # sockets and devices are nothing that an image can keep
    _owned(target, state)
    if kind != stat.S_IFLNK:
        os.chmod(target, stat.S_IMODE(state.st_mode))
    os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns), follow_symlinks=False)


def _owned(path: str, state: os.stat_result) -> None:
    """Owner of the source where several ids are mapped; with one id everything is ours already."""
    try:
        os.lchown(path, state.st_uid, state.st_gid)
    except OSError:
        return
