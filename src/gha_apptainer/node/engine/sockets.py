"""What the kernel says of sockets: who listens in a network namespace, and whose a connection is.

The kernel is asked through a sock_diag socket (man 7 sock_diag), one answer a question whatever the size of its tables; where that is
refused, its tables in /proc/net are read. Both belong to the network namespace in which they were opened.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from io import FileIO
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

_SOCK_DIAG, _BY_FAMILY = 4, 20
_REQUEST, _DUMP = 0x001, 0x300
_ERROR, _DONE = 2, 3
_LISTEN, _TIME_WAIT = 10, 6
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_HEAD = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBBI")
_ANSWER = struct.Struct("=BBBB")
_TAIL = struct.Struct("=IIIII")
_ID = 48

Address = Tuple[str, int]


class Row(NamedTuple):
    """One socket: state (man 7 sock_diag), its address, its peer's, its owner's uid as we see it, and its inode (0: nobody has it open)."""

    state: int
    local: Address
    remote: Address
    uid: int
    inode: int


class Table:
    """The TCP sockets of the network namespace in which this was made."""

    def __init__(self) -> None:
        self._files = [open("/proc/thread-self/net/" + name, "rb", 0) for name in ("tcp", "tcp6") if os.path.exists("/proc/net/" + name)]  # noqa: SIM115  # kept
        self._diag: Optional[socket.socket] = None
        try:
            self._diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
            self._diag.settimeout(2.0)
            self._ask_all(socket.AF_INET)
        except OSError:
            self._diag = None

    def close(self) -> None:
        """Give the kernel back what was opened."""
        for one in self._files:
            one.close()
        if self._diag is not None:
            self._diag.close()

    def listeners(self) -> List[Row]:
        """Every listening socket."""
        if self._diag is not None:
            try:
                return [row for family in (socket.AF_INET, socket.AF_INET6) for row in self._ask_all(family)]
            except OSError:
                self._diag = None  # a kernel that answered once and does no more; the tables remain
        return [row for row in self._read() if row.state == _LISTEN]

    def owner(self, local: Address, remote: Address) -> Optional[int]:
        """The uid of who holds the end of a connection whose addresses, seen from that end, are these; None where nobody is known.

        A socket that is closed already belongs to nobody: the kernel then shows uid 0.
        """
        if self._diag is not None:
            try:
                return self._ask_one(local, remote)
            except OSError:
                self._diag = None
        for row in self._read():
            if row.local == local and row.remote == remote:
                return row.uid if row.inode and row.state != _TIME_WAIT else None
        return None

    def _ask_one(self, local: Address, remote: Address) -> Optional[int]:
        family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
        question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + _socket_id(family, local, remote)
        for row in self._answers(question, 0):
            if row.local == local and row.remote == remote and row.inode:
                return row.uid
        return None

    def _ask_all(self, family: int) -> List[Row]:
        question = _QUESTION.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN) + bytes(_ID)
        return list(self._answers(question, _DUMP))

    def _answers(self, question: bytes, flags: int) -> Iterator[Row]:
        assert self._diag is not None
        self._diag.send(_HEAD.pack(_HEAD.size + len(question), _BY_FAMILY, _REQUEST | flags, 1, 0) + question)
        while True:
            data = self._diag.recv(1 << 18)
            at = 0
            while at + _HEAD.size <= len(data):
                length, kind, _, _, _ = _HEAD.unpack_from(data, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (number,) = struct.unpack_from("=i", data, at + _HEAD.size)
                    if -number == 2:  # ENOENT: there is no such socket
                        return
                    raise OSError(-number, os.strerror(-number))
                yield _row(data, at + _HEAD.size)
                at += (length + 3) & ~3
            if not flags:
                return

    def _read(self) -> Iterator[Row]:
        """The tables as man 5 proc_pid_net describes them."""
        for file in self._files:
            file.seek(0)
            for line in _whole(file).split(b"\n")[1:]:
                words = line.split()
                if len(words) > 9:
                    yield Row(int(words[3], 16), _address(words[1]), _address(words[2]), int(words[7]), int(words[9]))


def _whole(file: FileIO) -> bytes:
    parts: List[bytes] = []
    while True:
        part = file.read(1 << 18)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _socket_id(family: int, local: Address, remote: Address) -> bytes:
    ends = b"".join(socket.inet_pton(family, one[0]).ljust(16, b"\0") for one in (local, remote))
    return struct.pack(">HH", local[1], remote[1]) + ends + struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)


def _row(data: bytes, at: int) -> Row:
    family, state, _, _ = _ANSWER.unpack_from(data, at)
    ports = struct.unpack_from(">HH", data, at + 4)
    size = 4 if family == socket.AF_INET else 16
    ends = [socket.inet_ntop(family, data[start : start + size]) for start in (at + 8, at + 24)]
    uid, inode = _TAIL.unpack_from(data, at + 4 + _ID)[3:]
    return Row(state, (ends[0], ports[0]), (ends[1], ports[1]), uid, inode)


def _address(word: bytes) -> Address:
    """An address as the tables write it: each 32 bits in hex as the machine reads them, then the port."""
    address, _, port = word.partition(b":")
    raw = bytes.fromhex(address.decode())
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16)


WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  # names of addresses, nothing is bound


def overlaps(row: Row, address: str, port: int) -> bool:
    """Whether that listener keeps another from `address`:`port`."""
    return row.local[1] == port and (row.local[0] == address or row.local[0] in WILDCARDS or address in WILDCARDS)


def holder(row: Row) -> str:
    """Who has a listening socket open, as well as we may know: process and user."""
    import pwd

    pid = _process_with(row.inode)
    try:
        user = pwd.getpwuid(row.uid).pw_name
    except KeyError:
        user = "uid %d" % row.uid
    if not pid:
        return "a process of %s" % user
    try:
        with open("/proc/%d/comm" % pid) as file:
            return "process %d (%s) of %s" % (pid, file.read().strip(), user)
    except OSError:
        return "process %d of %s" % (pid, user)


def _process_with(inode: int) -> int:
    wanted = "socket:[%d]" % inode
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                for name in os.listdir("/proc/%s/fd" % entry):
                    if os.readlink("/proc/%s/fd/%s" % (entry, name)) == wanted:
                        return int(entry)
            except OSError:
                continue  # another user's, or gone
    return 0


def by_port(rows: List[Row]) -> Dict[int, List[str]]:
    """Ports with the addresses on which something listens."""
    found: Dict[int, List[str]] = {}
    for row in rows:
        found.setdefault(row.local[1], []).append(row.local[0])
    return found
