"""Published ports: taken before a container starts, so that a wish that cannot be met is an error that names both sides."""

from __future__ import annotations

import errno
import os
import socket
from typing import List, Tuple

from gha_apptainer.domain.containers import LOOPBACK, NETWORK_HOST, RUNNING, TCP, ContainerSpec, Port
from gha_apptainer.domain.errors import GhaError, InputError, Refused
from gha_apptainer.domain.values import replace
from gha_apptainer.node.engine import sockets
from gha_apptainer.node.engine.records import Records

LOW_PORTS = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
_TRIES = 16
Bound = Tuple[Port, socket.socket]


def check_host_ports(spec: ContainerSpec, name: str, records: Records) -> Tuple[Port, ...]:
    """The published ports of a container in the machine's own network, where they are what it opens itself. Raises InputError for a
    port that is taken, Refused for one that would have to be another outside than inside.
    """
    found = []
    for port in spec.ports:
        if port.host not in (0, port.container):
            raise Refused(
                "container %s: port %d cannot be published as %d in the machine's own network" % (name, port.container, port.host),
                remedy="use --network private, or let the container listen on %d" % port.host,
            )
        same = replace(port, host=port.container, last=0)
        if port.protocol == TCP:
            bind(same, name, records).close()
        found.append(same)
    return tuple(found)


def open_published(spec: ContainerSpec, name: str, records: Records) -> Tuple[Bound, ...]:
    """A bound socket for each published port of a private container; the port says which one it became."""
    assert spec.network != NETWORK_HOST
    found: List[Bound] = []
    try:
        for port in spec.ports:
            bound = _first_free(port, name, records)
            found.append((replace(port, host=bound.getsockname()[1], last=0), bound))
    except BaseException:
        for _, bound in found:
            bound.close()
        raise
    return tuple(found)


def _first_free(port: Port, name: str, records: Records) -> socket.socket:
    for number in range(port.host, port.last):
        try:
            return _bound(replace(port, host=number))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _refusal(port, name, records, error) from error
    if not port.host:
        return _any_free(port, name, records)
    return bind(replace(port, host=port.last or port.host), name, records)


def _any_free(port: Port, name: str, records: Records) -> socket.socket:
    """A port that the kernel chooses, then bound by its number: only such a socket keeps its port while it does not listen."""
    for _ in range(_TRIES):
        with bind(port, name, records) as chosen:
            number = chosen.getsockname()[1]
        try:
            return _bound(replace(port, host=number))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _refusal(port, name, records, error) from error
    return bind(replace(port, host=number), name, records)


def bind(port: Port, name: str, records: Records) -> socket.socket:
    """A socket bound to that port of the machine. Raises InputError for `name`, naming who has it."""
    try:
        return _bound(port)
    except OSError as error:
        raise _refusal(port, name, records, error) from error


def _bound(port: Port) -> socket.socket:
    kind = socket.SOCK_STREAM if port.protocol == TCP else socket.SOCK_DGRAM
    found = socket.socket(socket.AF_INET6 if ":" in port.address else socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if found.family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((port.address, port.host))
        if kind == socket.SOCK_STREAM and port.host:
            # With SO_REUSEADDR, which gets us past connections that linger, two may have a port while neither listens. Whoever is second
            # must be told now: he cannot listen where the first one does not share.
            found.listen(1)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            found.shutdown(socket.SHUT_RD)
    except BaseException:
        found.close()
        raise
    return found


def _refusal(port: Port, name: str, records: Records, error: OSError) -> GhaError:
    place = "%s:%d/%s" % (port.address, port.host, port.protocol)
    wish = "container %s cannot publish its port %d at %s" % (name, port.container, place)
    if error.errno == errno.EADDRINUSE:
        return InputError(
            "%s: that port is taken by %s" % (wish, who_has(port, records)),
            remedy="publish another port, or leave the choice to us: -p %d" % port.container,
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return InputError("%s: %s" % (wish, low_port_reason(port.host)), remedy=low_port_remedy(port.host))
    if error.errno == errno.EADDRNOTAVAIL:
        return InputError("%s: this machine has no address %s" % (wish, port.address), remedy="use %s" % LOOPBACK)
    return InputError("%s: %s" % (wish, error.strerror))


def low_port_reason(port: int) -> str:
    """Why a port below the limit cannot be bound."""
    return "port %d is below %d, where only root may listen" % (port, lowest_free())


def low_port_remedy(port: int) -> str:
    """What an administrator can change."""
    return "use a port from %d on, or have root run: sysctl net.ipv4.ip_unprivileged_port_start=%d" % (lowest_free(), port)


def lowest_free() -> int:
    """The first port that everybody may bind, man 7 ip, ip_unprivileged_port_start."""
    try:
        with open(LOW_PORTS) as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def who_has(port: Port, records: Records) -> str:
    """Who has a port of this machine: a container of ours by name, else a process and its user as far as we may see."""
    for identity in records.ids():
        try:
            found = records.container(identity)
        except (GhaError, OSError):
            continue
        for one in found.reach.ports:
            if found.state == RUNNING and (one.host, one.protocol) == (port.host, port.protocol):
                return "container %s" % found.name
    if port.protocol == TCP:
        table = sockets.Table()
        try:
            for row in table.listeners():
                if sockets.overlaps(row, port.address, port.host):
                    return sockets.holder(row)
        finally:
            table.close()
    return "somebody on this machine"


def early(spec: ContainerSpec) -> Tuple[Bound, ...]:
    """Sockets at the container's own address for its exposed ports below the limit: a monitor of root's gives the right away later."""
    found: List[Bound] = []
    if os.geteuid() != 0:
        return ()
    for port in spec.exposed:
        if port.protocol == TCP and port.container < lowest_free():
            try:
                found.append((port, _bound(replace(port, address=spec.address, host=port.container))))
            except OSError:
                continue  # the forwarder meets it again, and says so
    return tuple(found)
