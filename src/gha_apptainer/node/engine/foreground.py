"""The near end of the channel to a monitor: who waits there, with his signals and his terminal."""

from __future__ import annotations

import os
import select
import time

from gha_apptainer.domain.containers import ExitStatus, Stdio
from gha_apptainer.domain.errors import DOCKER_FAILURE
from gha_apptainer.domain.values import replace
from gha_apptainer.node.engine import channel as channels
from gha_apptainer.node.engine.records import Records
from gha_apptainer.node.engine.signals import CANCELLING, PROXIED, signal_name, signal_process, signal_session
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

    from gha_apptainer.node.engine.signals import Handler
    from gha_apptainer.node.interpreter import socket

_GONE = 30.0  # seconds for a killed container to be told
_EARLY = 1.0  # seconds: a container that starts at all has started by then


class CancelledEarly(Exception):
    """A signal came before the main process ran."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Foreground:
    """The caller of a foreground container: its signals, its terminal, and the channel on which the end arrives."""

    def __init__(self, records: Records, identity: str, stdio: Stdio, grace: float) -> None:
        self._records, self._identity, self._stdio, self._grace = records, identity, stdio, grace
        self._before: List[Tuple[int, Handler]] = []
        self._pending: List[int] = []
        self._deadline = 0.0
        self._cancelled = 0
        self._early = 0.0
        self._given_up = 0.0
        self.master = -1

    def __enter__(self) -> Foreground:
        self.wake, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before = signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        for number in PROXIED:
            self._before.append((number, signal.signal(number, lambda got, _: self._pending.append(got))))
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before:
            signal.signal(number, handler)
        os.close(self.wake)
        os.close(self._wake_out)

    def forward_if_started(self) -> None:
        """Hand pending signals on, if there is a main process to hand them to."""
        running = self._records.running(self._identity) if self._pending else None
        if running is None or not running.main:
            return
        pending, self._pending = self._pending, []
        for number in pending:
            if self._grace and number in CANCELLING:
                self._cancelled = self._cancelled or number
                self._deadline = self._deadline or time.monotonic() + self._grace
                signal_session(running.main, running.main_started, number)
            else:
                signal_process(running.main, running.main_started, number)

    def woken(self) -> None:
        """Take the bytes by which a signal ended our wait."""
        os.read(self.wake, 4096)

    def early_limit(self) -> float:
        """Seconds that a start may go on although a signal that ends commands has come; without one, as long as a start may take.

        The command may run already while the word of it is on its way, and then the signal is the command's. Raises CancelledEarly when
        the time is over.
        """
        early = [number for number in self._pending if number in CANCELLING]
        if not early:
            return channels.READY_LIMIT + 60
        self._early = self._early or time.monotonic() + _EARLY
        left = self._early - time.monotonic()
        if left <= 0:
            raise CancelledEarly(early[0])
        return left

    def judged(self, status: ExitStatus) -> ExitStatus:
        """The status, never success for work that was cancelled: a program may end with 0 when it is asked to stop."""
        if not self._cancelled or status.reason:
            return status
        reason = "cancelled by %s" % signal_name(self._cancelled)
        return replace(status, exit_code=status.exit_code or 128 + self._cancelled, reason=reason)

    def wait(self, channel: socket.socket) -> ExitStatus:
        """Until the monitor tells the end. No word from it is a failure that says so."""
        if self.master >= 0:
            from gha_apptainer.node.engine import terminal

            with terminal.Relay(self._stdio.stdin, self._stdio.stdout, self.master) as relay:
                relay.run(lambda: bool(select.select([channel], [], [], 0)[0]))
        while True:
            self.forward_if_started()
            left = self._deadline - time.monotonic() if self._deadline else 3600.0
            if self._deadline and left <= 0:
                running = self._records.running(self._identity)
                if running is not None:
                    signal_process(running.init, running.init_started, signal.SIGKILL)
                self._deadline, left = 0.0, _GONE
                self._given_up = time.monotonic() + _GONE
            if self._given_up and time.monotonic() > self._given_up:
                return ExitStatus(
                    DOCKER_FAILURE, finished=time.time(), reason="unknown: the container was killed and its monitor does not answer"
                )
            ready = select.select([channel, self.wake], [], [], max(left, 0.0))[0]
            if self.wake in ready:
                self.woken()
            if channel not in ready:
                continue
            data = channel.recv(channels.MESSAGE)
            if not data:
                return ExitStatus(DOCKER_FAILURE, finished=time.time(), reason="unknown: the container's monitor was lost")
            word, *texts = channels.read_message(data)
            if word == channels.ERROR:
                raise channels.read_error(tuple(texts))
            return channels.read_end(tuple(texts))
