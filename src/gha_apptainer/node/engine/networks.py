"""Addresses and names: which loopback address a container has, who else is in its network, and what /etc/hosts says of them.

Layout, in the state directory: `addresses/127.A.B.C` says which container has that address (as a name's claim does),
`networks/NAME/ID` is a member's own word on where and by which names it can be reached while it runs.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from gha_apptainer.domain.containers import Args, ContainerSpec
from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import EngineFailed, GhaError
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import files, process
from gha_apptainer.node.engine.records import Records
from gha_apptainer.node.engine.sockets import Table

_TRIES = 64
_MEMBER = re.compile(r"[0-9a-f]{64}")
_BEGIN, _END = "# names of this network, kept by gha-apptainer", "# end of the names"


@dataclass(frozen=True)
class Member:
    """A running container of a network: its loopback address on this machine, its names, its open TCP and its exposed UDP ports, and the
    process whose life this word is good for.
    """

    address: str
    names: Args
    tcp: Tuple[int, ...]
    udp: Tuple[int, ...]
    pid: int
    started: int
    place: str


def candidates(state: str, scope: str, name: str, uid: int) -> Tuple[str, ...]:
    """Loopback addresses for a container, the same ones in the same order each time. 127.0.x.x is left to others.

    Whoever cannot see our claims, another user or another state directory, has other ones to begin with.
    """
    found = []
    for number in range(_TRIES):
        raw = hashlib.sha256(("%d\0%s\0%s\0%s\0%d" % (uid, state, scope, name, number)).encode("utf-8", "surrogateescape")).digest()
        found.append("127.%d.%d.%d" % (1 + raw[0] % 254, raw[1], 1 + raw[2] % 254))
    return tuple(found)


def inner(address: str) -> str:
    """The same container's address in the private networks of others."""
    return "10" + address[3:]


def claim_address(records: Records, identity: str, scope: str, name: str) -> str:
    """An address that no container of ours has and on which nobody listens, now this container's. Raises EngineFailed."""
    table = Table()
    try:
        taken = {row.local[0] for row in table.listeners()}
    finally:
        table.close()
    for address in candidates(records.state, scope, name, os.geteuid()):
        if address not in taken and records.claim_address(address, identity):
            return address
    raise EngineFailed(
        "no free loopback address was found for container %s" % name, remedy="remove containers that are not needed: gha-apptainer ps -a"
    )


def own_names(spec: ContainerSpec, name: str, identity: str) -> Args:
    """What others in the network call this container; a name that was made up for it is nobody's word."""
    names = ([] if name == "c-" + identity[:12] else [name]) + [*spec.aliases, spec.hostname]
    return tuple(dict.fromkeys(one for one in names if one))


_TRIES = 100


class Membership:
    """One container's place in its network."""

    def __init__(self, records: Records, network: str, identity: str) -> None:
        self._folder = os.path.join(records.state, "networks", network)
        self._identity = identity
        self._told: Dict[str, Tuple[Tuple[int, int], Member]] = {}

    def say(self, member: Member) -> None:
        """Tell the others."""
        files.private_directory(os.path.dirname(self._folder))
        for left in reversed(range(_TRIES)):  # a network without members is swept away, and ours has none before our word is in it
            try:
                files.private_directory(self._folder)
                files.write_whole(os.path.join(self._folder, self._identity), to_json(member).encode())
                return
            except FileNotFoundError:
                if not left:
                    raise

    def leave(self) -> None:
        """Be no member any more."""
        leave(self._folder, self._identity)

    def others(self) -> Mapping[str, Member]:
        """The other members that live, by id."""
        found: Dict[str, Member] = {}
        for entry in _entries(self._folder):
            if entry != self._identity and _MEMBER.fullmatch(entry):
                member = self._member(entry)
                if member is not None:
                    found[entry] = member
        return found

    def _member(self, entry: str) -> Optional[Member]:
        path = os.path.join(self._folder, entry)
        try:
            seen = os.stat(path)
            key = (seen.st_ino, seen.st_mtime_ns)
            if entry not in self._told or self._told[entry][0] != key:
                self._told[entry] = (key, from_json(Member, files.decode(files.read_whole(path))))
        except (OSError, GhaError):
            return None  # it has just left
        member = self._told[entry][1]
        return member if not process.elsewhere(member.place) and process.alive(member.pid, member.started) else None


def leave(folder: str, identity: str) -> None:
    """Take a member's word out of its network, and the network with its last one."""
    try:
        os.unlink(os.path.join(folder, identity))
    except FileNotFoundError:
        pass
    try:
        os.rmdir(folder)
    except OSError:
        pass  # there are others, or it is gone


def _entries(folder: str) -> Sequence[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return ()


def hosts_with(text: str, lines: Sequence[Tuple[str, Args]]) -> str:
    """The text of a hosts file with our block of names replaced; what else stands there stays."""
    kept: List[str] = []
    inside = False
    for line in text.split("\n"):
        if line == _BEGIN:
            inside = True
        elif line == _END and inside:
            inside = False
        elif not inside:
            kept.append(line)
    head = "\n".join(kept).rstrip("\n")
    block = "".join("%s\t%s\n" % (address, " ".join(names)) for address, names in lines if names)
    return head + "\n" + ("%s\n%s%s\n" % (_BEGIN, block, _END) if block else "")
