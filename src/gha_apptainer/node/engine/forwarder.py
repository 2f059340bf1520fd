"""The process that carries a private container's traffic: a child of its monitor that dies with it.

It lives in the container's network namespace and reaches two others through threads that stay there: the machine's own, where published
ports and the container's loopback address are listened at, and the one at the far end of the container's network card (`links`),
where the addresses of the other members of its network are. What listens outside follows what listens inside, so that a refused
connection is refused everywhere. Loopback belongs to every user of a machine: a connection there is carried on only if its other end is
a socket of this user.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import time
from functools import partial
from typing import Callable, Dict, List, Mapping, Optional, Set, Tuple

from gha_apptainer.domain.containers import NETWORK_HOST, TCP, UDP, Args, ContainerSpec, Port, Reach
from gha_apptainer.domain.documents import to_json
from gha_apptainer.node import files, process
from gha_apptainer.node.engine import kernel, links, namespaces, networks, ports, rootpaths
from gha_apptainer.node.engine.datagrams import Datagrams
from gha_apptainer.node.engine.elsewhere import Elsewhere
from gha_apptainer.node.engine.forwarding import Connection, Dial, Listener, Loop, connecting, dial_here
from gha_apptainer.node.engine.gates import Gate, dial_gate
from gha_apptainer.node.engine.records import Records
from gha_apptainer.node.engine.sockets import Address, Table, by_port, overlaps

READY = b"r"
GATE = "gate"
_PACES = ((3.0, 0.02), (60.0, 0.1), (float("inf"), 0.25))
"""Up to which age of the forwarder how often is looked for new listeners and members."""
_RETRY = 1.0  # seconds until a port that could not be had is tried again
_DRAIN = 2.0  # seconds in which connections of an ended container may deliver what they hold
LOOPBACKS = ["127.0.0.1", "::1"]


class Forwarder:
    """One container's. `published` and `early` are sockets that the monitor keeps as well, `root` is where it mounted the container's."""

    def __init__(
        self,
        records: Records,
        identity: str,
        spec: ContainerSpec,
        init: int,
        root: str,
        published: Tuple[ports.Bound, ...],
        early: Tuple[ports.Bound, ...],
    ) -> None:
        self._records, self._identity, self._spec, self._init, self._root = records, identity, spec, init, root
        self._private = spec.network != NETWORK_HOST
        self._loop = Loop()
        self._connections: Set[Connection] = set()
        self._published, self._early = published, {port.container: bound for port, bound in early}
        self._listeners: Dict[int, Listener] = {}
        self._at_address: Dict[int, Listener] = {}
        self._at_members: Dict[Tuple[str, int], Listener] = {}
        self._datagrams: List[Datagrams] = []
        self._member_datagrams: Dict[Tuple[str, int], Datagrams] = {}
        self._open: Dict[int, List[str]] = {}
        self._blocked: Dict[int, str] = {}
        self._retry: Dict[int, float] = {}
        self._no_link = ""
        self._told: Tuple[object, ...] = ()
        self._hosts: Tuple[Tuple[str, Args], ...] = ()
        self._since = time.monotonic()
        self._membership = networks.Membership(records, spec.network_name, identity) if spec.network_name else None
        self._names = networks.own_names(spec, records.name(identity), identity)

    def run(self, life: int, ready: int) -> None:
        """Until the other end of `life` is closed; `ready` gets READY when everything that is known is in place."""
        os.chdir(self._records.path(self._identity))
        _raise_files()
        if self._private:
            self._enter()
            self._gate = Gate(self._loop, GATE, self._connect)
            self._publish()
        self._look()
        self._loop.watch(life, select.EPOLLIN, lambda _: self._end())
        os.write(ready, READY)
        os.close(ready)
        self._loop.run()

    # where we are

    def _enter(self) -> None:
        """This thread into the container's network namespace, one stays in the machine's, and one goes behind the network card."""
        self._machine = Elsewhere(lambda: None)
        self._table: Table = self._machine.do(Table)
        inside = os.open("/proc/%d/ns/net" % self._init, os.O_RDONLY | os.O_CLOEXEC)
        kernel.setns(inside, kernel.CLONE_NEWNET)
        os.close(inside)
        self._inside = Table()
        if self._membership is not None:
            try:
                self._make_card()
            except OSError as error:
                self._no_link = "no other container of network %s can be reached: a network card cannot be made (%s)" % (
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

    # connections

    def _dial(self, port: int) -> Dial:
        """To where something listens on that port inside: the address it has bound, or a loopback address where it has bound all."""
        return dial_here(port, self._ways(port))

    def _ways(self, port: int) -> List[str]:
        known = self._open.get(port, [])
        found = [{"0.0.0.0": "127.0.0.1", "::": "::1"}.get(one, one) for one in known]  # noqa: S104  # names of addresses
        first = [one for one in LOOPBACKS if one in found]
        return first + [one for one in found if one not in first] + [one for one in LOOPBACKS if one not in first]

    def _connect(self, kind: str, port: int) -> Optional[socket.socket]:
        """For the gate: a socket of the container's namespace on its way to a port."""
        if kind == UDP:
            return connecting(LOOPBACKS[0], port, socket.SOCK_DGRAM)
        for address in self._ways(port):
            found = connecting(address, port)
            if found is not None:
                return found
        return None

    def _admit(self, peer: Address, own: Address) -> bool:
        """Whether a connection to a loopback address comes from this user."""
        if not own[0].startswith("127.") and own[0] != "::1":
            return True
        return self._table.owner(peer, own) == os.geteuid()

    def _admit_datagram(self, peer: Address, own: Address) -> bool:
        if not own[0].startswith("127.") and own[0] != "::1":
            return True
        return bool(self._machine.do(lambda: _sends_as(peer) == {os.geteuid()}))

    def _publish(self) -> None:
        for number, (port, bound) in enumerate(self._published):
            if port.protocol == TCP:
                dial = partial(self._dial, port.container)
                self._listeners[number] = Listener(self._loop, bound, dial, self._connections, self._admit)
            else:
                self._take_datagrams(port.container, bound)
        for port in self._spec.exposed:
            if port.protocol == UDP:
                self._expose_datagrams(port)

    def _expose_datagrams(self, port: Port) -> None:
        inside = port.container
        try:
            bound = self._machine.do(lambda: bound_socket(self._spec.address, inside, socket.SOCK_DGRAM))
        except OSError as error:
            self._blocked[-inside] = "port %d/udp does not answer at %s: %s" % (inside, self._spec.address, error.strerror)
            return
        self._take_datagrams(inside, bound)

    def _take_datagrams(self, inside: int, bound: socket.socket) -> None:
        dial = partial(dial_here, inside, LOOPBACKS, socket.SOCK_DGRAM)
        self._datagrams.append(Datagrams(self._loop, bound, dial, self._admit_datagram))

    # the regular look

    def _look(self) -> None:
        if not self._loop.running:
            return
        if self._private:
            self._open = by_port([row for row in self._inside.listeners() if row.local[1]])
            self._follow_published()
            self._follow_address()
            for one in [*self._datagrams, *self._member_datagrams.values()]:
                one.sweep()
        if self._membership is not None:
            self._follow_members(self._membership.others())
        self._tell()
        age = time.monotonic() - self._since
        self._loop.later(next(pace for until, pace in _PACES if age < until), self._look)

    def _follow_published(self) -> None:
        for number, listener in self._listeners.items():
            if self._published[number][0].container in self._open:
                listener.listen()
            else:
                listener.hush()

    def _follow_address(self) -> None:
        """Listen at the container's own loopback address on whatever is open inside."""
        for port in [one for one in self._at_address if one not in self._open]:
            listener = self._at_address.pop(port)
            if port in self._early:
                listener.hush()
            else:
                listener.close()
        for port in [one for one in self._blocked if one > 0 and one not in self._open]:
            del self._blocked[port]
        now = time.monotonic()
        for port in self._open:
            if port not in self._at_address and self._retry.get(port, 0.0) <= now:
                self._open_at_address(port)

    def _open_at_address(self, port: int) -> None:
        try:
            bound = self._early.get(port)
            if bound is None:
                bound = self._machine.do(lambda: bound_socket(self._spec.address, port))
            listener = Listener(self._loop, bound, lambda: self._dial(port), self._connections, self._admit)
            listener.listen()
        except OSError as error:
            self._retry[port] = time.monotonic() + _RETRY
            self._blocked[port] = "port %d does not answer at %s: %s" % (port, self._spec.address, self._why(port, error))
            return
        self._blocked.pop(port, None)
        self._at_address[port] = listener

    def _why(self, port: int, error: OSError) -> str:
        if error.errno == errno.EACCES:
            return "%s; %s" % (ports.low_port_reason(port), ports.low_port_remedy(port))
        if error.errno == errno.EADDRINUSE:
            for row in self._table.listeners():
                if overlaps(row, self._spec.address, port):
                    whose = "this user's" if row.uid == os.geteuid() else "another user's"
                    return "%s:%d is taken by %s process" % (*row.local, whose)
        return error.strerror or str(error)

    def _follow_members(self, others: Mapping[str, networks.Member]) -> None:
        """Their names in /etc/hosts, and listeners at their addresses behind our network card."""
        if self._private and not self._no_link:
            self._follow_member_ports(others)
        if self._no_link:
            lines: Tuple[Tuple[str, Args], ...] = ()
        elif self._private:
            itself = ("127.0.1.1", self._names)
            lines = (itself, *((networks.inner(one.address), one.names) for one in others.values() if one.address))
        else:
            lines = tuple((one.address, one.names) for one in others.values() if one.address)
        if lines != self._hosts:
            self._write_hosts(lines)
            self._hosts = lines

    def _follow_member_ports(self, others: Mapping[str, networks.Member]) -> None:
        wanted = {(one.address, port): identity for identity, one in others.items() for port in one.tcp if one.address}
        wanted_datagrams = {(one.address, port): identity for identity, one in others.items() for port in one.udp if one.address}
        for key in [one for one in self._at_members if one not in wanted]:
            self._at_members.pop(key).close()
        for key in [one for one in self._member_datagrams if one not in wanted_datagrams]:
            self._member_datagrams.pop(key).close()
        for key, identity in wanted.items():
            if key not in self._at_members:
                bound = self._bound_behind(*key, socket.SOCK_STREAM)
                dial = partial(dial_gate, self._loop, os.path.join("..", identity, GATE), TCP, key[1])
                self._at_members[key] = Listener(self._loop, bound, dial, self._connections)
                self._at_members[key].listen()
        for key, identity in wanted_datagrams.items():
            if key not in self._member_datagrams:
                bound = self._bound_behind(*key, socket.SOCK_DGRAM)
                dial = partial(dial_gate, self._loop, os.path.join("..", identity, GATE), UDP, key[1])
                self._member_datagrams[key] = Datagrams(self._loop, bound, dial)

    def _bound_behind(self, address: str, port: int, kind: int) -> socket.socket:
        def bind() -> socket.socket:
            self._route.add_address(links.OUTSIDE, networks.inner(address), 32)
            return bound_socket(networks.inner(address), port, kind)

        bound: socket.socket = self._behind.do(bind)
        return bound

    def _write_hosts(self, lines: Tuple[Tuple[str, Args], ...]) -> None:
        path = rootpaths.resolve(self._root, "/etc/hosts")
        try:
            before = files.decode(files.read_whole(path, limit=1 << 20))
        except OSError:
            before = ""
        files.write_whole(path, files.encode(networks.hosts_with(before, lines)), mode=0o644)

    def _tell(self) -> None:
        """Our own word, for people and for the other members, when it has changed."""
        blocked = tuple(text for _, text in sorted(self._blocked.items())) + ((self._no_link,) if self._no_link else ())
        told = (tuple(sorted(self._open)), blocked)
        if told == self._told:
            return
        self._told = told
        if self._private:
            reach = Reach(self._spec.address, tuple(port for port, _ in self._published), *told)
            self._records.write(self._identity, "reach.json", to_json(reach))
        if self._membership is not None:
            udp = tuple(port.container for port in self._spec.exposed if port.protocol == UDP)
            monitor = os.getppid()
            where = (monitor, process.start_time(monitor), process.here())
            self._membership.say(networks.Member(self._spec.address, self._names, told[0] if self._private else (), udp, *where))

    # the end

    def _end(self) -> None:
        """The container has ended: no new connections; those that there are deliver what they hold."""
        for one in [*self._listeners.values(), *self._at_address.values(), *self._at_members.values()]:
            one.close()
        for each in [*self._datagrams, *self._member_datagrams.values()]:
            each.close()
        if self._membership is not None:
            self._membership.leave()
        if self._private:
            self._gate.close()
        deadline = time.monotonic() + _DRAIN

        def drained() -> None:
            for one in list(self._connections):
                one.finish()
            if self._connections and time.monotonic() < deadline:
                self._loop.later(0.005, drained)
            else:
                self._loop.running = False

        drained()


def _new_network() -> None:
    kernel.unshare(kernel.CLONE_NEWNET)
    namespaces.open_low_ports()


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


def _sends_as(peer: Address) -> Set[int]:
    """The uids of whoever has that datagram address, in this thread's network namespace."""
    found = set()
    for name in ("udp", "udp6"):
        try:
            with open("/proc/thread-self/net/" + name, "rb", 0) as file:
                lines = file.read().split(b"\n")[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 9 and int(words[1].rpartition(b":")[2], 16) == peer[1]:
                found.add(int(words[7]))
    return found


def _raise_files() -> None:
    """Two descriptors a connection: as many as we may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(make: Callable[[], Forwarder], life: int, ready: int, keep: Set[int]) -> None:
    """In a fresh child of the monitor: be that forwarder, and nothing of what the monitor was. Never returns."""
    code = 0
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kernel.close_others({0, 1, 2, life, ready, *keep})
        make().run(life, ready)
    except BaseException as error:  # noqa: BLE001  # the only way out of a forked process
        code = 70
        try:
            os.write(ready, files.encode("%s: %s" % (type(error).__name__, error))[:400])
        except OSError:
            pass  # it had said that it was ready; the monitor sees the end
    os._exit(code)
