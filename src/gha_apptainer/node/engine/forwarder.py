"""The process that carries a private container's traffic: a child of its monitor that dies with it.

It lives in the container's network namespace and reaches two others through threads that stay there: the machine's own, where published
ports and the container's loopback address are listened at, and the one at the far end of the container's network card (`members`). What
listens outside follows what listens inside, so that a refused connection is refused everywhere. Loopback belongs to every user of a
machine: a connection there is carried on only if its other end is a socket of this user.
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
from typing import Callable, Dict, List, Optional, Set, Tuple

from gha_apptainer.domain.containers import NETWORK_HOST, TCP, UDP, ContainerSpec, Port, Reach
from gha_apptainer.domain.documents import to_json
from gha_apptainer.node import files
from gha_apptainer.node.engine import attendants, kernel, ports
from gha_apptainer.node.engine.datagrams import Datagrams
from gha_apptainer.node.engine.elsewhere import Elsewhere, bound_socket
from gha_apptainer.node.engine.forwarding import Connection, Dial, Listener, Loop, connecting, dial_here
from gha_apptainer.node.engine.gates import GATE, Gate
from gha_apptainer.node.engine.members import Members
from gha_apptainer.node.engine.records import Records
from gha_apptainer.node.engine.sockets import Address, Table, by_port, overlaps

READY = b"r"
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
        self._datagrams: List[Datagrams] = []
        self._open: Dict[int, List[str]] = {}
        self._blocked: Dict[int, str] = {}
        self._retry: Dict[int, float] = {}
        self._told: Tuple[object, ...] = ()
        self._since = time.monotonic()
        self.started = False
        self._members: Optional[Members] = None
        if spec.network_name:
            self._members = Members(records, identity, spec, init, root, self._loop, self._connections)

    def run(self, life: int, ready: int) -> None:
        """Until the other end of `life` is closed; `ready` gets READY when everything that is known is in place."""
        os.chdir(self._records.path(self._identity))
        if self._private:
            self._enter()
            self._gate = Gate(self._loop, GATE, self._connect)
            self._publish()
        self._look()
        self._loop.watch(life, select.EPOLLIN, lambda _: self._end())
        self.started = True
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
        if self._members is not None:
            self._members.make_card()

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
            for one in self._datagrams:
                one.sweep()
        if self._members is not None:
            self._members.follow()
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

    def _tell(self) -> None:
        """Our own word, for people and for the other members, when it has changed."""
        blocked = tuple(text for _, text in sorted(self._blocked.items()))
        if self._members is not None and self._members.blocked:
            blocked += (self._members.blocked,)
        told = (tuple(sorted(self._open)), blocked)
        if told == self._told:
            return
        self._told = told
        if self._private:
            reach = Reach(self._spec.address, tuple(port for port, _ in self._published), *told)
            self._records.write(self._identity, "reach.json", to_json(reach))
        if self._members is not None:
            self._members.say(told[0])

    # the end

    def _end(self) -> None:
        """The container has ended: no new connections; those that there are deliver what they hold."""
        for one in [*self._listeners.values(), *self._at_address.values()]:
            one.close()
        for each in self._datagrams:
            each.close()
        if self._members is not None:
            self._members.leave()
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
    made: Optional[Forwarder] = None
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kernel.close_others({0, 1, 2, life, ready, *keep})
        _raise_files()
        made = make()
        made.run(life, ready)
    except BaseException as error:  # noqa: BLE001  # the only way out of a forked process
        code = 70
        words = files.encode("%s: %s" % (type(error).__name__, error))[:400]
        if made is None or not made.started:
            os.write(ready, words)
        else:
            files.write_whole(attendants.LAST_WORDS, words)  # the monitor sees the end, and reads why
    os._exit(code)
