"""Paths inside an image's tree, seen from outside: links in an image must never lead us out of it."""

from __future__ import annotations

import os
import stat

from gha_apptainer.domain.errors import EngineFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List

_LINKS = 40  # as the kernel, man 7 path_resolution


def resolve(root: str, path: str) -> str:
    """Where `path` lies below `root` when links are followed as they would be inside; the last parts may be missing."""
    todo = [part for part in path.split("/") if part]
    done: List[str] = []
    links = 0
    while todo:
        part = todo.pop(0)
        if part == ".":
            continue
        if part == "..":
            done = done[:-1]
            continue
        here = os.path.join(root, *done, part)
        try:
            is_link = stat.S_ISLNK(os.lstat(here).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_link = False
        if not is_link:
            done.append(part)
            continue
        links += 1
        if links > _LINKS:
            raise EngineFailed("too many links in the image at %s" % path)
        target = os.readlink(here)
        if target.startswith("/"):
            done = []
        todo = [one for one in target.split("/") if one] + todo
    return os.path.join(root, *done)


def make_target(root: str, path: str, *, directory: bool) -> str:
    """Make a mount point inside the tree if it is missing, with its parents; gives its path outside.

    Raises EngineFailed where something of the other kind is in the way.
    """
    here = resolve(root, path)
    try:
        found = os.lstat(here)
        if directory != stat.S_ISDIR(found.st_mode):
            kind = "file" if directory else "directory"
            raise EngineFailed("cannot mount at %s: the image has a %s there" % (path, kind))
        return here
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise EngineFailed("cannot mount at %s: the image has a file on the way" % path) from None
    os.makedirs(here if directory else os.path.dirname(here), mode=0o755, exist_ok=True)
    if not directory:
        os.close(os.open(here, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    return here


def copy_content(source: str, target: str) -> None:
    """Copy a tree of the image into a new volume, as Docker does on first use: modes, links and times kept."""
    if not os.path.isdir(source):
        return
    for entry in os.scandir(source):
        into = os.path.join(target, entry.name)
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), into)
        elif entry.is_dir():
            os.mkdir(into, 0o700)
            copy_content(entry.path, into)
            _keep(entry.path, into)
        elif entry.is_file():
            _copy_file(entry.path, into)
            _keep(entry.path, into)
    _keep(source, target)


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        while True:
            part = reader.read(1 << 20)
            if not part:
                return
            writer.write(part)


def _keep(source: str, target: str) -> None:
    found = os.stat(source)
    try:
        os.chown(target, found.st_uid, found.st_gid)
    except OSError:
        pass  # with one mapped id everything is ours already
    os.chmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
