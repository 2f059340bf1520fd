"""Arguments as the runner hands them to its hooks, put together again.

The runner writes an action's arguments as one text, each in double quotes, and cuts it at every space; container steps lose empty pieces
and the white space around pieces as well. What comes back is what `docker run` would have been given: the pieces joined by a space and
split as a shell splits. A step must not wait for `shlex` to be loaded, so the few rules stand here:
https://pubs.opengroup.org/onlinepubs/9699919799/utilities/V3_chap02.html#tag_18_02.
"""

from __future__ import annotations

_SPACE = " \t\r\n"


def shell_split(text: str) -> tuple[str, ...] | None:
    """The words of a text as a POSIX shell splits it, without any expansion; None where a quote or a backslash has no end."""
    words: list[str] = []
    word: list[str] = []
    begun = False
    at, end = 0, len(text)
    while at < end:
        mark = text[at]
        at += 1
        if mark in _SPACE:
            if begun:
                words.append("".join(word))
                word, begun = [], False
            continue
        begun = True
        if mark == "'":
            close = text.find("'", at)
            if close < 0:
                return None
            word.append(text[at:close])
            at = close + 1
        elif mark == '"':
            while True:
                if at >= end:
                    return None
                mark = text[at]
                at += 1
                if mark == '"':
                    break
                if mark == "\\" and at < end and text[at] in '"\\':
                    mark = text[at]
                    at += 1
                word.append(mark)
        elif mark == "\\":
            if at >= end:
                return None
            word.append(text[at])
            at += 1
        else:
            word.append(mark)
    if begun:
        words.append("".join(word))
    return tuple(words)


def quote_split(text: str) -> tuple[str, ...]:
    """The words of a text in which only the double quote is special, as the runner itself splits: `'` is a letter, `\\"` a quote.

    A quote without an end goes to the end of the text.
    """
    words: list[str] = []
    word: list[str] = []
    begun = quoted = False
    at = 0
    while at < len(text):
        mark = text[at]
        at += 1
        if mark == "\\" and text[at : at + 1] == '"':
            word.append('"')
            begun = True
            at += 1
        elif mark == '"':
            quoted, begun = not quoted, True
        elif mark in _SPACE and not quoted:
            if begun:
                words.append("".join(word))
                word, begun = [], False
        else:
            word.append(mark)
            begun = True
    if begun:
        words.append("".join(word))
    return tuple(words)


def split(text: str) -> tuple[str, ...]:
    """As a shell splits, or with the double quote alone where a shell would find a quote that does not end."""
    words = shell_split(text)
    return quote_split(text) if words is None else words


def rejoined(pieces: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments whose pieces these are. Pieces without any quoting are the arguments themselves, empty ones included."""
    for piece in pieces:
        for mark in piece:
            if mark in "\"'\\ \t\r\n":
                return split(" ".join(pieces))
    return pieces


def step_arguments(pieces: tuple[str, ...], original: str | None) -> tuple[str, ...]:
    """The arguments of a container step. `original` is INPUT_ARGS, the text that a `docker://` step was written with.

    Where cutting that text as the runner does gives the pieces, it is the source of them and nothing of it is lost; else it is an input of
    the same name.
    """
    if original is not None and tuple(part.strip() for part in original.split(" ") if part.strip()) == pieces:
        return split(original)
    return rejoined(pieces)
