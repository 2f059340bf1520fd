"""Shells of a step: GitHub's own rules for turning `shell` and `run` into a script file and a command line.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#jobsjob_idstepsshell
"""

from __future__ import annotations

from gha_apptainer.domain.containers import Args
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Tuple

PLACE = "{0}"
"""What stands for the script's path."""

_BUILT_IN: Dict[str, Tuple[Args, str]] = {
    "bash": (("bash", "--noprofile", "--norc", "-eo", "pipefail", PLACE), ".sh"),
    "sh": (("sh", "-e", PLACE), ".sh"),
    "python": (("python", PLACE), ".py"),
    "pwsh": (("pwsh", "-command", ". '%s'" % PLACE), ".ps1"),
}
_WINDOWS = ("cmd", "powershell")
_DEFAULT = ("bash", "-e", PLACE)
_WITHOUT_BASH = ("sh", "-e", PLACE)
_KNOWN = "leave it out, or use bash, sh, python, pwsh, or a command with %s where the script's path goes" % PLACE

SETUP_SHELL = ("bash", "--noprofile", "--norc")
SETUP_TEXT = """\
# Called with the setup script and the command that follows it. Setup scripts of software stacks are written for bash and
# look at their arguments, and are not written for errexit.
gha_setup=$1
shift
gha_command=("$@")
set --
if [ ! -r "$gha_setup" ]; then
  echo "::error title=no setup script::$gha_setup cannot be read inside the container"
  exit 1
fi
. "$gha_setup"
gha_status=$?
if [ "$gha_status" -ne 0 ]; then
  echo "::warning title=setup script::$gha_setup ended with status $gha_status, the step goes on"
fi
unset gha_setup gha_status
exec "${gha_command[@]}"
"""
"""Sources a setup script, then becomes the step's own command, which has its own errexit."""


@dataclass(frozen=True)
class Script:
    """The step's lines as a file: its extension, its text, and the command line, with PLACE for the file's path.

    `fallback` is the command line where the first one's program does not exist; the runner looks for bash on its own machine, but whether
    an image has one is known only inside. (No shell may choose between them: dash drops variables whose names it does not like.)
    """

    extension: str
    text: str
    argv: Args
    fallback: Args = ()

    def command(self, path: str) -> Args:
        """The command line for the script at `path`."""
        return tuple(word.replace(PLACE, path) for word in self.argv)


def script(shell: str, lines: str) -> Script:
    """The script file and command line for a step's `shell` and `run`. Raises InputError for a shell that is none."""
    if not shell:
        return Script(".sh", lines, _DEFAULT, _WITHOUT_BASH)
    if shell in _BUILT_IN:
        argv, extension = _BUILT_IN[shell]
        return Script(extension, _powershell(lines) if shell == "pwsh" else lines, argv)
    if shell.lower() in _WINDOWS:
        raise InputError("input shell: %r exists on Windows only" % shell, remedy=_KNOWN)
    if PLACE not in shell:
        raise InputError("input shell: %r is no shell that is known here, and has no %s" % (shell, PLACE), remedy=_KNOWN)
    argv = tuple(split_arguments(shell))
    extension = _BUILT_IN[argv[0]][1] if argv[0] in _BUILT_IN else ""
    return Script(extension, lines, argv)


def _powershell(lines: str) -> str:
    """What the runner puts around a PowerShell script, so that errors and exit codes of programs end the step."""
    last = r"if ((Test-Path -LiteralPath variable:\LASTEXITCODE)) { exit $LASTEXITCODE }"
    return "$ErrorActionPreference = 'stop'\n%s\n%s" % (lines, last)


def split_arguments(text: str) -> List[str]:
    """A command template's words as the runner's .NET reads them: blanks divide, double quotes hold together, single ones are letters."""
    words: List[str] = []
    word, quoted, begun = "", False, False
    at = 0
    while at < len(text):
        letter = text[at]
        if letter == "\\" and text[at + 1 : at + 2] == '"':
            word, begun, at = word + '"', True, at + 1
        elif letter == '"':
            quoted, begun = not quoted, True
        elif letter in " \t\n" and not quoted:
            if begun:
                words.append(word)
            word, begun = "", False
        else:
            word, begun = word + letter, True
        at += 1
    if quoted:
        raise InputError("input shell: a quote is never closed in %r" % text, remedy=_KNOWN)
    return [*words, word] if begun else words


def view_script(inner: Args, setup: str, path: str) -> Args:
    """The command line that sources `setup` and then becomes `inner`; `path` is where SETUP_TEXT lies inside."""
    return (*SETUP_SHELL, path, setup, *inner)
