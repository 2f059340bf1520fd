"""COPY, ADD and WORKDIR on a mounted root: no link of an image and no name in an archive leads out of it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import zlib
from typing import IO, Iterator, List, Optional, Tuple

from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.dockerfile.selecting import Root, Taken, entries
from gha_apptainer.node.engine.rootpaths import resolve
from gha_apptainer.node.files import copy_file, decode, read_whole

_ZSTD = b"\x28\xb5\x2f\xfd"
_PACKED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"))
_LAST_ID = 4294967294
_SYMBOLIC = re.compile(r"([ugoa]*)([-+=])([rwxXst]*)")


@dataclass(frozen=True)
class Manner:
    """How files arrive: `owner` (None keeps the source's), `mode` as --chmod has it, `single` where only one id is mapped."""

    owner: Optional[Tuple[int, int]]
    mode: str
    single: bool


def make_directory(root: str, path: str, manner: Manner) -> str:
    """A directory with its parents; gives where it is. Raises InputError where a file is in the way."""
    done = root
    for part in [part for part in os.path.relpath(resolve(root, path), root).split("/") if part != "."]:
        done = os.path.join(done, part)
        try:
            os.mkdir(done, 0o755)
            _give(done, manner)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(done).st_mode):
                raise InputError("%s: there is a file on the way, at /%s" % (path, os.path.relpath(done, root))) from None
    return done


def place(root: str, sources: Tuple[Tuple[Root, Taken], ...], target: str, manner: Manner) -> None:
    """Copy what was taken to the target: contents of directories into it, files into it or, for one file, as it.

    Raises InputError where file and directory meet.
    """
    into = target.endswith("/") or len(sources) > 1 or os.path.isdir(resolve(root, target))
    for origin, taken in sources:
        base = os.path.join(target, taken.parents) if taken.parents else target
        if taken.directory:
            _place_directory(root, origin, taken, os.path.join(base, taken.name) if taken.parents else base, manner)
        else:
            whole = into or bool(taken.parents)
            path = os.path.join(base, taken.name) if whole else base
            _place_file(root, path, taken.path, os.lstat(taken.path), manner, follow=not whole)


def _place_directory(root: str, origin: Root, taken: Taken, target: str, manner: Manner) -> None:
    new = not os.path.lexists(resolve(root, target))
    here = make_directory(root, target, manner)
    times: List[Tuple[str, os.stat_result]] = []
    if new and taken.inside:  # the target takes after the source, if it is made; the root of a context has no say
        _keep(here, os.lstat(taken.path), manner)
    for name, path, state in entries(origin, taken):
        inside = os.path.join(os.path.relpath(here, root), name)
        if not stat.S_ISDIR(state.st_mode):
            _place_file(root, inside, path, state, manner, follow=False)
            continue
        made = make_directory(root, inside, manner)
        _keep(made, state, manner)
        times.append((made, state))
    for made, state in reversed(times):
        os.utime(made, ns=(state.st_atime_ns, state.st_mtime_ns))


def _place_file(root: str, target: str, source: str, state: os.stat_result, manner: Manner, *, follow: bool) -> None:
    """One file; `follow` goes through a link that the image has in its place, inside the root, as Docker does for the target itself."""
    if follow:
        target = os.path.relpath(resolve(root, target), root)
    parent = make_directory(root, os.path.dirname(target) or "/", manner)
    path = os.path.join(parent, os.path.basename(target))
    _clear(path, target)
    if stat.S_ISLNK(state.st_mode):
        os.symlink(os.readlink(source), path)
    elif stat.S_ISFIFO(state.st_mode):
        os.mkfifo(path, 0o600)
    elif stat.S_ISREG(state.st_mode):
        copy_file(source, path)
    else:
        raise InputError("%s is neither a file nor a directory, a link or a pipe" % source)
    _keep(path, state, manner)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns), follow_symlinks=False)


def _clear(path: str, target: str) -> None:
    """Make room for a file."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            raise InputError("%s: a file cannot take the place of a directory" % target)
        os.unlink(path)
    except FileNotFoundError:
        pass


def write_file(path: str, reader: IO[bytes]) -> None:
    """A new file with what is read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as writer:
        for part in iter(lambda: reader.read(1 << 20), b""):
            view = memoryview(part)
            while view:
                view = view[writer.write(view) :]


def _keep(path: str, state: os.stat_result, manner: Manner) -> None:
    """Owner and mode of the source, or what was asked for instead."""
    if manner.owner is not None:
        _give(path, manner)
    elif not manner.single:
        os.lchown(path, state.st_uid, state.st_gid)
    if not stat.S_ISLNK(state.st_mode):
        mode = stat.S_IMODE(state.st_mode)
        os.chmod(path, changed_mode(mode, manner.mode, directory=stat.S_ISDIR(state.st_mode)))


def _give(path: str, manner: Manner) -> None:
    if manner.owner is not None and not manner.single:
        os.lchown(path, *manner.owner)


def changed_mode(mode: int, wish: str, *, directory: bool) -> int:
    """A mode after --chmod, octal or symbolic. man 1 chmod."""
    if not wish:
        return mode
    if wish.isdigit():
        return int(wish, 8)
    for who, sign, what in _SYMBOLIC.findall(wish):
        classes = "ugo" if not who or "a" in who else who
        bits = 0
        for name, shift in (("u", 6), ("g", 3), ("o", 0)):
            if name in classes:
                runs = "x" in what or ("X" in what and (directory or bool(mode & 0o111)))
                bits |= (("r" in what) * 4 + ("w" in what) * 2 + runs) << shift
        if "s" in what:
            bits |= (0o4000 if "u" in classes else 0) | (0o2000 if "g" in classes else 0)
        if "t" in what:
            bits |= 0o1000
        covered = sum(7 << shift for name, shift in (("u", 6), ("g", 3), ("o", 0)) if name in classes)
        mode = mode | bits if sign == "+" else mode & ~bits if sign == "-" else (mode & ~covered) | bits
    return mode


def owner_ids(root: str, text: str) -> Tuple[int, int]:
    """User and group of a --chown by the image's own files; a number alone is both. Raises InputError for an unknown name."""
    user, colon, group = text.partition(":")
    if user.isdigit():
        uid, gid = int(user), int(user)
    else:
        row = _row(root, "/etc/passwd", user, 4)
        if row is None:
            raise InputError("--chown=%s: the image knows no user %s" % (text, user), remedy="create it before, or give numbers")
        uid, gid = int(row[2]), int(row[3])
    if colon and group:
        if group.isdigit():
            gid = int(group)
        else:
            found = _row(root, "/etc/group", group, 3)
            if found is None:
                raise InputError("--chown=%s: the image knows no group %s" % (text, group), remedy="create it before, or give numbers")
            gid = int(found[2])
    if max(uid, gid) > _LAST_ID:
        raise InputError("--chown=%s: there is no such id" % text)
    return uid, gid


def _row(root: str, path: str, name: str, fields: int) -> Optional[List[str]]:
    try:
        text = decode(read_whole(resolve(root, path), limit=4 << 20))
    except OSError:
        return None
    for line in text.splitlines():
        row = line.split(":")
        if len(row) >= fields and row[0] == name and all(part.isdigit() for part in row[2:fields]):
            return row
    return None


# archives


def archive_kind(path: str) -> str:
    """What an archive is packed with, by its first bytes: tar, gzip, bzip2, xz; "" for what is no archive. Raises Refused for zstd."""
    with open(path, "rb") as handle:
        head = handle.read(512)
    if head.startswith(_ZSTD):
        raise Refused("%s is packed with zstd, which is not read here" % os.path.basename(path), remedy="pack it with gzip or xz")
    kind = next((name for magic, name in _PACKED if head.startswith(magic)), "tar")
    try:
        with _unpacked(path, kind) as stream:
            first = stream.read(512)
    except (OSError, EOFError, lzma.LZMAError, zlib.error):
        return ""
    try:
        if len(first) == 512 and any(first):
            tarfile.TarInfo.frombuf(first, "utf-8", "surrogateescape")
            return kind
    except tarfile.TarError:
        pass
    return ""


def _unpacked(path: str, kind: str) -> IO[bytes]:
    if kind == "gzip":
        return gzip.open(path)  # type: ignore[return-value]  # it reads as any other
    if kind == "bzip2":
        return bz2.open(path)
    if kind == "xz":
        return lzma.open(path)
    return open(path, "rb")


def unpack(root: str, archive: str, kind: str, target: str, manner: Manner) -> None:
    """Unpack a tar archive below a directory of the root. Raises InputError for a damaged or hostile one."""
    top = os.path.relpath(make_directory(root, target, manner), root)
    try:
        with _unpacked(archive, kind) as stream, tarfile.open(fileobj=stream, mode="r|", errorlevel=2) as members:
            for member in members:
                _unpack_one(root, top, members, member, manner)
    except (tarfile.TarError, EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError("%s is damaged: %s" % (os.path.basename(archive), error)) from error


def _parts(name: str) -> Iterator[str]:
    for part in name.split("/"):
        if part == "..":
            raise InputError("the archive names %r, which leads out of its target" % name)
        if part not in ("", "."):
            yield part


def _unpack_one(root: str, top: str, members: tarfile.TarFile, member: tarfile.TarInfo, manner: Manner) -> None:
    name = "/".join(_parts(member.name))
    inside = os.path.join(top, name)
    if member.isdir():
        path = make_directory(root, inside, manner)
    else:
        parent = make_directory(root, os.path.dirname(inside) or "/", manner)
        path = os.path.join(parent, os.path.basename(inside))  # a link in its place is replaced, not followed
        _clear(path, name)
    if member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        source = resolve(root, os.path.join(top, *_parts(member.linkname)))
        os.link(source, path, follow_symlinks=False)
        return
    elif member.isfifo():
        os.mkfifo(path, 0o600)
    elif member.isreg():
        reader = members.extractfile(member)
        if reader is None:
            raise InputError("the archive holds nothing for %s" % name)
        write_file(path, reader)
    elif not member.isdir():
        raise InputError("the archive holds a device, %s, which is not made here" % name)
    if manner.owner is None and not manner.single:
        os.lchown(path, member.uid, member.gid)
    else:
        _give(path, manner)
    if not member.issym():
        os.chmod(path, changed_mode(member.mode & 0o7777, manner.mode, directory=member.isdir()))
        os.utime(path, (member.mtime, member.mtime))
