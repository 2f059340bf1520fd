"""Words of a Dockerfile: quotes, escapes and variables, by the rules of Docker's own lexer.

https://docs.docker.com/reference/dockerfile/#environment-replacement. Pure. A variable that is not set is empty text.
"""

from __future__ import annotations

import re
from typing import List, Mapping, Tuple

_SPECIAL = "@*#?-$!"
_BLANKS = " \t\n\r\f\v"


class BadWord(ValueError):
    """A word that cannot be read; the text says why. Whoever knows the line turns it into an error that names it."""


def expand(text: str, env: Mapping[str, str], escape: str = "\\") -> str:
    """The text with variables replaced, quotes removed and escapes undone. Raises BadWord."""
    return _Scan(text, env, escape).until("")


def expand_content(text: str, env: Mapping[str, str]) -> str:
    """The text of a here-document with variables replaced: quotes are its own, and an escaped mark keeps its backslash. Raises BadWord."""
    return _Scan(text, env, "\\", quotes=False).until("", raw_escapes=True)


def split_words(text: str, escape: str = "\\") -> Tuple[str, ...]:
    """The words of a line, at blanks that stand in no quotes and are not escaped; quotes and escapes stay in the words."""
    words: List[str] = []
    word, quote, begun, at = "", "", False, 0
    while at < len(text):
        mark = text[at]
        at += 1
        if not quote and mark in _BLANKS:
            if begun:
                words.append(word)
            word, begun = "", False
            continue
        begun = True
        if mark == escape and quote != "'":
            if at == len(text):  # an escape at the very end escapes nothing
                break
            word += mark + text[at]
            at += 1
            continue
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "\"'":
            quote = mark
        word += mark
    if begun and word:
        words.append(word)
    return tuple(words)


class _Scan:
    """One pass over one text."""

    def __init__(self, text: str, env: Mapping[str, str], escape: str, *, quotes: bool = True) -> None:
        self._text, self._env, self._escape, self._quotes = text, env, escape, quotes
        self._at = 0

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _next(self) -> str:
        mark = self._peek()
        self._at += len(mark)
        return mark

    def until(self, stop: str, *, raw_escapes: bool = False) -> str:
        """Everything up to `stop`, which is taken too; up to the end where it is empty."""
        found: List[str] = []
        while True:
            mark = self._peek()
            if not mark:
                if stop:
                    raise BadWord("%r is missing" % stop)
                return "".join(found)
            if mark == stop:
                self._next()
                return "".join(found)
            if mark == "'" and self._quotes:
                found.append(self._single())
            elif mark == '"' and self._quotes:
                found.append(self._double())
            elif mark == "$":
                found.append(self._variable())
            else:
                self._next()
                if mark == self._escape:
                    if raw_escapes:
                        found.append(mark)
                    mark = self._next()
                found.append(mark)

    def _single(self) -> str:
        self._next()
        end = self._text.find("'", self._at)
        if end < 0:
            raise BadWord("a single quote is not closed")
        found, self._at = self._text[self._at : end], end + 1
        return found

    def _double(self) -> str:
        self._next()
        found: List[str] = []
        while True:
            mark = self._peek()
            if not mark:
                raise BadWord("a double quote is not closed")
            if mark == "$":
                found.append(self._variable())
                continue
            self._next()
            if mark == '"':
                return "".join(found)
            if mark == self._escape and self._peek() in ('"', "$", self._escape) and self._peek():
                mark = self._next()
            found.append(mark)

    def _name(self) -> str:
        mark = self._peek()
        if mark and mark in _SPECIAL:
            return self._next()
        pattern = r"[0-9]+" if mark.isdigit() else r"[^\W\d]\w*"
        match = re.compile(pattern).match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match.group()

    def _variable(self) -> str:
        self._next()
        if self._peek() != "{":
            name = self._name()
            return self._env.get(name, "") if name else "$"
        self._next()
        name = self._name()
        mark = self._next()
        if not name or not mark:
            raise BadWord("${ without a name or without its }")
        value = self._env.get(name)
        if mark == "}":
            return value or ""
        empty_is_unset = mark == ":"
        if empty_is_unset:
            mark = self._next()
        if mark in ("-", "+", "?"):
            word = self.until("}")
            there = value is not None and not (empty_is_unset and not value)
            if mark == "-":
                return (value or "") if there else word
            if mark == "+":
                return word if there else ""
            if not there:
                raise BadWord("variable %s: %s" % (name, word or "is not set"))
            return value or ""
        if empty_is_unset or mark not in ("#", "%", "/"):
            raise BadWord("${%s…}: no such modifier" % name)
        return self._changed(value or "", mark)

    def _changed(self, value: str, mark: str) -> str:
        twice = self._peek() == mark
        if twice:
            self._next()
        if mark == "/":
            pattern = self.until("/", raw_escapes=True)
            replacement = self.until("}", raw_escapes=True)
            return re.sub(glob_regex(pattern, greedy=True), lambda _: replacement, value, count=0 if twice else 1)
        pattern = self.until("}", raw_escapes=True)
        if mark == "#":
            found = re.match(glob_regex(pattern, greedy=twice), value)
            return value[found.end() :] if found else value
        starts = range(len(value) + 1) if twice else range(len(value), -1, -1)
        whole = re.compile(glob_regex(pattern, greedy=True))
        for start in starts:
            if whole.fullmatch(value, start):
                return value[:start]
        return value


def glob_regex(pattern: str, *, greedy: bool) -> str:
    """A shell pattern with * and ? as a regular expression; a backslash takes the next mark as it is."""
    parts: List[str] = []
    at = 0
    while at < len(pattern):
        mark = pattern[at]
        at += 1
        if mark == "\\" and at < len(pattern):
            mark = pattern[at]
            at += 1
            parts.append(re.escape(mark))
        elif mark == "*":
            parts.append("(?s:.*)" if greedy else "(?s:.*?)")
        elif mark == "?":
            parts.append("(?s:.)")
        else:
            parts.append(re.escape(mark))
    return "".join(parts)
