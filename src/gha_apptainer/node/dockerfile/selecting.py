"""The files that COPY, ADD and bind mounts take: found below a root that nothing leads out of, ignored ones left out, and their digest.

A name goes through links as it would inside the root; what lies in a directory is taken as it is, links as links. A context may hold
anything: pipes are never opened, sockets are left out as Docker leaves them out, devices are refused.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from typing import Iterator, List, Optional, Tuple

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.dockerfile.ignoring import Patterns, regex
from gha_apptainer.node.engine.rootpaths import resolve
from gha_apptainer.node.files import encode
from gha_apptainer.node.images.build_layers import described, whiteout

_MAGIC = re.compile(r"[*?\[]")
PIVOT = "/./"


@dataclass(frozen=True)
class Taken:
    """One source that was found. `path` is where it lies, `inside` its path in the root, `name` what it is called in the target.

    `parents` are the directories to be kept before its name (COPY --parents).
    """

    path: str
    inside: str
    name: str
    directory: bool
    parents: str = ""


@dataclass(frozen=True)
class Root:
    """Where sources are looked for: a directory, its name for people, and what is not there: `ignored` by paths from the root,
    `excluded` by paths from the source that is taken, as COPY --exclude has it.
    """

    path: str
    title: str
    ignored: Optional[Patterns] = None
    excluded: Optional[Patterns] = None

    def hides(self, inside: str, inner: str) -> bool:
        """Whether a file is not there for the build: by its path in the root, or by its path in the source that is taken."""
        if self.ignored is not None and inside and self.ignored.ignores(inside):
            return True
        return self.excluded is not None and bool(inner) and self.excluded.ignores(inner)

    @property
    def exceptions(self) -> bool:
        """Whether something in a hidden directory may be there."""
        return any(one is not None and one.exceptions for one in (self.ignored, self.excluded))


def select(root: Root, source: str, *, parents: bool = False) -> Tuple[Taken, ...]:
    """What a source means: one file or directory, or several by wildcards. Raises InputError where there is none."""
    pivot, _, rest = source.partition(PIVOT) if parents and PIVOT in source else ("", "", source)
    wanted = _tidy(pivot + "/" + rest)
    names = _matches(root.path, wanted) if _MAGIC.search(wanted) else [wanted]
    found = [_taken(root, name, _tidy(pivot), parents=parents) for name in names]
    there = tuple(one for one in found if one is not None)
    if not there:
        gone = os.path.lexists(resolve(root.path, wanted)) and not _MAGIC.search(wanted)
        hint = "it is excluded by .dockerignore or --exclude" if gone else "paths start at %s" % root.title
        raise InputError("%s is not in %s" % (source, root.title), cause=hint)
    return there


def _tidy(source: str) -> str:
    """A path from the root on: nothing leads above it. https://docs.docker.com/reference/dockerfile/#adding-files-from-the-build-context."""
    return os.path.normpath("/" + source).lstrip("/")


def _taken(root: Root, name: str, pivot: str, *, parents: bool) -> Optional[Taken]:
    path = resolve(root.path, name)
    try:
        state = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    inside = os.path.relpath(path, root.path)
    inside = "" if inside == "." else inside
    directory = stat.S_ISDIR(state.st_mode)
    inner = "" if directory else os.path.basename(name)
    hidden = root.hides(inside, inner) or root.hides(name, inner)
    if whiteout(state) or (hidden and not (directory and root.exceptions)):
        return None
    before = os.path.dirname(os.path.relpath(name, pivot) if pivot else name) if parents else ""
    return Taken(path, inside, os.path.basename(name), directory, before)


def _matches(root: str, pattern: str) -> List[str]:
    """The names that fit a pattern, part by part, `**` for any number of directories."""
    found = [""]
    for part in pattern.split("/"):
        if part == "**":
            found = [one for name in found for one in (name, *_below(root, name))]
        elif _MAGIC.search(part):
            try:
                wanted = re.compile(regex(part))
            except re.error as error:
                raise InputError("%r is no pattern: %s" % (pattern, error)) from error
            found = [_join(name, entry) for name in found for entry in _entries(root, name) if wanted.fullmatch(entry)]
        else:
            found = [_join(name, part) for name in found if os.path.lexists(os.path.join(resolve(root, name), part))]
    return sorted(set(found))


def _join(name: str, part: str) -> str:
    return name + "/" + part if name else part


def _entries(root: str, name: str) -> List[str]:
    try:
        return sorted(os.listdir(resolve(root, name)))
    except OSError:
        return []


def _below(root: str, name: str) -> List[str]:
    found = []
    for entry in _entries(root, name):
        inner = _join(name, entry)
        if os.path.isdir(os.path.join(root, inner)) and not os.path.islink(os.path.join(root, inner)):
            found += [inner, *_below(root, inner)]
    return found


def entries(root: Root, taken: Taken) -> Iterator[Tuple[str, str, os.stat_result]]:
    """What a taken directory holds, directories before their content: path in it, path, state. Directories of which everything is hidden
    are left out.
    """
    todo = [""]
    while todo:
        inner = todo.pop()
        with os.scandir(os.path.join(taken.path, inner)) as listing:
            found = sorted(listing, key=lambda one: one.name)
        directories = []
        for entry in found:
            name = _join(inner, entry.name)
            inside = _join(taken.inside, name)
            state = entry.stat(follow_symlinks=False)
            hidden = root.hides(inside, name)
            if stat.S_ISDIR(state.st_mode) and (not hidden or root.exceptions):
                directories.append(name)
            if not hidden and not stat.S_ISSOCK(state.st_mode):
                yield name, entry.path, state
        todo += reversed(directories)


def digest_of(root: Root, sources: Tuple[Taken, ...], *, ids: bool) -> str:
    """A digest of what would be copied: names, kinds, modes and contents, never times."""
    found = hashlib.sha256()
    for taken in sources:
        state = os.lstat(taken.path)
        found.update(encode("\n%s\0%s\0" % (os.path.join(taken.parents, taken.name), _top(taken, state, ids=ids))))
        if not taken.directory:
            found.update(encode(_checked(taken.path, state, ids=ids)))
            continue
        for name, path, inner in entries(root, taken):
            found.update(encode("\n%s\0%s" % (name, _checked(path, inner, ids=ids))))
    return "sha256:" + found.hexdigest()


def _top(taken: Taken, state: os.stat_result, *, ids: bool) -> str:
    """What counts of a directory that is taken itself; nothing of a root."""
    if not taken.directory:
        return ""
    return "dir %o %s" % (stat.S_IMODE(state.st_mode), "%d:%d" % (state.st_uid, state.st_gid) if ids else "") if taken.inside else "dir"


def _checked(path: str, state: os.stat_result, *, ids: bool) -> str:
    if stat.S_ISCHR(state.st_mode) or stat.S_ISBLK(state.st_mode):
        raise InputError("%s is a device, which is not copied" % path, remedy="exclude it by .dockerignore")
    try:
        return described(path, state, ids=ids)
    except PermissionError as error:
        raise InputError("%s cannot be read" % path, cause="it belongs to somebody else", remedy="exclude it by .dockerignore") from error
