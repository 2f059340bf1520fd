"""A thread in another network namespace. man 2 setns: a thread has a network namespace of its own, and a socket keeps its maker's."""

from __future__ import annotations

import socket
from queue import SimpleQueue
from threading import Thread
from typing import Any, Callable, Optional, Tuple


class Elsewhere:
    """A thread that has gone where `enter` brought it and stays there; what it is given to do is done there, one thing after the other."""

    def __init__(self, enter: Callable[[], None]) -> None:
        self._todo: SimpleQueue[Callable[[], Any]] = SimpleQueue()
        self._done: SimpleQueue[Tuple[Any, Optional[BaseException]]] = SimpleQueue()
        Thread(target=self._work, daemon=True).start()
        self.do(enter)

    def do(self, work: Callable[[], Any]) -> Any:
        """What `work` gives there; what it raises is raised here."""
        self._todo.put(work)
        result, error = self._done.get()
        if error is not None:
            raise error
        return result

    def _work(self) -> None:
        while True:
            work = self._todo.get()
            try:
                self._done.put((work(), None))
            except BaseException as error:  # noqa: BLE001  # it is raised where the work was given
                self._done.put((None, error))


def bound_socket(address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket of the calling thread's network namespace, bound."""
    found = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((address, port))
        return found
    except BaseException:
        found.close()
        raise
