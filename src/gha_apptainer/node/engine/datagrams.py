"""Datagrams from many senders to one port: each sender has a session of his own, and is forgotten when he is silent."""

from __future__ import annotations

import select
import socket
import time
from functools import partial
from typing import Any, Callable, Dict, List, Optional

from gha_apptainer.node.engine.forwarding import CHUNK, Dial, Loop
from gha_apptainer.node.engine.sockets import Address

SESSION = 60.0
"""Seconds of silence after which a sender is forgotten."""
_SESSIONS = 1024
_WAITING = 16  # datagrams that wait for a session's socket
_AT_ONCE = 64


class Datagrams:
    """A bound datagram socket: every sender has a session of its own, with a socket whose answers go back to him."""

    def __init__(
        self,
        loop: Loop,
        bound: socket.socket,
        dial: Callable[[], Dial],
        admit: Callable[[Address, Address], bool] = lambda _peer, _own: True,
    ) -> None:
        self._loop, self._bound, self._dial, self._admit = loop, bound, dial, admit
        self._sessions: Dict[Any, _Session] = {}
        bound.setblocking(False)
        loop.watch(bound.fileno(), select.EPOLLIN, self._ready)

    def close(self) -> None:
        """Give the port back and forget every sender."""
        for one in list(self._sessions.values()):
            one.close()
        self._sessions.clear()
        self._loop.forget(self._bound.fileno())
        self._bound.close()

    def sweep(self) -> None:
        """Forget those who have been silent for SESSION seconds."""
        limit = time.monotonic() - SESSION
        for peer, session in list(self._sessions.items()):
            if session.last < limit:
                self._sessions.pop(peer).close()

    def _ready(self, _: int) -> None:
        for _attempt in range(_AT_ONCE):
            try:
                data, peer = self._bound.recvfrom(CHUNK)
            except OSError:
                return
            session = self._sessions.get(peer)
            if session is None:
                if len(self._sessions) >= _SESSIONS or not self._admit(peer[:2], self._bound.getsockname()[:2]):
                    continue
                session = self._sessions[peer] = _Session(self._loop, self._dial(), partial(self._answer, peer))
            session.send(data)

    def _answer(self, peer: Any, data: bytes) -> None:
        try:
            self._bound.sendto(data, peer)
        except OSError:
            pass  # datagrams may be lost


class _Session:
    def __init__(self, loop: Loop, dial: Dial, answer: Callable[[bytes], None]) -> None:
        self._loop, self._dial, self._answer = loop, dial, answer
        self._far: Optional[socket.socket] = None
        self._waiting: List[bytes] = []
        self._closed = False
        self._asking = False
        self._first = b""
        self.last = time.monotonic()

    def send(self, data: bytes) -> None:
        self.last = time.monotonic()
        if self._far is None:
            if len(self._waiting) < _WAITING:
                self._waiting.append(data)
            if not self._asking:
                self._asking = True
                self._dial(self._got)
            return
        try:
            self._far.send(data)
        except OSError:
            self._next(data)

    def _got(self, far: Optional[socket.socket]) -> None:
        self._asking = False
        if far is None or self._closed:
            self._waiting.clear()
            if far is not None:
                far.close()
            return
        self._far = far
        far.setblocking(False)
        self._loop.watch(far.fileno(), select.EPOLLIN, self._ready)
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self._first = self._first or data
            self.send(data)

    def _ready(self, _: int) -> None:
        assert self._far is not None
        try:
            data = self._far.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._next(self._first)  # nobody listens there: it may be the other loopback address
            return
        self._first = b""
        self.last = time.monotonic()
        self._answer(data)

    def _next(self, data: bytes) -> None:
        self._forget_far()
        if data and self._first:
            self._first = b""
            self._waiting.append(data)
            self._asking = True
            self._dial(self._got)

    def _forget_far(self) -> None:
        if self._far is not None:
            self._loop.forget(self._far.fileno())
            self._far.close()
            self._far = None

    def close(self) -> None:
        self._closed = True
        self._forget_far()
