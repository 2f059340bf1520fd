"""`.dockerignore`: which paths of a context are not there for the build. Pure.

https://docs.docker.com/build/concepts/context/#dockerignore-files: patterns from the context's root, `*`, `?`, `[…]`, `**` for any number
of directories, `!` for exceptions, the last pattern that fits decides; what lies in an ignored directory is ignored with it.
"""

from __future__ import annotations

import posixpath
import re
from typing import List, Pattern, Tuple


class Patterns:
    """The patterns of one file, or of COPY --exclude."""

    def __init__(self, rows: Tuple[Tuple[bool, Pattern[str]], ...]) -> None:
        self._rows = rows
        self.exceptions = any(not ignored for ignored, _ in rows)
        """Whether something in an ignored directory may be there after all."""

    def ignores(self, path: str) -> bool:
        """Whether a path (relative to the root, no leading /) is ignored: by itself or by a directory above it."""
        found = False
        parts = path.split("/")
        chain = ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]
        for ignored, pattern in self._rows:
            if ignored != found and any(pattern.fullmatch(one) for one in chain):
                found = ignored
        return found


def read_patterns(text: str, name: str) -> Patterns:
    """The patterns of a .dockerignore. Raises ValueError naming the line of one that cannot be read."""
    return patterns(tuple((number, line) for number, line in enumerate(text.lstrip("\ufeff").splitlines(), 1)), name)


def patterns(lines: Tuple[Tuple[int, str], ...], name: str) -> Patterns:
    """Patterns, each with the number of its line for errors."""
    rows: List[Tuple[bool, Pattern[str]]] = []
    for number, line in lines:
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        ignored = not pattern.startswith("!")
        pattern = pattern if ignored else pattern[1:].strip()
        pattern = posixpath.normpath(pattern).lstrip("/") if pattern else ""
        if not pattern:
            if not ignored:
                raise ValueError("%s:%d: an exception without a pattern" % (name, number))
            continue
        if pattern == ".":
            continue  # Docker: the root itself cannot be ignored
        try:
            rows.append((ignored, re.compile(regex(pattern))))
        except re.error as error:
            raise ValueError("%s:%d: %r is no pattern: %s" % (name, number, line.strip(), error)) from error
    return Patterns(tuple(rows))


def regex(pattern: str) -> str:
    """A pattern as a regular expression for a whole path."""
    parts: List[str] = []
    at = 0
    while at < len(pattern):
        mark = pattern[at]
        at += 1
        if mark == "*":
            if not pattern.startswith("*", at):
                parts.append("[^/]*")
                continue
            at += 1
            if pattern.startswith("/", at):
                at += 1
            parts.append("(?s:.*)" if at == len(pattern) else "(?s:.*/)?")
        elif mark == "?":
            parts.append("[^/]")
        elif mark == "\\" and at < len(pattern):
            parts.append(re.escape(pattern[at]))
            at += 1
        elif mark == "[":
            found, at = _class(pattern, at)
            parts.append(found)
        else:
            parts.append(re.escape(mark))
    return "".join(parts)


def _class(pattern: str, at: int) -> Tuple[str, int]:
    """A class of characters, from after its bracket, and the place after it. Raises re.error where it is not closed."""
    negated = pattern[at : at + 1] in ("^", "!") and pattern[at : at + 1] != ""
    at += int(negated)
    inner = ""
    while True:
        if at >= len(pattern):
            raise re.error("[ without ]")
        mark = pattern[at]
        at += 1
        if mark == "]" and inner:
            return "(?!/)[%s%s]" % ("^" if negated else "", inner), at
        if mark == "\\" and at < len(pattern):
            inner += "\\" + pattern[at]
            at += 1
        elif mark in "[]\\&~|^":
            inner += "\\" + mark
        else:
            inner += mark
