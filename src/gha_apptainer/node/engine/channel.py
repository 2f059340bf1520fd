"""What a monitor and whoever started it say to each other: messages on a pair of sockets, one packet each.

A message is a word and its fields, divided by NUL: text that needs no parser, because it is read at every start. The words: `ready` (the
main process runs, or the container is held open), `note` (a line for people), `error` (class, what, cause, remedy), `end` (how it
ended). A terminal's master comes as a descriptor with a packet of one byte. man 7 unix.
"""

from __future__ import annotations

import os
import sys

from gha_apptainer.domain import errors
from gha_apptainer.domain.containers import ExitStatus
from gha_apptainer.domain.errors import EngineFailed, GhaError
from gha_apptainer.domain.values import fields
from gha_apptainer.node.interpreter import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Tuple

READY, NOTE, ERROR, END = "ready", "note", "error", "end"
MESSAGE = 1 << 18
"""The largest message, in bytes."""
END_LIMIT = 10.0
"""Seconds for what was killed to disappear; what hangs in the kernel cannot be waited for."""
READY_LIMIT = 300.0
"""Seconds until a container must hold; CVMFS may have to fetch its files first."""
DONTWAIT = socket.MSG_DONTWAIT
_TEXT_LIMIT = 1 << 15
_READERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "bool": lambda text: text == "True", "str": str}


def pair() -> Tuple[socket.socket, socket.socket]:
    """Both ends of a channel. They are closed by an exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def at(handle: int) -> socket.socket:
    """The end of a channel that this descriptor is."""
    return socket.socket(fileno=handle)


def message(word: str, *texts: str) -> bytes:
    """A message as its packet. No field can hold a NUL; long ones are cut, so that a packet always fits."""
    return "\0".join([word, *[text.replace("\0", "?")[:_TEXT_LIMIT] for text in texts]]).encode("utf-8", "surrogateescape")


def read_message(data: bytes) -> Tuple[str, ...]:
    """Word and fields of a packet."""
    return tuple(data.decode("utf-8", "surrogateescape").split("\0"))


def end_message(status: ExitStatus) -> bytes:
    """How a container ended."""
    return message(END, *[str(getattr(status, one.name)) for one in fields(status)])


def read_end(texts: Tuple[str, ...]) -> ExitStatus:
    """The status in the fields of an `end` message. Raises EngineFailed if it is none."""
    kinds = [(one.name, _READERS[str(one.type)]) for one in fields(ExitStatus)]
    if len(kinds) != len(texts):
        raise EngineFailed("unknown: the container's monitor said something else than how it ended")
    values: dict[str, Any] = {name: read(text) for (name, read), text in zip(kinds, texts)}
    return ExitStatus(**values)


def error_message(error: GhaError, cause: str) -> bytes:
    """An error, with `cause` in place of its own."""
    return message(ERROR, type(error).__name__, error.what, cause, error.remedy)


def read_error(texts: Tuple[str, ...]) -> GhaError:
    """The monitor's error as the class it was there."""
    return error_named(*texts)


def error_named(kind: str, what: str, cause: str, remedy: str) -> GhaError:
    """An error of the class of that name."""
    found = getattr(errors, kind, EngineFailed)
    if not (isinstance(found, type) and issubclass(found, GhaError)) or found is errors.ProcessFailed:
        found = EngineFailed
    return found(what, cause=cause, remedy=remedy)


def send_descriptor(channel: socket.socket, handle: int) -> None:
    """Send one descriptor over a unix socket: SCM_RIGHTS."""
    channel.sendmsg([b"t"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handle.to_bytes(4, sys.byteorder))])


def receive(channel: socket.socket, size: int = MESSAGE) -> Tuple[bytes, int]:
    """One packet and the descriptor that came with it, or -1."""
    data, extra, _, _ = channel.recvmsg(size, socket.CMSG_SPACE(4))
    for level, kind, content in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            handle = int.from_bytes(content[:4], sys.byteorder)
            os.set_inheritable(handle, False)
            return data, handle
    return data, -1
