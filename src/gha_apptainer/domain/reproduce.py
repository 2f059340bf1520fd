"""The line by which a person does on a login node what a step did, as near as plain Apptainer comes, without values of variables."""

from __future__ import annotations

import re
import shlex

from gha_apptainer.domain.containers import Args, Env
from gha_apptainer.domain.shells import PLACE, Script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

LIMIT = 4000
"""Scripts longer than this many characters are named, not quoted."""
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKE_TEXT = ("bash", "sh", "dash", "zsh", "ksh", "python", "python3")


def inline(script: Script, setup: str) -> Args:
    """The step's command with its lines as an argument instead of a file that is gone; `setup` is sourced before them if given."""
    if script.argv[0] in _TAKE_TEXT and script.argv[-1] == PLACE and len(script.text) <= LIMIT:
        return _after(setup, (*script.argv[:-1], "-c", script.text))
    return named(script, setup)


def named(script: Script, setup: str) -> Args:
    """The step's command with a few words in the place of its lines, which are not to be read where this is kept."""
    return _after(setup, script.command("<file with the %d characters of the step>" % len(script.text)))


def _after(setup: str, inner: Args) -> Args:
    return ("bash", "-c", '. "$0"; exec "$@"', setup, *inner) if setup else inner


def variable_options(env: Env) -> Tuple[str, ...]:
    """`--env NAME="$NAME"` for each variable: the values are the reader's own, because any of them may be a secret."""
    return tuple('--env %s="$%s"' % (name, name) for name, _ in env if _IDENTIFIER.fullmatch(name))


def line(argv: Args, variables: Tuple[str, ...], at: int) -> str:
    """The command as one line for a shell; `variables` stand before argument number `at`."""
    quoted = [_quoted(word) for word in argv]
    return " ".join([*quoted[:at], *variables, *quoted[at:]])


def _quoted(word: str) -> str:
    """A word for bash, on one line whatever is in it."""
    if not any(letter in word for letter in "\n\r\t"):
        return shlex.quote(word)
    for plain, written in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        word = word.replace(plain, written)
    return "$'%s'" % word
