"""Directories that are made once in the user's cache: staged beside, published by rename, safe if two make the same one."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import contextmanager
from typing import Iterator, Mapping

from gha_apptainer.domain.errors import EngineFailed, HostUnfit, disk_full, is_disk_full
from gha_apptainer.domain.places import cache_directory
from gha_apptainer.node.files import remove_tree

STALE_S = 86400.0
"""Age after which a staging directory belongs to nobody any more; making one takes minutes at most."""


def cache(environ: Mapping[str, str]) -> str:
    """The user's cache directory of ours, made if it is missing. Raises HostUnfit where there can be none."""
    path = cache_directory(environ)
    if not path:
        raise HostUnfit("HOME is not set, so there is no place to keep things", remedy="set HOME or XDG_CACHE_HOME to a directory of yours")
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, path) from error
        raise _unwritable(path) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise _unwritable(path)
    return path


def _unwritable(path: str) -> HostUnfit:
    return HostUnfit("cannot write below %s" % path, remedy="set XDG_CACHE_HOME to a directory that you may write to")


@contextmanager
def staged(directory: str) -> Iterator[str]:
    """A new empty directory beside `directory`, on the same file system; gone afterwards, also after an error."""
    parent = os.path.dirname(directory)
    os.makedirs(parent, exist_ok=True)
    _remove_stale(parent)
    try:
        place = tempfile.mkdtemp(prefix=".stage-", dir=parent)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, parent) from error
        raise _unwritable(parent) from error
    try:
        yield place
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, place) from error
        raise
    finally:
        remove_tree(place)


def publish(made: str, directory: str) -> None:
    """Rename what was made to its place. If another one was faster, his stays: both made the same."""
    os.chmod(made, 0o755)
    try:
        os.rename(made, directory)
    except OSError as error:
        if not os.path.isdir(directory):
            raise EngineFailed("cannot put %s in its place: %s" % (directory, error.strerror)) from error


def _remove_stale(parent: str) -> None:
    with os.scandir(parent) as entries:
        stale = [one.path for one in entries if one.name.startswith(".stage-") and _age(one) > STALE_S]
    for path in stale:
        remove_tree(path)


def _age(entry: os.DirEntry[str]) -> float:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0
