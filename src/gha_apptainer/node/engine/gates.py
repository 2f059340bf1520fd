"""Between the forwarders of two containers: a unix socket at which one is given sockets in the other's network namespace.

Who asks says "tcp 5432" and gets a socket that is on its way to that port (man 7 unix, SCM_RIGHTS); the bytes then pass one process, not
two. The sockets lie in the containers' record directories, which only their user can enter.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import Callable, List, Optional

from gha_apptainer.domain.containers import TCP, UDP
from gha_apptainer.node.engine.forwarding import BACKLOG, Dial, Got, Loop

GATE = "gate"
"""The socket's name in a container's record directory."""
_AT_ONCE = 64


class Gate:
    """Where the forwarders of other containers ask for sockets in this one's network namespace."""

    def __init__(self, loop: Loop, path: str, connect: Callable[[str, int], Optional[socket.socket]]) -> None:
        self._loop, self._connect, self._path = loop, connect, path
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self._bound = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._bound.bind(path)
        self._bound.listen(BACKLOG)
        loop.watch(self._bound.fileno(), select.EPOLLIN, self._ready)

    def close(self) -> None:
        """Ask no more."""
        self._loop.forget(self._bound.fileno())
        self._bound.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def _ready(self, _: int) -> None:
        for _attempt in range(_AT_ONCE):
            try:
                asker, _peer = self._bound.accept()
            except OSError:
                return
            asker.setblocking(False)

            def asked(_events: int, asker: socket.socket = asker) -> None:
                self._loop.forget(asker.fileno())
                self._serve(asker)

            self._loop.watch(asker.fileno(), select.EPOLLIN, asked)

    def _serve(self, asker: socket.socket) -> None:
        try:
            kind, _, port = asker.recv(64).decode("ascii").partition(" ")
            far = self._connect(kind, int(port)) if kind in (TCP, UDP) else None
            if far is None:
                asker.send(b"n")
            else:
                with far:
                    asker.sendmsg([b"y"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", far.fileno()))])
        except (OSError, ValueError):
            pass  # who asked is gone, or is not one of us
        finally:
            asker.close()


def dial_gate(loop: Loop, path: str, kind: str, port: int) -> Dial:
    """Ask the gate of another container for a socket in its network namespace. man 7 unix, SCM_RIGHTS."""
    asked: List[bool] = []

    def dial(got: Got) -> None:
        if asked:
            got(None)
            return
        asked.append(True)
        gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

        def answered(_: int) -> None:
            loop.forget(gate.fileno())
            handles: List[int] = []
            try:
                handles = _receive_handles(gate)
            except OSError:
                pass
            gate.close()
            got(socket.socket(fileno=handles[0]) if handles else None)

        try:
            gate.connect(path)
            gate.send(b"%s %d" % (kind.encode(), port))
        except OSError:
            gate.close()
            got(None)
            return
        loop.watch(gate.fileno(), select.EPOLLIN, answered)

    return dial


def _receive_handles(channel: socket.socket) -> List[int]:
    """The descriptors, one at most, of a message; they are closed by an exec."""
    _, ancillary, _, _ = channel.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    return [struct.unpack("=i", found[:4])[0] for level, kind, found in ancillary if (level, kind) == rights]
