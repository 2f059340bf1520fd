"""The door that the shims open: one call of the runner, from stdin to an exit code.

usage: hook [--tie PID] [--owner PID] [--policy FILE]
The call is one JSON object on stdin. `--tie` ends us with our parent PID, `--owner` names the process to which a job's containers belong.
"""

from __future__ import annotations

import os
import sys

from gha_apptainer.node.hooks import cancelling, telling
from gha_apptainer.node.interpreter import signal

MYPY = False
if MYPY:
    from typing import Any

FAILED = 125
_LIMIT = 256 << 20


class Call:
    """How the shim called us."""

    __slots__ = ("owner", "policy", "tie")

    def __init__(self) -> None:
        self.owner, self.policy, self.tie = 0, "", 0


class BadCall(Exception):
    """The shim's arguments or the runner's request cannot be read."""


def arguments(argv: list[str]) -> Call:
    """The shim's arguments."""
    call = Call()
    at = 0
    while at < len(argv):
        word = argv[at]
        if word == "--tie" and at + 1 < len(argv) and argv[at + 1].isdigit():
            at += 1
            call.tie = int(argv[at])
        elif word == "--owner" and at + 1 < len(argv) and argv[at + 1].isdigit():
            at += 1
            call.owner = int(argv[at])
        elif word == "--policy" and at + 1 < len(argv):
            at += 1
            call.policy = argv[at]
        else:
            raise BadCall("unknown argument %r; the shims that `gha-apptainer hooks install` writes know what to say" % word)
        at += 1
    return call


def main(argv: list[str]) -> int:
    """Serve one call; the exit code is the command's own, or 125 where the failure is ours."""
    watch = cancelling.Watch()
    try:
        watch.listen()
        call = arguments(list(argv))
        if call.tie:
            _tie(call.tie)
        request = parse(_stdin())
        if request.get("command") == "run_script_step":
            from gha_apptainer.node.hooks import step

            return step.run(request, watch)
        from gha_apptainer.node.hooks import serving

        return serving.serve(request, call, watch)
    except cancelling.Cancelled as stop:
        telling.write("\ngha-apptainer: cancelled (%s) before anything ran\n" % cancelling.name(stop.number))
        return 128 + stop.number
    except BadCall as error:
        telling.error("container hooks", str(error))
        return FAILED
    except Exception as error:  # noqa: BLE001  # the door: whatever comes is told, and fails the step
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """Say a defect of ours, without the request's text: that holds secrets."""
    if os.environ.get("GHA_APPTAINER_TRACE") == "1":
        import traceback

        traceback.print_exc()
    telling.error(
        "container hooks",
        "internal error: %s: %s\nset GHA_APPTAINER_TRACE=1 for the traceback, and report it" % (type(error).__name__, error),
    )
    return FAILED


def _tie(parent: int) -> None:
    """End with our parent, the shim: a SIGKILL of the hook must end what it started."""
    from gha_apptainer.node.engine import kernel

    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before that could take effect
        sys.exit(FAILED)


def _stdin() -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        part = os.read(0, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > _LIMIT:
            raise BadCall("the runner's request is larger than %d bytes" % _LIMIT)


class _Context:
    """What the scanner below takes from json.JSONDecoder."""

    strict, object_hook, object_pairs_hook, parse_float, parse_int = False, None, None, float, int

    @staticmethod
    def parse_constant(name: str) -> float:
        """NaN and its like are no JSON."""
        raise ValueError(name)


def parse(data: bytes) -> dict[str, Any]:
    """The request's object. The scanner of the standard `json` is taken without that module, whose loading costs as much as a join."""
    try:
        text = data.decode("utf-8").strip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        raise BadCall("the runner's request is no UTF-8") from None
    try:
        value = _scanned(text)
    except RecursionError:
        raise BadCall("the runner's request is nested too deeply") from None
    except (ImportError, ValueError, StopIteration, AttributeError, TypeError, SystemError):  # the last where it looks for its error class
        value = _loaded(text)
    if not isinstance(value, dict):
        raise BadCall("the runner's request is no JSON object")
    return value


def _scanned(text: str) -> object:
    from _json import make_scanner

    value, end = make_scanner(_Context)(text, 0)  # type: ignore[arg-type]  # any object with these names
    if end != len(text):
        raise ValueError(end)
    found: object = value
    return found


def _loaded(text: str) -> object:
    """By the standard module, whose errors have a place and no words of the request."""
    import json

    try:
        found: object = json.loads(text, parse_constant=_Context.parse_constant)
        return found
    except ValueError as error:
        raise BadCall("the runner's request is no JSON object: %s" % error) from None
    except RecursionError:
        raise BadCall("the runner's request is nested too deeply") from None
