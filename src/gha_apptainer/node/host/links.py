"""A private container's network card: a veth pair between its network namespace and a second one, in which its forwarder listens.

In the second namespace the forwarder can listen at the addresses of other containers without taking a port from anybody: what a container
binds, on all addresses or on one, is its own affair, as in Docker. man 7 rtnetlink; nothing here needs a right that the maker of the
two namespaces does not have.
"""

from __future__ import annotations

import os
import socket
import struct

INSIDE, OUTSIDE = "eth0", "gha0"
PREFIX = 8
"""Addresses are 10.x.y.z, of one big network: there is no other one that they could get in the way of."""

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_REQUEST, _ACK, _CREATE, _EXCLUSIVE = 0x1, 0x4, 0x400, 0x200
_ERROR = 2
_UP = 1
_NAME, _LINK_INFO, _NET_NS_FD = 3, 18, 28
_KIND, _DATA, _PEER = 1, 2, 1
_LOCAL, _ADDRESS, _DESTINATION, _OUT = 2, 1, 1, 4
_MAIN_TABLE, _BY_BOOT, _ON_LINK, _UNICAST = 254, 3, 253, 1


class Route:
    """Changes in the network namespace in which this was made. Every method raises OSError with the kernel's answer."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(5.0)

    def close(self) -> None:
        """Done."""
        self._socket.close()

    def pair(self, other: int) -> None:
        """Make both cards: INSIDE here, OUTSIDE in the namespace whose descriptor is `other`."""
        peer = _link() + _attribute(_NAME, OUTSIDE.encode() + b"\0") + _attribute(_NET_NS_FD, struct.pack("=I", other))
        data = _attribute(_KIND, b"veth\0") + _attribute(_DATA, _attribute(_PEER, peer))
        self._ask(_NEWLINK, _CREATE | _EXCLUSIVE, _link() + _attribute(_NAME, INSIDE.encode() + b"\0") + _attribute(_LINK_INFO, data))

    def drop(self, name: str) -> None:
        """Remove a card, and with it its other end; none is fine."""
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return
        self._ask(_DELLINK, 0, _link(index))

    def up(self, name: str) -> None:
        """Switch a card on."""
        self._ask(_NEWLINK, 0, _link(socket.if_nametoindex(name), _UP))

    def add_address(self, name: str, address: str, prefix: int) -> None:
        """Give a card an address; one that it has is fine."""
        try:
            self._ask(_NEWADDR, _CREATE | _EXCLUSIVE, _address(name, address, prefix))
        except FileExistsError:
            pass

    def add_network(self, name: str, network: str, prefix: int) -> None:
        """A network that is reached through a card."""
        head = struct.pack("=BBBBBBBBI", socket.AF_INET, prefix, 0, 0, _MAIN_TABLE, _BY_BOOT, _ON_LINK, _UNICAST, 0)
        card = struct.pack("=I", socket.if_nametoindex(name))
        self._ask(_NEWROUTE, _CREATE | _EXCLUSIVE, head + _attribute(_DESTINATION, socket.inet_aton(network)) + _attribute(_OUT, card))

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body)
        data = self._socket.recv(1 << 16)
        if struct.unpack_from("=H", data, 4)[0] != _ERROR:
            raise OSError(71, "the kernel did not answer a change of the network")
        number = -struct.unpack_from("=i", data, 16)[0]
        if number:
            raise OSError(number, os.strerror(number))


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + b"\0" * (-length % 4)


def _link(index: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=BBHiII", 0, 0, 0, index, flags, flags)


def _address(name: str, address: str, prefix: int) -> bytes:
    raw = socket.inet_aton(address)
    head = struct.pack("=BBBBI", socket.AF_INET, prefix, 0, 0, socket.if_nametoindex(name))
    return head + _attribute(_LOCAL, raw) + _attribute(_ADDRESS, raw)
