"""Terminals: a pty made inside the container, its master handed out, and the relay between it and the terminal in front of a person."""

from __future__ import annotations

import fcntl
import os
import select
import termios
import tty

from gha_apptainer.node.engine import channel as channels
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


def open_inside(channel: int) -> int:
    """In the container: make a pty in its own /dev/pts, send the master over the socket `channel`, take the other end as controlling
    terminal and give its descriptor.
    """
    master, end = os.openpty()
    sender = channels.at(os.dup(channel))
    try:
        channels.send_descriptor(sender, master)
    finally:
        sender.close()
        os.close(master)
    fcntl.ioctl(end, termios.TIOCSCTTY, 0)
    return end


class Relay:
    """Our terminal in raw mode, joined to a container's; a context manager that restores it, whatever happens."""

    def __init__(self, stdin: int, stdout: int, master: int) -> None:
        self._in, self._out, self._master = stdin, stdout, master
        self._saved: Any = None  # termios has no type for it

    def __enter__(self) -> Relay:
        if os.isatty(self._in):
            self._saved = termios.tcgetattr(self._in)
            tty.setraw(self._in, termios.TCSANOW)
            signal.signal(signal.SIGWINCH, lambda *_: self._resize())
        self._resize()
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._saved)
        os.close(self._master)

    def _resize(self) -> None:
        import fcntl

        try:
            size = fcntl.ioctl(self._out, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)
        except OSError:
            pass  # our output is no terminal: the container's keeps its default size

    def run(self, ended: Callable[[], bool]) -> None:
        """Copy both ways until the container's side closes, or `ended` says that its process is gone and nothing is left to read."""
        poller = select.poll()
        poller.register(self._master, select.POLLIN | select.POLLHUP)
        if self._in >= 0:
            poller.register(self._in, select.POLLIN | select.POLLHUP)
        while True:
            events = poller.poll(100)
            for handle, _ in events:
                try:
                    data = os.read(handle, 1 << 16)
                except OSError:
                    data = b""
                if not data:
                    if handle == self._master:
                        return
                    poller.unregister(handle)
                    continue
                target = self._out if handle == self._master else self._master
                while data:
                    data = data[os.write(target, data) :]
            if not events and ended():
                return
