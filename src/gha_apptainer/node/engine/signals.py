"""Signals: which are handed on, to exactly whom, and what they are called."""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import InputError
from gha_apptainer.node import process
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Tuple

    Handler = Any  # what signal.signal gives and takes again

PROXIED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that a foreground command hands on to its container's main process."""
CANCELLING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def signal_number(text: str) -> int:
    """The number of a signal by name or number, with or without SIG. Raises InputError."""
    name = text.upper()
    if name.isdigit() and 0 < int(name) < 65:
        return int(name)
    name = name if name.startswith("SIG") else "SIG" + name
    if name.startswith("SIGRTMIN+") and name[9:].isdigit():
        return int(signal.SIGRTMIN) + int(name[9:])
    found = getattr(signal, name, None)
    if not isinstance(found, int) or name.startswith("SIG_"):
        raise InputError("unknown signal %r" % text, remedy="use a name such as SIGTERM, or a number")
    return int(found)


def signal_name(number: int) -> str:
    """What a signal is called."""
    import signal as face

    try:
        return face.Signals(number).name
    except ValueError:
        return "signal %d" % number


def signal_process(pid: int, started: int, number: int) -> None:
    """A signal to exactly that process; gone is fine."""
    if process.alive(pid, started):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def signal_session(leader: int, started: int, number: int) -> None:
    """A signal to every process of the session that `leader` leads, as a terminal's Ctrl-C would reach a whole foreground job."""
    if not process.alive(leader, started):
        return
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.getsid(int(entry)) == leader:
                    os.kill(int(entry), number)
            except (ProcessLookupError, PermissionError):
                continue


def forward_to(pid: int) -> List[Tuple[int, Handler]]:
    """Hand signals on to a child of ours; gives the handlers that were there before."""

    def forward(number: int, _: object) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    return [(number, signal.signal(number, forward)) for number in PROXIED]
