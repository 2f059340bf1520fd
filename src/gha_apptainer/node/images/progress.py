"""Progress of a transfer, for a terminal and for a log alike.

The seam: a `tell` callable takes one line of text. If it also has a method `rewrite(text)`, it is a terminal, and `rewrite` replaces the
last line; the face that owns the terminal provides it. Without one, a log gets a line every LOG_INTERVAL seconds at most.
"""

from __future__ import annotations

import time
from typing import Callable, Optional

LOG_INTERVAL = 5.0
TERMINAL_INTERVAL = 0.2
Tell = Callable[[str], None]


class Progress:
    """How far one thing is; `total` in bytes, 0 if unknown."""

    def __init__(self, tell: Tell, what: str, total: int) -> None:
        self._tell = tell
        self._rewrite: Optional[Tell] = getattr(tell, "rewrite", None)
        self._what = what
        self._total = total
        self._began = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether `at` would show anything now: counting may cost more than showing."""
        return time.monotonic() - self._last >= (TERMINAL_INTERVAL if self._rewrite else LOG_INTERVAL)

    def at(self, done: int, doing: str = "fetched") -> None:
        """`done` bytes so far; shown only as often as it is of use."""
        if not self.due():
            return
        now = self._last = time.monotonic()
        text = "%s: %s %s" % (self._what, megabytes(done), doing)
        if self._total:
            text = "%s: %s of %s %s" % (self._what, megabytes(done), megabytes(self._total), doing)
        (self._rewrite or self._tell)("%s (%.0f s)" % (text, now - self._began))


def megabytes(count: int) -> str:
    """A number of bytes as people read it."""
    return "%.1f MB" % (count / 1e6) if count < 1e8 else "%.0f MB" % (count / 1e6)
