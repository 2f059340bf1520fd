"""The other containers of a network, as one container's forwarder serves them: their names, and listeners at their addresses.

For a private container these listeners are at the far end of a network card (`links`), in a network namespace of their own. A container in
the machine's network reaches the others at their loopback addresses there; it needs their names only.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from functools import partial
from typing import Dict, Mapping, Set, Tuple

from gha_apptainer.domain.containers import NETWORK_HOST, TCP, UDP, Args, ContainerSpec
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node import files, process
from gha_apptainer.node.engine import kernel, namespaces, networks, rootpaths
from gha_apptainer.node.engine.datagrams import Datagrams
from gha_apptainer.node.engine.elsewhere import Elsewhere, bound_socket
from gha_apptainer.node.engine.forwarding import Connection, Listener, Loop
from gha_apptainer.node.engine.gates import GATE, dial_gate
from gha_apptainer.node.engine.records import Records
from gha_apptainer.node.host import links

_HOSTS_LIMIT = 5.0  # seconds to write a small file


class Members:
    """The view of one member. `blocked` is empty, or says why the others cannot be reached."""

    def __init__(
        self, records: Records, identity: str, spec: ContainerSpec, init: int, root: str, loop: Loop, connections: Set[Connection]
    ) -> None:
        self._spec, self._init, self._root = spec, init, root
        self._loop, self._connections = loop, connections
        self._private = spec.network != NETWORK_HOST
        self._membership = networks.Membership(records, spec.network_name, identity)
        self._names = networks.own_names(spec, records.name(identity), identity)
        self._listeners: Dict[Tuple[str, int], Listener] = {}
        self._datagrams: Dict[Tuple[str, int], Datagrams] = {}
        self._hosts: Tuple[Tuple[str, Args], ...] = ()
        self.blocked = ""

    # our own part

    def say(self, tcp: Tuple[int, ...]) -> None:
        """Tell the others where we are and which ports are open."""
        udp = tuple(port.container for port in self._spec.exposed if port.protocol == UDP)
        monitor = os.getppid()
        where = (monitor, process.start_time(monitor), process.here())
        self._membership.say(networks.Member(self._spec.address, self._names, tcp if self._private else (), udp, *where))

    def leave(self) -> None:
        """Tell them that we are gone, and listen no more."""
        for one in self._listeners.values():
            one.close()
        for each in self._datagrams.values():
            each.close()
        self._membership.leave()

    def make_card(self) -> None:
        """Make the network card; called where the container's network is. What stands in the way is told by `blocked`."""
        try:
            self._make_card()
        except OSError as error:
            self.blocked = "no other container of network %s can be reached: a network card cannot be made (%s)" % (
                self._spec.network_name,
                error.strerror,
            )

    def _make_card(self) -> None:
        self._behind = Elsewhere(_new_network)
        far: int = self._behind.do(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        route = links.Route()
        try:
            route.drop(links.INSIDE)  # a forwarder before us had one
            route.pair(far)
            route.add_address(links.INSIDE, networks.inner(self._spec.address), links.PREFIX)
            self._route: links.Route = self._behind.do(links.Route)
            self._behind.do(self._set_up_behind)
            route.up(links.INSIDE)
        finally:
            route.close()
            os.close(far)

    def _set_up_behind(self) -> None:
        self._route.up(links.OUTSIDE)
        self._route.add_network(links.OUTSIDE, "10.0.0.0", links.PREFIX)

    # the others

    def follow(self) -> None:
        """Whoever is a member just now: names in /etc/hosts, and listeners at addresses behind our network card."""
        others = self._membership.others()
        for one in self._datagrams.values():
            one.sweep()
        if self._private and not self.blocked:
            self._follow_ports(others)
        if self.blocked:
            lines: Tuple[Tuple[str, Args], ...] = ()
        elif self._private:
            itself = ("127.0.1.1", self._names)
            lines = (itself, *((networks.inner(one.address), one.names) for one in others.values() if one.address))
        else:
            lines = tuple((one.address, one.names) for one in others.values() if one.address)
        if lines != self._hosts:
            self._write_hosts(lines)
            self._hosts = lines

    def _follow_ports(self, others: Mapping[str, networks.Member]) -> None:
        wanted = {(one.address, port): identity for identity, one in others.items() for port in one.tcp if one.address}
        wanted_datagrams = {(one.address, port): identity for identity, one in others.items() for port in one.udp if one.address}
        for key in [one for one in self._listeners if one not in wanted]:
            self._listeners.pop(key).close()
        for key in [one for one in self._datagrams if one not in wanted_datagrams]:
            self._datagrams.pop(key).close()
        for key, identity in wanted.items():
            if key not in self._listeners:
                bound = self._bound_behind(*key, socket.SOCK_STREAM)
                dial = partial(dial_gate, self._loop, os.path.join("..", identity, GATE), TCP, key[1])
                self._listeners[key] = Listener(self._loop, bound, dial, self._connections)
                self._listeners[key].listen()
        for key, identity in wanted_datagrams.items():
            if key not in self._datagrams:
                bound = self._bound_behind(*key, socket.SOCK_DGRAM)
                dial = partial(dial_gate, self._loop, os.path.join("..", identity, GATE), UDP, key[1])
                self._datagrams[key] = Datagrams(self._loop, bound, dial)

    def _bound_behind(self, address: str, port: int, kind: int) -> socket.socket:
        def bind() -> socket.socket:
            self._route.add_address(links.OUTSIDE, networks.inner(address), 32)
            return bound_socket(networks.inner(address), port, kind)

        bound: socket.socket = self._behind.do(bind)
        return bound

    def _write_hosts(self, lines: Tuple[Tuple[str, Args], ...]) -> None:
        """In the container's own view, where its links lead nowhere else; a read-only root can only be written from outside, and no
        program in there can put a link in our way.
        """
        if not self._spec.writable:
            _renew_hosts(rootpaths.resolve(self._root, "/etc/hosts"), lines)
            return
        child = os.fork()
        if child == 0:
            try:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
                handle = os.open("/proc/%d/ns/mnt" % self._init, os.O_RDONLY | os.O_CLOEXEC)
                sys.meta_path.clear()  # an import from here on would be the image's code
                kernel.setns(handle, kernel.CLONE_NEWNS)
                _renew_hosts("/etc/hosts", lines)
            finally:
                os._exit(0)  # names that cannot be written are missing; that is all there is to say here
        if not process.reap(child, _HOSTS_LIMIT):
            os.kill(child, signal.SIGKILL)
            process.reap(child, _HOSTS_LIMIT)


def _renew_hosts(path: str, lines: Tuple[Tuple[str, Args], ...]) -> None:
    try:
        before = files.decode(files.read_whole(path, limit=1 << 20))
    except (OSError, GhaError):
        before = ""
    files.write_whole(path, files.encode(networks.hosts_with(before, lines)), mode=0o644)


def _new_network() -> None:
    kernel.unshare(kernel.CLONE_NEWNET)
    namespaces.open_low_ports()
