"""One way to write a file that others read, and to make and remove what is ours.

Text is UTF-8 with surrogateescape. ENOSPC and EDQUOT become DiskFull, met at write, fsync or close.
"""

from __future__ import annotations

import errno
import os
import stat

from gha_apptainer.domain.errors import EngineFailed, Untrusted, disk_full, is_disk_full

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Optional

READ_LIMIT = 64 << 20
"""The largest document that we read whole, in bytes."""


def encode(text: str) -> bytes:
    """Our text as the bytes that the system sees."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """The system's bytes as our text."""
    return data.decode("utf-8", "surrogateescape")


def write_whole(path: str, data: bytes, *, mode: int = 0o600, sync: bool = False) -> None:
    """Publish `data` at `path` by rename, so that no reader ever sees half of it. `sync` also survives a power cut."""
    beside = _beside(path)
    try:
        _write_new(beside, data, mode, sync)
        os.rename(beside, path)
    except OSError as error:
        _unlink_quietly(beside)
        if is_disk_full(error):
            raise disk_full(error, path) from error
        raise


def write_once(path: str, data: bytes, *, mode: int = 0o600) -> bool:
    """Publish `data` at `path` unless something is there already; tells whether it was we. Atomic by link(2)."""
    beside = _beside(path)
    try:
        _write_new(beside, data, mode, False)
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
        return True
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, path) from error
        raise
    finally:
        _unlink_quietly(beside)


def _beside(path: str) -> str:
    """A temporary name that no other process, on no other host of a shared file system, has too."""
    return "%s.%d.%s.new" % (path, os.getpid(), os.urandom(4).hex())


def _write_new(path: str, data: bytes, mode: int, sync: bool) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        os.fchmod(handle, mode)  # the umask must not decide
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)


def read_whole(path: str, *, limit: int = READ_LIMIT) -> bytes:
    """The bytes of a regular file. Raises FileNotFoundError, or Untrusted if it is no regular file or larger than `limit`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise Untrusted("%s is not a regular file" % path)
        if found.st_size > limit:
            raise Untrusted("%s is larger than %d bytes" % (path, limit))
        parts = []
        left = limit + 1
        while left > 0:
            part = os.read(handle, min(1 << 20, left))
            if not part:
                break
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def private_directory(path: str) -> str:
    """Make `path` (and parents) as a 0700 directory of ours, or check that it is one; returns it.

    Raises Untrusted where it is a link, somebody else's, or open to others: in a shared /tmp anyone may have put it there.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    try:
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, path) from error
        raise
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Untrusted(
            "%s is not a private directory of this user" % path,
            cause="it is a link, belongs to another user, or others may enter it",
            remedy="remove it, or set GHA_APPTAINER_STATE to a directory of your own",
        )
    return path


def copy_file(source: str, target: str) -> None:
    """The bytes of a regular file as a new one, copied by the kernel, holes as holes. Raises EngineFailed where it shrinks meanwhile."""
    reader = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = os.fstat(reader).st_size
        writer = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            end = 0
            while end < size:
                try:
                    begin = os.lseek(reader, end, os.SEEK_DATA)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    break  # only a hole is left
                end = min(os.lseek(reader, begin, os.SEEK_HOLE), size)
                os.lseek(writer, begin, os.SEEK_SET)
                while begin < end:
                    sent = os.sendfile(writer, reader, begin, min(end - begin, 1 << 30))
                    if not sent:
                        raise EngineFailed("%s became shorter while it was copied" % source, remedy="try again when nobody writes to it")
                    begin += sent
            os.ftruncate(writer, size)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def remove_tree(path: str) -> None:
    """Remove everything below `path` and itself, also what has no permissions; missing is fine. Never follows a link.

    Overlay work directories and images hold directories of mode 000 that belong to us. Mounts are never crossed.
    """
    try:
        top = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(top.st_mode):
        _unlink_quietly(path)
        return
    parent = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove_directory(parent, os.path.basename(os.path.abspath(path)), top.st_dev)
    except FileNotFoundError:
        pass  # somebody else removes it too
    finally:
        os.close(parent)


def _remove_directory(parent: int, name: str, device: int) -> None:
    """Remove a tree with two descriptors and no recursion, whatever its depth: nested directories are moved up to the top first."""
    top = _open_directory(parent, name)
    try:
        _check_device(top, device, name)
        todo = _empty(top, top, device)
        while todo:
            inner = todo.pop()
            try:
                here = _open_directory(top, inner)
            except FileNotFoundError:
                continue
            try:
                _check_device(here, device, inner)
                todo += _empty(here, top, device)
            finally:
                os.close(here)
            os.rmdir(inner, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _check_device(handle: int, device: int, name: str) -> None:
    if os.fstat(handle).st_dev != device:
        raise EngineFailed("something is still mounted at %s" % name, remedy="end the container that holds it, then try again")


def _empty(here: int, top: int, device: int) -> List[str]:
    """Remove the files of a directory and move its directories to `top`; gives their names there."""
    moved = []
    for entry in os.listdir(here):
        try:
            found = os.lstat(entry, dir_fd=here)
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(entry, dir_fd=here)
                continue
            if here == top:
                moved.append(entry)
                continue
            if found.st_dev != device:
                raise EngineFailed("something is still mounted at %s" % entry, remedy="end the container that holds it, then try again")
            os.chmod(entry, 0o700, dir_fd=here)  # a directory that changes its parent must be writable itself
            name = ".removing-%s" % os.urandom(8).hex()
            os.rename(entry, name, src_dir_fd=here, dst_dir_fd=top)
            moved.append(name)
        except FileNotFoundError:
            continue
    return moved


def _open_directory(parent: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)  # a directory, or the open would have said ENOTDIR or ELOOP
        handle = os.open(name, flags, dir_fd=parent)
    if os.fstat(handle).st_mode & 0o700 != 0o700:
        os.fchmod(handle, 0o700)
    return handle


def _unlink_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def tree_size(path: str, *, stop: Optional[Callable[[int, int], bool]] = None) -> tuple[int, int]:
    """Bytes and inodes below `path`, links not followed; `stop(bytes, inodes)` may end the walk early."""
    total = inodes = 0
    for entry in _walk(path):
        inodes += 1
        try:
            total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
        if stop is not None and stop(total, inodes):
            break
    return total, inodes


def _walk(path: str) -> Iterator[os.DirEntry[str]]:
    todo = [path]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    yield entry
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            continue
