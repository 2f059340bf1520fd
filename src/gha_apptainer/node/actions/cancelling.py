"""A cancel: SIGINT, SIGTERM 7.5 s later, SIGKILL 2.5 s after that, to our pid only.

While a container runs, the engine hands signals on and kills after GRACE; before and after, a signal ends what we do by an exception.
SIGKILL needs nothing from us: the container is tied to our pid.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

GRACE = 8.5
"""Seconds from the first signal to the end of the container: after the runner's SIGTERM, before its SIGKILL."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Cancelled(BaseException):
    """A signal asked us to stop. No Exception, so that nothing on the way takes it for a failure that may be tried again."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _raise(number: int, _frame: object) -> None:
    for one in SIGNALS:  # what follows is only cleaning up, and must not be broken off by the next signal
        signal.signal(one, _ignore)
    raise Cancelled(number)


def _ignore(_number: int, _frame: object) -> None:
    """A function, not SIG_IGN: children would inherit that."""


@contextmanager
def listening() -> Iterator[None]:
    """While it is entered, signals raise Cancelled, also where SIGINT was ignored when we started, as in a shell's background job."""
    before = [(one, signal.signal(one, _raise)) for one in SIGNALS]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def deaf() -> None:
    """From here on signals are let pass: the result is being written, and takes no time."""
    for one in SIGNALS:
        signal.signal(one, _ignore)
