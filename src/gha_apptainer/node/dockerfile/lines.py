"""From the text of a Dockerfile to its instructions: directives, comments, continuation lines, flags and here-documents. Pure.

https://docs.docker.com/reference/dockerfile/#format. What the words of an instruction mean is told by `instructions`.
"""

from __future__ import annotations

import re
from typing import Dict, List, Optional, Tuple

from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.dockerfile.words import BadWord, expand, split_words

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]+)")
_WITH_HEREDOC = ("RUN", "COPY", "ADD")
_FRONTENDS = re.compile(r"(docker\.io/)?(docker|moby)/dockerfile(-upstream)?(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
DIRECTIVES = ("syntax", "escape", "check")


@dataclass(frozen=True)
class Heredoc:
    """A here-document. `expand` tells that its delimiter was not quoted; `content` has its tabs cut already where `<<-` asks for that.

    `text` is how it began on its line, such as `3<<-"EOF"`.
    """

    text: str
    name: str
    content: str
    expand: bool


@dataclass(frozen=True)
class Line:
    """One instruction. `number` is the line on which it begins, `rest` what follows keyword and flags, its lines joined."""

    number: int
    keyword: str
    flags: Tuple[str, ...]
    rest: str
    heredocs: Tuple[Heredoc, ...] = ()


@dataclass(frozen=True)
class Source:
    """A whole file: its name for messages, its escape character, its instructions."""

    name: str
    escape: str
    lines: Tuple[Line, ...]


def wrong(name: str, number: int, why: str, remedy: str = "") -> InputError:
    """The error for something that is wrong in a line of a file."""
    return InputError("%s:%d: %s" % (name, number, why), remedy=remedy)


def refused(name: str, number: int, why: str, remedy: str = "") -> Refused:
    """The error for something that is right, and not done here."""
    return Refused("%s:%d: %s" % (name, number, why), remedy=remedy)


def read_lines(text: str, name: str) -> Source:
    """The instructions of a file. Raises InputError or Refused naming file and line."""
    physical = [line[:-1] if line.endswith("\r") else line for line in text.lstrip("\ufeff").split("\n")]
    escape = _directives(physical, name).get("escape", "\\")
    found: List[Line] = []
    at = 0
    while at < len(physical):
        if not physical[at].strip() or physical[at].lstrip().startswith("#"):
            at += 1
            continue
        first = at
        logical, at = _joined(physical, at, escape)
        line = _instruction(logical, first + 1, escape)
        heredocs, at = _heredocs(line, physical, at, name, escape)
        found.append(Line(line.number, line.keyword, line.flags, line.rest, heredocs))
    return Source(name, escape, tuple(found))


def _directives(physical: List[str], name: str) -> Dict[str, str]:
    """The parser directives, which stand before everything else, comments and empty lines too."""
    found: Dict[str, str] = {}
    for number, line in enumerate(physical, 1):
        match = _DIRECTIVE.fullmatch(line.strip())
        key = match.group(1).lower() if match else ""
        if match is None or key not in DIRECTIVES:
            break
        if key in found:
            raise wrong(name, number, "directive %s is given twice" % key)
        found[key] = match.group(2)
        if key == "escape" and found[key] not in ("\\", "`"):
            raise wrong(name, number, "escape=%s: only \\ and ` can be the escape character" % found[key])
        if key == "syntax" and not _FRONTENDS.fullmatch(found[key]):
            raise refused(
                name,
                number,
                "syntax=%s: other languages than docker/dockerfile are not read" % found[key],
                "remove the line, or build there",
            )
    return found


def _joined(physical: List[str], at: int, escape: str) -> Tuple[str, int]:
    """One logical line and the place after it: lines that end with the escape character go on, comments and empty lines between vanish."""
    goes_on = re.compile(r"(^|[^%s])%s[ \t]*$" % (re.escape(escape), re.escape(escape)))
    parts: List[str] = []
    while at < len(physical):
        line = physical[at]
        if parts and (not line.strip() or line.lstrip().startswith("#")):
            at += 1
            continue
        at += 1
        match = goes_on.search(line)
        if match is None:
            parts.append(line)
            break
        parts.append(line[: match.start()] + match.group(1))
    return "".join(parts).strip(), at


def _instruction(logical: str, number: int, escape: str) -> Line:
    keyword, rest = (*re.split(r"\s+", logical, maxsplit=1), "")[:2]
    keyword = keyword.upper()
    if keyword == "ONBUILD":
        return Line(number, keyword, (), rest.strip())
    flags, rest = _flags(rest.strip(), escape)
    return Line(number, keyword, flags, rest)


def _flags(rest: str, escape: str) -> Tuple[Tuple[str, ...], str]:
    """The leading words that begin with `--`, their quotes and escapes undone; a bare `--` ends them."""
    flags: List[str] = []
    while rest.startswith("--"):
        word, quote, at = "", "", 0
        while at < len(rest):
            mark = rest[at]
            if not quote and mark in " \t":
                break
            at += 1
            if mark == escape and quote != "'" and at < len(rest):
                word += rest[at]
                at += 1
            elif quote and mark == quote:
                quote = ""
            elif not quote and mark in "\"'":
                quote = mark
            else:
                word += mark
        rest = rest[at:].lstrip(" \t")
        if word == "--":
            break
        flags.append(word)
    return tuple(flags), rest


def _heredocs(line: Line, physical: List[str], at: int, name: str, escape: str) -> Tuple[Tuple[Heredoc, ...], int]:
    """The here-documents that a line announces, read from the lines after it."""
    rest, keyword = line.rest, line.keyword
    if keyword == "ONBUILD":
        keyword, _, rest = (re.sub(r"\s+", " ", rest, count=1)).partition(" ")
    found: List[Heredoc] = []
    if keyword.upper() not in _WITH_HEREDOC or "<<" not in rest:
        return (), at
    for word in split_words(rest, escape):
        begun = heredoc_of(word, escape)
        if begun is None:
            continue
        delimiter, chomp, expands = begun
        content: List[str] = []
        while True:
            if at >= len(physical):
                raise wrong(name, line.number, "the here-document %s has no line that ends it" % delimiter)
            here = physical[at]
            at += 1
            here = here.lstrip("\t") if chomp else here
            if here == delimiter:
                break
            content.append(here + "\n")
        found.append(Heredoc(word, delimiter, "".join(content), expands))
    return tuple(found), at


def heredoc_of(word: str, escape: str) -> Optional[Tuple[str, bool, bool]]:
    """Delimiter, whether tabs are cut, whether variables are replaced; None for a word that announces no here-document."""
    match = _HEREDOC.fullmatch(word)
    if match is None:
        return None
    try:
        name = expand(match.group(3), {}, escape)
    except BadWord:
        return None
    return (name, bool(match.group(2)), name == match.group(3)) if name else None
