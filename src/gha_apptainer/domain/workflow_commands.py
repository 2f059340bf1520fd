"""Workflow commands: the lines by which a step talks to the runner.

Escaping as in https://github.com/actions/toolkit/blob/main/docs/commands.md: a value is one line, and nothing in it can begin a command.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Tuple


_DATA = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"))
_PROPERTY = (*_DATA, (":", "%3A"), (",", "%2C"))
TRIVIAL = 4
"""Lines shorter than this many characters are not masked: a mask of `{` would hide every brace of the log."""


def escape_data(text: str) -> str:
    """The text as the message of a command."""
    for plain, written in _DATA:
        text = text.replace(plain, written)
    return text


def escape_property(text: str) -> str:
    """The text as the value of a command's property."""
    for plain, written in _PROPERTY:
        text = text.replace(plain, written)
    return text


def command(name: str, message: str = "", properties: Optional[Mapping[str, str]] = None) -> str:
    """`::name key=value,…::message`, one line without its end. Empty properties are left out."""
    given = ",".join("%s=%s" % (key, escape_property(value)) for key, value in (properties or {}).items() if value)
    return "::%s%s::%s" % (name, " " + given if given else "", escape_data(message))


def masks(secret: str) -> Tuple[str, ...]:
    """What is to be masked so that no part of a secret shows: the whole, and of several lines each that is not trivial.

    The runner masks each line of a value that it is given, trivial ones too; so a value with such lines is given line by line.
    """
    lines = [line.strip("\r") for line in secret.split("\n")]
    worth = tuple(line for line in lines if len(line.strip()) >= TRIVIAL)
    if len(lines) == 1:
        return (secret,) if secret.strip() else ()
    return worth if len(worth) < len(lines) else (secret, *worth)


def harmless(line: str) -> str:
    """A line of somebody else's words, changed so that the runner takes it for text: only steps themselves give commands."""
    line = line.replace("##[", "## [")
    return "> " + line if line.lstrip().startswith("::") else line
