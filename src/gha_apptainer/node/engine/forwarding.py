"""Bytes from one socket to another, thousands at once, in flat memory: the event loop of a container's forwarder.

A connection is two sockets. What comes from one is sent to the other before more is read, so that a slow reader slows its writer down as
TCP itself would. The end of one direction is passed on and the other goes on; a reset is passed on as a reset. Until there is
a second socket, nothing of the first is read.
"""

from __future__ import annotations

import errno
import heapq
import resource
import select
import socket
import struct
import time
from typing import Callable, Dict, Iterator, List, Optional, Set, Tuple

from gha_apptainer.node.engine.sockets import Address

CHUNK = 1 << 16
BACKLOG = 4096
_AT_ONCE = 64
_BREATH = 0.1  # seconds without accepting when descriptors have run out
_SPARE = 96
_STARVED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESET = struct.pack("ii", 1, 0)

Got = Callable[[Optional[socket.socket]], None]
Dial = Callable[[Got], None]
"""Calls back with a socket that is connected or connecting; called again where that one fails; None when there is no other."""


class Loop:
    """Descriptors and moments, and what is called for them."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._calls: Dict[int, Callable[[int], None]] = {}
        self._moments: List[Tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.running = True
        self.most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE) // 2
        """So many connections there may be at once: two descriptors each, and some for everything else."""

    def watch(self, handle: int, events: int, call: Callable[[int], None]) -> None:
        """Call `call` with what has happened whenever one of `events` has; no events is `forget`."""
        if not events:
            self.forget(handle)
            return
        if handle in self._calls:
            self._poll.modify(handle, events)
        else:
            self._poll.register(handle, events)
        self._calls[handle] = call

    def forget(self, handle: int) -> None:
        """Watch it no longer; must come before it is closed."""
        if self._calls.pop(handle, None) is not None:
            self._poll.unregister(handle)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once, that much later."""
        self._count += 1
        heapq.heappush(self._moments, (time.monotonic() + seconds, self._count, call))

    def run(self) -> None:
        """Until `running` is false."""
        while self.running:
            limit = max(0.0, self._moments[0][0] - time.monotonic()) if self._moments else -1
            for handle, events in self._poll.poll(limit, 256):
                call = self._calls.get(handle)
                if call is not None:  # an earlier one of this round may have ended it
                    call(events)
            while self._moments and self._moments[0][0] <= time.monotonic():
                heapq.heappop(self._moments)[2]()


class Connection:
    """One accepted socket and the one that it is joined to."""

    def __init__(self, loop: Loop, near: socket.socket, dial: Dial, ended: Callable[[Connection], None]) -> None:
        self._loop, self._dial, self._ended = loop, dial, ended
        self._ends: List[Optional[socket.socket]] = [near, None]
        self._pending: List[memoryview] = [memoryview(b""), memoryview(b"")]
        self._over = [False, False]
        self._closed = False

    def start(self) -> None:
        """Look for the second socket."""
        self._dial(self._got)

    def _got(self, far: Optional[socket.socket]) -> None:
        if self._closed:
            if far is not None:
                far.close()
            return
        if far is None:
            self.abort()
            return
        self._ends[1] = far
        self._loop.watch(far.fileno(), select.EPOLLOUT, self._connected)

    def _connected(self, _: int) -> None:
        near, far = self._ends
        assert near is not None
        assert far is not None
        if far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._loop.forget(far.fileno())
            far.close()
            self._ends[1] = None
            self._dial(self._got)
            return
        for one in (near, far):
            one.setblocking(False)
            if one.family != socket.AF_UNIX:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._settle()

    def _near_moved(self, events: int) -> None:
        self._moved(0, events)

    def _far_moved(self, events: int) -> None:
        self._moved(1, events)

    def _moved(self, side: int, events: int) -> None:
        try:
            if events & select.EPOLLOUT and self._pending[side]:
                self._send(side, self._pending[side])
            if events & ~select.EPOLLOUT and not self._over[side] and not self._pending[1 - side]:
                self._read(side)
        except BlockingIOError:
            pass
        except OSError:
            self.abort()
            return
        self._settle()

    def _read(self, side: int) -> None:
        source = self._ends[side]
        assert source is not None
        data = source.recv(CHUNK)
        if data:
            self._send(1 - side, memoryview(data))
        else:
            self._over[side] = True
            self._pass_end(1 - side)

    def _send(self, side: int, data: memoryview) -> None:
        target = self._ends[side]
        assert target is not None
        try:
            data = data[target.send(data) :]
        except BlockingIOError:
            pass
        self._pending[side] = data
        if not data and self._over[1 - side]:
            self._pass_end(side)

    def _pass_end(self, side: int) -> None:
        target = self._ends[side]
        assert target is not None
        if not self._pending[side]:
            try:
                target.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:  # it is gone by itself
                    raise

    def _settle(self) -> None:
        """Close, or watch for what can be done next."""
        if all(self._over) and not any(self._pending):
            self._close()
            return
        for side, call in ((0, self._near_moved), (1, self._far_moved)):
            end = self._ends[side]
            assert end is not None
            events = select.EPOLLIN if not self._over[side] and not self._pending[1 - side] else 0
            self._loop.watch(end.fileno(), events | (select.EPOLLOUT if self._pending[side] else 0), call)

    def finish(self) -> None:
        """The far side's machine has ended: close as soon as all that came from there is delivered."""
        if (self._over[1] or self._ends[1] is None) and not self._pending[0]:
            self._close()

    def abort(self) -> None:
        """End both sides at once, with a reset."""
        for one in self._ends:
            if one is not None and one.family != socket.AF_UNIX:
                try:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                except OSError:
                    pass
        self._close()

    def _close(self) -> None:
        self._closed = True
        for one in self._ends:
            if one is not None:
                self._loop.forget(one.fileno())
                one.close()
        self._ended(self)


class Listener:
    """A bound socket that accepts while it should, and joins each connection that is admitted."""

    def __init__(
        self,
        loop: Loop,
        bound: socket.socket,
        dial: Callable[[], Dial],
        connections: Set[Connection],
        admit: Callable[[Address, Address], bool] = lambda _peer, _own: True,
    ) -> None:
        self._loop, self._bound, self._dial, self._admit = loop, bound, dial, admit
        self._connections = connections
        self.listening = False
        bound.setblocking(False)

    def listen(self) -> None:
        """Accept from now on."""
        if not self.listening:
            self._bound.listen(BACKLOG)
            self.listening = True
            self._loop.watch(self._bound.fileno(), select.EPOLLIN, self._ready)

    def hush(self) -> None:
        """Refuse connections from now on, and keep the port. Those that wait already are reset."""
        if self.listening:
            self._loop.forget(self._bound.fileno())
            self.listening = False
            try:
                self._bound.shutdown(socket.SHUT_RD)
            except OSError:
                pass

    def close(self) -> None:
        """Give the port back."""
        self._loop.forget(self._bound.fileno())
        self._bound.close()
        self.listening = False

    def _ready(self, _: int) -> None:
        for _attempt in range(_AT_ONCE):
            if len(self._connections) >= self._loop.most:
                self._rest()
                return
            try:
                near, peer = self._bound.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _STARVED:
                    self._rest()
                return
            try:
                admitted = self._admit(peer[:2], near.getsockname()[:2])
            except OSError:
                admitted = False
            connection = Connection(self._loop, near, self._dial(), self._connections.discard)
            self._connections.add(connection)
            if admitted:
                connection.start()
            else:
                connection.abort()

    def _rest(self) -> None:
        """Accept no more for a moment; callers wait in the kernel's queue meanwhile."""
        self._loop.forget(self._bound.fileno())
        self._loop.later(_BREATH, self._again)

    def _again(self) -> None:
        if self.listening:
            self._loop.watch(self._bound.fileno(), select.EPOLLIN, self._ready)


def dial_here(port: int, addresses: List[str], kind: int = socket.SOCK_STREAM) -> Dial:
    """Connect to one of the addresses in the network namespace of the calling thread, in their order."""
    rest: Iterator[str] = iter(addresses)

    def dial(got: Got) -> None:
        for address in rest:
            far = connecting(address, port, kind)
            if far is not None:
                got(far)
                return
        got(None)

    return dial


def connecting(address: str, port: int, kind: int = socket.SOCK_STREAM) -> Optional[socket.socket]:
    """A socket of this thread's network namespace on its way to that address; None if there is no way."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        far = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    if far.connect_ex((address, port)) in (0, errno.EINPROGRESS, errno.EAGAIN):
        return far
    far.close()
    return None
