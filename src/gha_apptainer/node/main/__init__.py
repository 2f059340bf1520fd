"""The verbs of the node side: the door of `python3 -I -S src VERB`, of the pyz and of the console script.

Rule: a verb is one row of `VERBS`, its module is imported when it is called and not before, and nothing but this package prints. stdout is
the result, stderr the talk. Docker-like verbs answer with Docker's exit codes (125 is ours, 126 and 127 are for a command that cannot be
started, else the command's own); the others with the code of their error (`domain/errors.py`); 130 is an interrupt.

This module imports only sys and os: its start-up time is every verb's start-up time.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Mapping, Optional, Sequence, Tuple

    from gha_apptainer.domain.errors import GhaError
    from gha_apptainer.node.main.context import Context

INTERRUPTED = 130
BROKEN_PIPE = 141
INTERNAL = 70
DOCKER_FAILURE = 125
TRACE = "GHA_APPTAINER_TRACE"
"""Set to 1, this variable has tracebacks printed with every error."""

DOCKER_LIKE = ("run", "create", "start", "exec", "stop", "kill", "rm", "ps", "logs", "inspect", "wait")

_HERE = "gha_apptainer.node.main."
VERBS: Dict[str, Tuple[str, str, str]] = {
    # verb: module, function, one line for --help ("" hides it)
    "run": (_HERE + "making", "run", "run a command in a new container"),
    "create": (_HERE + "making", "create", "make a container without starting it"),
    "start": (_HERE + "making", "start", "start a container that was made or has ended"),
    "exec": (_HERE + "making", "execute", "run a command in a running container"),
    "stop": (_HERE + "ending", "stop", "ask containers to end, then kill them"),
    "kill": (_HERE + "ending", "kill", "send a signal to containers"),
    "rm": (_HERE + "ending", "remove", "remove containers"),
    "wait": (_HERE + "ending", "wait", "wait until containers have ended, print their exit codes"),
    "ps": (_HERE + "showing", "ps", "list containers"),
    "logs": (_HERE + "showing", "logs", "print what a container wrote"),
    "inspect": (_HERE + "showing", "inspect", "print all that is known of containers, as JSON"),
    "build": (_HERE + "build", "main", "build an image from a Dockerfile"),
    "image": (_HERE + "image", "main", "resolve, pull, push, list and remove images"),
    "doctor": (_HERE + "doctor", "main", "check what this machine can do, with remedies"),
    "provision": (_HERE + "provision", "main", "install Apptainer for this user, or say how"),
    "hooks": (_HERE + "hooks", "main", "install and check the runner's container hooks"),
    "version": (_HERE + "version", "main", "print versions"),
    "action": ("gha_apptainer.node.actions.main", "main", ""),
    "hook": ("gha_apptainer.node.hooks.door", "main", ""),
}


def main(argv: Optional[Sequence[str]] = None, more: Sequence[Tuple[str, str]] = ()) -> int:
    """Run one verb and give the exit code. `more` are names and one-liners of commands that --help lists and another door serves."""
    _open_streams()
    words = tuple(_text(os.fsencode(word)) for word in (sys.argv[1:] if argv is None else argv))
    try:
        return _guarded(words, more)
    except BrokenPipeError:
        silence_stdout()
        return BROKEN_PIPE


def _guarded(words: Tuple[str, ...], more: Sequence[Tuple[str, str]]) -> int:
    verb = words[0] if words else ""
    try:
        code = _dispatch(verb, words[1:], more)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  # the door: whatever comes is told in one form
        return failed(verb, error)


def _dispatch(verb: str, rest: Tuple[str, ...], more: Sequence[Tuple[str, str]]) -> int:
    if verb in ("", "-h", "--help", "help"):
        return _help(rest if verb == "help" else (), more)
    if verb == "--version":
        verb = "version"
    if verb not in VERBS:
        raise _unknown(verb, more)
    if verb == "exec":  # the path of every step of a job: no parser, no documents, if the plain form is all that is asked for
        from gha_apptainer.node.engine import enter

        code = enter.main(list(rest))
        if code is not None:
            return code
    module, name, _ = VERBS[verb]
    __import__(module)  # loading importlib for it would cost more than most verbs
    function: Callable[..., int] = getattr(sys.modules[module], name)
    if module.startswith(_HERE) and verb in DOCKER_LIKE:
        return function(rest, _context())
    return function(rest)


def _context() -> Context:
    from gha_apptainer.node.main.context import Context

    return Context(environment())


def _help(rest: Tuple[str, ...], more: Sequence[Tuple[str, str]]) -> int:
    if rest and rest[0] in VERBS:
        return _dispatch(rest[0], ("--help",), more)
    from gha_apptainer.node.main.helping import overview

    tell(overview(more))
    return 0


def _unknown(verb: str, more: Sequence[Tuple[str, str]]) -> GhaError:
    import difflib

    from gha_apptainer.domain.errors import InputError

    known = [name for name, row in VERBS.items() if row[2]] + [name for name, _ in more]
    near = difflib.get_close_matches(verb, known, 3, 0.6)
    return InputError(
        "unknown command %r" % verb, remedy="did you mean %s?" % " or ".join(near) if near else "gha-apptainer --help lists the commands"
    )


def failed(verb: str, error: Exception) -> int:
    """Say once what went wrong, and give the exit code."""
    from gha_apptainer.domain.errors import GhaError, disk_full, is_disk_full

    if os.environ.get(TRACE) == "1":
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    name = "a file"
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:  # stdout itself is what failed, and would fail again wherever it is flushed
        silence_stdout()
        name = "standard output"
    if isinstance(error, OSError) and is_disk_full(error):
        error = disk_full(error, str(error.filename or name))
    if isinstance(error, GhaError):
        lines, code = error.lines(), error.exit_code
    else:
        told = "%s: %s" % (type(error).__name__, error)
        lines, code = ("internal error: " + told, "remedy: set %s=1 for the traceback, and report it" % TRACE), INTERNAL
    complain(lines)
    return DOCKER_FAILURE if verb in DOCKER_LIKE else code


def tell(text: str) -> None:
    """Print one line of the result on stdout."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")


def silence_stdout() -> None:
    """For a reader who has gone: the interpreter must not stumble over the same pipe when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


def complain(lines: Sequence[str]) -> None:
    """Print an error or a warning on stderr: the first line named after the program, the others indented."""
    sys.stdout.flush()
    text = "gha-apptainer: %s\n%s" % (lines[0], "".join("  %s\n" % line for line in lines[1:]))
    sys.stderr.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stderr.flush()


class Notes:
    """What a longer work says on stderr: lines, and on a terminal a last one that `rewrite` replaces."""

    def __init__(self, *, terminal: bool) -> None:
        self._open = False
        if terminal:
            self.rewrite = self._rewrite

    def __call__(self, text: str) -> None:
        """One line, in the place of the one that was rewritten."""
        if self._open:
            self._open = False
            self._write(b"\r\033[K")
        complain((text,))

    def _rewrite(self, text: str) -> None:
        self._open = True
        columns = os.get_terminal_size(2).columns or 80
        self._write(b"\r\033[K" + ("gha-apptainer: " + text)[: columns - 1].encode("utf-8", "surrogateescape"))

    def _write(self, data: bytes) -> None:
        sys.stderr.buffer.write(data)
        sys.stderr.flush()


def notes() -> Notes:
    """Notes for whoever reads our stderr."""
    return Notes(terminal=os.isatty(2))


def environment() -> Mapping[str, str]:
    """The caller's environment as our text, whatever the locale says."""
    return {_text(name): _text(value) for name, value in os.environb.items()}


def _open_streams() -> None:
    """A stream that the caller closed becomes /dev/null, lest a file of ours take its number and then its output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
