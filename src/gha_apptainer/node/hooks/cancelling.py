"""A cancel of a step in the job container: SIGINT, SIGTERM 7.5 s later, SIGKILL 2.5 s after that, to our pid only.

The first signal goes to everything that the step has started and that still belongs to it; what is left GRACE seconds later is killed. The
job container itself goes on: `always()` steps and the job's end come after this. Imports what the joiner imports.
"""

from __future__ import annotations

import os
import time

from gha_apptainer.node.hooks import telling
from gha_apptainer.node.interpreter import signal

MYPY = False
if MYPY:
    from types import FrameType

GRACE = 5.0
"""Seconds from the first signal to the end of the step; the runner's own next signal comes after 7.5."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_NAMES = {int(one): "SIG" + name for one, name in zip(SIGNALS, ("INT", "TERM", "HUP", "QUIT"))}


class Cancelled(BaseException):
    """A signal came before the step's command ran."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Watch:
    """From `listen` on signals cancel: by an exception until `starting`, after `command` by ending that process and its descendants.

    In between the command may run already while its pid is on the way to us: a signal is kept until then, a second one breaks it off.
    """

    def __init__(self) -> None:
        self.number = 0
        self._pid = 0
        self._starting = False
        self._tree: dict[int, int] = {}
        self._deadline = 0.0

    def listen(self) -> None:
        """Install handlers, also where SIGINT was ignored when we started, as in a shell's background job."""
        for one in SIGNALS:
            signal.signal(one, self._got)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def starting(self) -> None:
        """The command is being started."""
        self._starting = True

    def command(self, pid: int) -> None:
        """From here on the step's main process is `pid`."""
        self._pid = pid
        if self.number:
            self._cancel()

    def _got(self, number: int, _frame: FrameType | None) -> None:
        if self.number and number == self.number:
            return
        first = not self.number
        self.number = self.number or number
        if not self._pid:
            if self._starting and first:
                return
            raise Cancelled(self.number)
        if first:
            self._cancel()
        else:
            self._late(number, None)

    def _cancel(self) -> None:
        telling.write("\ngha-apptainer: the step was cancelled (%s)\n" % _NAMES[self.number])
        self._deadline = time.monotonic() + GRACE
        self._tree = tree(self._pid)
        send(self._tree, self.number)
        signal.signal(signal.SIGALRM, self._late)
        signal.setitimer(signal.ITIMER_REAL, GRACE)

    def _late(self, _number: int, _frame: FrameType | None) -> None:
        self._tree.update(tree(self._pid))
        send(self._tree, signal.SIGKILL)

    def finish(self, code: int) -> int:
        """After the main process ended with `code`: what the step's exit code is. What it started before a cancel gets the rest of the
        grace, then it is killed: nothing of a cancelled step runs on.
        """
        if not self.number:
            return code
        self._tree.update(tree(self._pid))  # what it started meanwhile is of its session still
        while any(started(pid) == began for pid, began in self._tree.items()):
            if time.monotonic() > self._deadline:
                send(self._tree, signal.SIGKILL)
            if time.monotonic() > self._deadline + 1.0:
                break
            time.sleep(0.02)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        return 128 + self.number


def name(number: int) -> str:
    """A signal's name."""
    if number in _NAMES:
        return _NAMES[number]
    import signal as named  # the module with the names is slow to load, and few commands end so

    return named.Signals(number).name


def _stat(pid: int) -> list[bytes]:
    try:
        with open("/proc/%d/stat" % pid, "rb") as handle:
            text = handle.read()
    except OSError:
        return []
    return text[text.rindex(b")") + 2 :].split()


def started(pid: int) -> int:
    """When a process started; 0 if it has ended."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in (b"Z", b"X") else 0


def tree(top: int) -> dict[int, int]:
    """All descendants of a process and all of its session, itself included: pid -> start time."""
    children: dict[int, list[int]] = {}
    found: dict[int, int] = {}
    starts: dict[int, int] = {}
    todo = [top]
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        fields = _stat(int(entry))
        if not fields or fields[0] in (b"Z", b"X"):
            continue
        pid = int(entry)
        starts[pid] = int(fields[19])
        children.setdefault(int(fields[1]), []).append(pid)
        if int(fields[3]) == top:
            todo.append(pid)
    while todo:
        pid = todo.pop()
        if pid not in found and pid in starts:
            found[pid] = starts[pid]
            todo += children.get(pid, [])
    return found


def send(processes: dict[int, int], number: int) -> None:
    """A signal to exactly these processes; gone is fine."""
    for pid, began in processes.items():
        if started(pid) == began:
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue
