"""What the engine knows of containers, on disk: one private directory each, outside of every bind.

Layout of the state directory:

    containers/ID/       spec.json, owner (pid, start time, 1 if it is removed at its end); monitor (pid and start time), running.json,
                         join while it runs; exit.json at the end;
                         reach.json (ports) and gate (a socket) by its forwarder, health.json by its health check;
                         log/, layer/ (or a link to where it lies), fs/ (hosts, tmp, …), volumes/ (anonymous)
    names/NAME           "ID PID STARTED PLACE": who holds a name, and the process that claimed it
    volumes/NAME/        named volumes
    addresses/, networks/   see `networks`; made when there is something to put in them
    ended/ID.json        how a container ended that is removed already

Everything is published by rename or link, so that a reader sees all of it or nothing. A directory is being made while its name begins
with `.new-`, being removed while it begins with `.gone-`; both carry pid, start time and place of who does it. Several hosts, or several
pid namespaces of one, may share a state directory: what belongs to another place is never touched.
"""

from __future__ import annotations

import os
import time

from gha_apptainer.domain.containers import (
    CREATED,
    EXITED,
    NETWORK_HOST,
    RUNNING,
    Container,
    ContainerSpec,
    ExitStatus,
    HealthState,
    Reach,
)
from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import DOCKER_FAILURE, GhaError, InputError, Untrusted
from gha_apptainer.domain.findings import OK, WARN, Finding
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import files, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence, Tuple

_HEX = frozenset("0123456789abcdef")
_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_LETTERS = _ALNUM | frozenset("_.-")
UNKNOWN = "unknown: its monitor left no record"
_KEEP_ENDED = 3600.0  # seconds that the end of a removed container can still be asked for


@dataclass(frozen=True)
class Running:
    """A started container: host pids and start times of its init and of its main process (0: held open), where its layer is, and how."""

    init: int
    init_started: int
    main: int
    main_started: int
    since: float
    layer: str
    mechanism: str
    interactive: bool = False


def _is_name(text: str) -> bool:
    """Docker's rule for names."""
    return text[:1] in _ALNUM and _NAME_LETTERS.issuperset(text)


def _is_id(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)


def _half_made_by(name: str) -> int:
    """The pid in the name of a file that `files.write_once` is still writing; 0 for any other name."""
    parts = name.rsplit(".", 3)
    made = len(parts) == 4 and parts[1].isdigit() and parts[2] and _HEX.issuperset(parts[2]) and parts[3] == "new"
    return int(parts[1]) if made else 0


def _me() -> Tuple[int, int, str]:
    """This process, as records name it: pid, start time, place."""
    return os.getpid(), process.start_time(os.getpid()), process.here()


class Records:
    """The containers below one state directory, which must be private to this user already."""

    def __init__(self, state: str) -> None:
        self.state = state
        for name in ("containers", "names", "volumes", "ended"):
            files.private_directory(os.path.join(state, name))

    def path(self, identity: str, *parts: str) -> str:
        """A path in a container's directory."""
        return os.path.join(self.state, "containers", identity, *parts)

    # making and removing

    def add(self, identity: str, spec: ContainerSpec, name: str) -> None:
        """Write a new container's directory and claim its name (one made of its id if empty). Raises InputError for a taken name."""
        chosen = name or "c-" + identity[:12]
        if not _is_name(chosen):
            raise InputError("%r is no container name" % name, remedy="use letters, digits, dot, dash and underscore")
        mine = _me()
        making = os.path.join(self.state, "containers", ".new-%d-%d-%s-%s" % (*mine, identity))
        os.mkdir(making, 0o700)
        try:
            files.write_whole(os.path.join(making, "spec.json"), to_json(spec).encode())
            files.write_whole(os.path.join(making, "name"), files.encode(chosen))
            files.write_whole(os.path.join(making, "place"), files.encode(mine[2]))
            belongs = "%d %d %d" % (spec.owner.pid, spec.owner.started, spec.remove)
            files.write_whole(os.path.join(making, "owner"), files.encode(belongs))
            claim = os.path.join(self.state, "names", chosen)
            if not files.write_once(claim, files.encode("%s %d %d %s" % (identity, *mine))):
                raise InputError(
                    "the name %r is in use by container %s" % (chosen, files.decode(files.read_whole(claim)).split(" ")[0][:12]),
                    remedy="gha-apptainer rm %s, or use another name" % chosen,
                )
            os.rename(making, self.path(identity))
        except BaseException:
            files.remove_tree(making)
            raise

    def discard(self, identity: str, status: Optional[ExitStatus] = None) -> None:
        """Remove a container's directory, layer and name; `status` stays behind for who still waits. Gone already is fine."""
        for path in self.retire(identity, status):
            files.remove_tree(path)

    def retire(self, identity: str, status: Optional[ExitStatus] = None) -> Tuple[str, ...]:
        """The first half of `discard`: from here on the container is not there any more. Gives the directories that are left to remove."""
        if status is not None:
            self.leave_end(identity, status)
        name, layer = self.name(identity), self.layer(identity)
        going = os.path.join(self.state, "containers", ".gone-%d-%d-%s-%s" % (*_me(), identity))
        try:
            os.rename(self.path(identity), going)
        except FileNotFoundError:
            return ()
        self._release("names", name, identity)
        for address in self._addresses():
            self._release("addresses", address, identity)
        return (layer, going) if layer else (going,)

    def leave_end(self, identity: str, status: ExitStatus) -> None:
        """How a container ended that is removed, for who still waits."""
        files.write_whole(os.path.join(self.state, "ended", identity + ".json"), to_json(status).encode())

    def _addresses(self) -> Sequence[str]:
        try:
            return os.listdir(os.path.join(self.state, "addresses"))
        except FileNotFoundError:
            return ()

    def _release(self, folder: str, name: str, identity: str) -> None:
        claim = os.path.join(self.state, folder, name)
        try:
            if name and files.decode(files.read_whole(claim)).startswith(identity):
                os.unlink(claim)
        except FileNotFoundError:
            pass

    def leftovers(self) -> Sequence[Finding]:
        """Remove half-made and half-removed directories whose maker is gone, names that nobody holds, and old ends; tell what was done.

        What cannot be removed is a warning, never the end of the command that came across it.
        """
        found: List[Finding] = []
        for folder, clean in (
            ("containers", self._drop_half),
            ("names", self._drop_name),
            ("ended", self._drop_end),
            ("addresses", self._drop_address),
            ("networks", self._drop_members),
        ):
            try:
                entries = os.listdir(os.path.join(self.state, folder))
            except FileNotFoundError:
                continue  # made when there is something to put in it
            for entry in entries:
                try:
                    done = clean(entry)
                except FileNotFoundError:
                    continue  # another command was faster
                except (OSError, ValueError, GhaError) as error:
                    found.append(Finding("leftover", WARN, "cannot remove what is left of %s: %s" % (entry, error)))
                    continue
                if done:
                    found.append(Finding("leftover", OK, done))
        return found

    def _drop_half(self, entry: str) -> str:
        if not entry.startswith((".new-", ".gone-")):
            return ""
        _, pid, started, place, identity = entry.split("-", 4)
        if process.elsewhere(place) or process.alive(int(pid), int(started)):
            return ""
        path = os.path.join(self.state, "containers", entry)
        try:
            files.remove_tree(files.decode(files.read_whole(os.path.join(path, "layer.path"))))
        except FileNotFoundError:
            pass  # the layer lies in the directory itself
        files.remove_tree(path)
        return "removed what was left of %s" % identity[:12]

    def _drop_end(self, entry: str) -> str:
        path = os.path.join(self.state, "ended", entry)
        if os.lstat(path).st_mtime < time.time() - _KEEP_ENDED:
            os.unlink(path)
        return ""

    def claim_address(self, address: str, identity: str) -> bool:
        """Make a loopback address a container's own, as long as that exists; tells whether it was free."""
        folder = files.private_directory(os.path.join(self.state, "addresses"))
        return files.write_once(os.path.join(folder, address), files.encode("%s %d %d %s" % (identity, *_me())))

    def _drop_members(self, network: str) -> str:
        from gha_apptainer.node.engine import networks

        folder = os.path.join(self.state, "networks", network)
        for entry in os.listdir(folder):
            if not os.path.isdir(self.path(entry[:64])):  # the rest of the name tells that it was being written
                networks.leave(folder, entry)
        try:
            os.rmdir(folder)
        except OSError:
            pass  # there are members, or it went with the last one
        return ""

    def _drop_name(self, name: str) -> str:
        return self._drop_claim("names", name)

    def _drop_address(self, address: str) -> str:
        return self._drop_claim("addresses", address)

    def _drop_claim(self, folder: str, name: str) -> str:
        """Remove a claim whose container does not exist and whose maker is gone; also one that was never finished."""
        claim = os.path.join(self.state, folder, name)
        try:
            identity, pid, started, place = files.decode(files.read_whole(claim)).split(" ")
            stale = not os.path.isdir(self.path(identity)) and not process.elsewhere(place) and not process.alive(int(pid), int(started))
        except ValueError:
            maker = _half_made_by(name)
            stale = maker != 0 and not process.start_time(maker)
        if stale:
            os.unlink(claim)
        return ""

    # reading

    def ids(self) -> Sequence[str]:
        """All containers' ids, oldest first."""
        top = os.path.join(self.state, "containers")
        found: List[Tuple[float, str]] = []
        for entry in os.listdir(top):
            if _is_id(entry):
                try:
                    found.append((os.lstat(os.path.join(top, entry, "spec.json")).st_mtime, entry))
                except FileNotFoundError:
                    continue
        return [identity for _, identity in sorted(found)]

    def find(self, wanted: str) -> str:
        """The id of a container named by name, id or a unique beginning of it. Raises InputError."""
        if _is_name(wanted):
            try:
                identity = files.decode(files.read_whole(os.path.join(self.state, "names", wanted))).split(" ")[0]
                if _is_id(identity) and os.path.isdir(self.path(identity)):
                    return identity
            except FileNotFoundError:
                pass
        if 0 < len(wanted) <= 64 and _HEX.issuperset(wanted):
            matches = [one for one in self.ids() if one.startswith(wanted)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise InputError("%r is the beginning of %d container ids" % (wanted, len(matches)), remedy="give more digits")
        raise InputError("no such container: %s" % wanted, remedy="gha-apptainer ps -a lists all")

    def spec(self, identity: str) -> ContainerSpec:
        """What the container was made from."""
        try:
            return from_json(ContainerSpec, self._text(identity, "spec.json"))
        except Untrusted as error:
            what = "the record of container %s cannot be read: %s" % (identity[:12], error.what)
            raise Untrusted(what, cause=error.cause, remedy="gha-apptainer rm -f " + identity[:12]) from error

    def name(self, identity: str) -> str:
        """The container's name, empty if it is gone."""
        try:
            return self._text(identity, "name")
        except FileNotFoundError:
            return ""

    def running(self, identity: str) -> Optional[Running]:
        """What is known of the started container, None before that."""
        try:
            return from_json(Running, self._text(identity, "running.json"))
        except FileNotFoundError:
            return None

    def status(self, identity: str) -> Optional[ExitStatus]:
        """How it ended, by whoever waited; None if nobody has said so (yet)."""
        for path in (self.path(identity, "exit.json"), os.path.join(self.state, "ended", identity + ".json")):
            try:
                return from_json(ExitStatus, files.decode(files.read_whole(path)))
            except FileNotFoundError:
                continue
        return None

    def monitor(self, identity: str) -> Tuple[int, int]:
        """pid and start time of the monitor; (0, 0) if it was never started."""
        try:
            pid, started = self._text(identity, "monitor").split(" ")
            return int(pid), int(started)
        except FileNotFoundError:
            return 0, 0
        except ValueError as error:
            raise Untrusted("%s is not a monitor's record" % self.path(identity, "monitor")) from error

    def owner(self, identity: str) -> Tuple[int, int, bool]:
        """pid and start time of the owner (0: none), and whether the container is removed at its end; every command asks this of all."""
        try:
            pid, started, remove = self._text(identity, "owner").split(" ")
            return int(pid), int(started), remove == "1"
        except FileNotFoundError:  # gone, or made by a version that had only this
            spec = self.spec(identity)
            return spec.owner.pid, spec.owner.started, spec.remove
        except ValueError as error:
            raise Untrusted("%s is not an owner's record" % self.path(identity, "owner")) from error

    def foreign(self, identity: str) -> bool:
        """Whether the container belongs to another place, where its pids mean something that they do not mean here."""
        try:
            return process.elsewhere(self._text(identity, "place"))
        except FileNotFoundError:
            return False

    def started_by_me(self, identity: str) -> None:
        """Note this process as the container's monitor."""
        pid, started, place = _me()
        self.write(identity, "place", place)
        self.write(identity, "monitor", "%d %d" % (pid, started))

    def layer(self, identity: str) -> str:
        """Where the writable layer lies; empty if it is the usual place inside the container's directory."""
        try:
            return self._text(identity, "layer.path")
        except FileNotFoundError:
            return ""

    def container(self, identity: str) -> Container:
        """All of one container. Raises FileNotFoundError if it is gone."""
        spec, status, running = self.spec(identity), self.status(identity), self.running(identity)
        monitor = self.monitor(identity)
        monitored = self.foreign(identity) or process.alive(*monitor)  # elsewhere somebody else sees to it
        if status is None and monitor != (0, 0) and not monitored:
            status = self.status(identity) or ExitStatus(DOCKER_FAILURE, reason=UNKNOWN)  # it may have spoken just before it ended
        state = EXITED if status is not None else RUNNING if running is not None and monitored else CREATED
        return Container(
            id=identity,
            name=self.name(identity),
            state=state,
            spec=spec,
            created=os.lstat(self.path(identity, "spec.json")).st_mtime,
            pid=running.init if running is not None and state == RUNNING else 0,
            status=status,
            reach=self.reach(identity, spec) if state == RUNNING else Reach(address=spec.address),
            health=self.health(identity) if spec.health is not None else None,
        )

    def reach(self, identity: str, spec: ContainerSpec) -> Reach:
        """How the running container can be reached, as its forwarder tells it."""
        if spec.network != NETWORK_HOST or spec.ports:
            try:
                return from_json(Reach, self._text(identity, "reach.json"))
            except FileNotFoundError:
                pass  # it is not up yet
        return Reach(address=spec.address)

    def health(self, identity: str) -> HealthState:
        """What its health check has found so far."""
        try:
            return from_json(HealthState, self._text(identity, "health.json"))
        except FileNotFoundError:
            return HealthState()

    def write(self, identity: str, name: str, text: str) -> None:
        """Publish one file of a container's record."""
        files.write_whole(self.path(identity, name), files.encode(text))

    def _text(self, identity: str, name: str) -> str:
        return files.decode(files.read_whole(self.path(identity, name)))
