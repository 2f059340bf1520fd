"""An engine in memory: containers are entries in a dict, programs are functions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gha_apptainer.domain.containers import (
    CREATED,
    EXITED,
    HEALTHY,
    RUNNING,
    STARTING,
    TCP,
    UNHEALTHY,
    Container,
    ContainerSpec,
    ExecRequest,
    ExitStatus,
    HealthState,
    LogLine,
    Probe,
    Reach,
    Stdio,
)
from gha_apptainer.domain.docker_values import signal_number
from gha_apptainer.domain.errors import InputError, TimedOut
from gha_apptainer.domain.findings import Finding
from gha_apptainer.domain.values import replace

SIGKILL = 9


@dataclass(frozen=True)
class Outcome:
    """What a program does: writes, then ends with `code`, or goes on (`lasts`) until a signal ends it.

    A signal in `ignores` does not end it. `reason`, `oom` and `ran` come to stand in its exit status.
    """

    code: int = 0
    out: bytes = b""
    err: bytes = b""
    lasts: bool = False
    ignores: frozenset[int] = frozenset()
    reason: str = ""
    oom: bool = False
    ran: bool = True


Program = Callable[[ExecRequest], Outcome]
"""Every command in every container, main process and exec alike."""


def succeed(request: ExecRequest) -> Outcome:  # noqa: ARG001  # a program that does not care how it was called
    """The program that does nothing and ends with 0."""
    return Outcome()


@dataclass
class _Entry:
    id: str
    name: str
    spec: ContainerSpec
    created: float
    state: str = CREATED
    status: ExitStatus | None = None
    outcome: Outcome = Outcome()
    started: float = 0.0
    reach: Reach = field(default_factory=Reach)
    health: HealthState | None = None
    lines: list[LogLine] = field(default_factory=list)


class FakeEngine:
    """Keeps the contract of `node.engine.protocol.Engine` without starting anything.

    A health check is one run of its command by the program, at the start. Ports that are not chosen are given from 40000 on.
    `clock` gives the time of records. Waiting never sleeps: who waits for a container that goes on gets None at once.
    """

    def __init__(self, program: Program = succeed, clock: Callable[[], float] = time.time) -> None:
        self.program = program
        self.clock = clock
        self.executed: list[tuple[str, ExecRequest]] = []
        self._entries: dict[str, _Entry] = {}
        self._ended: dict[str, ExitStatus] = {}
        self._made = 0

    def create(self, spec: ContainerSpec, name: str = "") -> str:
        """Record a container. Raises InputError for a name that is taken."""
        self._made += 1
        name = name or "fake-%d" % self._made
        if any(one.name == name for one in self._entries.values()):
            raise InputError("the name %s is taken" % name, remedy="gha-apptainer rm %s" % name)
        identity = "%064x" % (self._made << 128 | 0xFACADE)
        self._entries[identity] = _Entry(identity, name, spec, self.clock())
        return identity

    def start(self, id: str, stdio: Stdio | None = None) -> None:
        """Start it; a program that does not last has ended when this returns."""
        entry = self._find(id)
        if entry.state == RUNNING:
            raise InputError("container %s is running already" % entry.name)
        entry.state, entry.status, entry.started = RUNNING, None, self.clock()
        main = entry.spec.main
        entry.outcome = Outcome(lasts=True) if main is None else self.program(main)
        self._made += len(entry.spec.ports)
        chosen = [replace(one, host=one.host or 40000 + self._made - at, last=0) for at, one in enumerate(entry.spec.ports)]
        inside = sorted({one.container for one in (*entry.spec.ports, *entry.spec.exposed) if one.protocol == TCP})
        entry.reach = Reach(entry.spec.address, tuple(chosen), tuple(inside))
        entry.health = self._check(entry.spec)
        self._write(entry, entry.outcome, stdio)
        if not entry.outcome.lasts:
            self._end(entry, entry.outcome.code)

    def run(self, spec: ContainerSpec, name: str, stdio: Stdio, *, grace: float = 0.0) -> ExitStatus:  # noqa: ARG002  # nobody signals us
        """Create, start and wait. A program that lasts would hang its caller, so that is an error here."""
        identity = self.create(spec, name)
        self.start(identity, stdio)
        status = self.wait(identity, 0.0)
        if status is None:
            raise TimedOut("the fake program of %s goes on for ever" % identity[:12])
        return status

    def exec(self, id: str, request: ExecRequest, stdio: Stdio) -> ExitStatus:
        """Run the program once more, in a running container."""
        entry = self._find(id)
        if entry.state != RUNNING:
            raise InputError("container %s is not running" % entry.name)
        self.executed.append((entry.id, request))
        started = self.clock()
        outcome = self.program(request)
        _pass(outcome, stdio)
        return self._status(outcome, outcome.code, started)

    def stop(self, id: str, grace: float) -> ExitStatus:
        """The stop signal, and SIGKILL for who ignores it. Stopped already is fine."""
        entry = self._find(id)
        if entry.state == RUNNING:
            number = signal_number(entry.spec.stop_signal)
            if grace > 0 and entry.spec.main is not None:
                self.kill(entry.id, number)
            if entry.state == RUNNING:
                self.kill(entry.id, SIGKILL)
        if entry.status is None:
            raise InputError("container %s was never started" % entry.name)
        return entry.status

    def kill(self, id: str, number: int) -> None:
        """Send a signal to the main process."""
        entry = self._find(id)
        if entry.state != RUNNING:
            raise InputError("container %s is not running" % entry.name)
        if number == SIGKILL or entry.spec.main is None or number not in entry.outcome.ignores:
            self._end(entry, 128 + (SIGKILL if entry.spec.main is None else number))

    def wait(self, id: str, timeout: float) -> ExitStatus | None:  # noqa: ARG002  # time does not pass here
        """How it ended, None if it goes on."""
        if id in self._ended:
            return self._ended[id]
        return self._find(id).status

    def wait_healthy(self, id: str, timeout: float) -> str:  # noqa: ARG002  # nothing changes here by waiting
        """What its health is."""
        entry = self._find(id)
        if entry.state != RUNNING:
            return EXITED
        return HEALTHY if entry.health is None else entry.health.status

    def logs(self, id: str, *, follow: bool = False, tail: int = -1) -> Iterator[LogLine]:  # noqa: ARG002  # all is written at once
        """What it wrote."""
        lines = self._find(id).lines
        return iter(lines if tail < 0 else lines[len(lines) - tail :] if tail else [])

    def list(self, scope: str = "") -> Sequence[Container]:
        """All containers, oldest first."""
        return [self._container(one) for one in self._entries.values() if scope in ("", one.spec.owner.scope)]

    def get(self, id: str) -> Container:
        """One container by id, name or unique beginning."""
        return self._container(self._find(id))

    def remove(self, id: str) -> None:
        """End and forget it; forgotten already is fine."""
        if len(id) == 64 and id not in self._entries:
            return
        entry = self._find(id)
        if entry.state == RUNNING:
            self._end(entry, 128 + SIGKILL)
        self._entries.pop(entry.id, None)

    def reap(self) -> Sequence[Finding]:
        """Nobody dies here."""
        return ()

    def _find(self, wanted: str) -> _Entry:
        for entry in self._entries.values():
            if wanted in (entry.id, entry.name):
                return entry
        matches = [entry for entry in self._entries.values() if wanted and entry.id.startswith(wanted)]
        if len(matches) > 1:
            raise InputError("%r is the beginning of %d container ids" % (wanted, len(matches)), remedy="give more digits")
        if not matches:
            raise InputError("no such container: %s" % wanted)
        return matches[0]

    def _container(self, entry: _Entry) -> Container:
        pid = 4242 if entry.state == RUNNING else 0
        reach = entry.reach if entry.state == RUNNING else Reach(entry.spec.address)
        return Container(entry.id, entry.name, entry.state, entry.spec, entry.created, pid, entry.status, reach, entry.health)

    def _check(self, spec: ContainerSpec) -> HealthState | None:
        if spec.health is None:
            return None
        kind, *words = spec.health.test
        request = replace(spec.main or spec.usual, argv=("/bin/sh", "-c", *words) if kind == "CMD-SHELL" else tuple(words))
        outcome = self.program(request)
        if outcome.lasts:
            return HealthState(STARTING)
        probe = Probe(self.clock(), self.clock(), outcome.code, outcome.out.decode("utf-8", "replace"))
        return HealthState(UNHEALTHY if outcome.code else HEALTHY, 1 if outcome.code else 0, (probe,))

    def _write(self, entry: _Entry, outcome: Outcome, stdio: Stdio | None) -> None:
        now = self.clock()
        for stream, data in (("stdout", outcome.out), ("stderr", outcome.err)):
            for line in data.splitlines(keepends=True):
                entry.lines.append(LogLine(now, stream, line.rstrip(b"\n"), partial=not line.endswith(b"\n")))
        if stdio is not None:
            _pass(outcome, stdio)

    def _status(self, outcome: Outcome, code: int, started: float) -> ExitStatus:
        return ExitStatus(code, code - 128 if code > 128 else 0, outcome.oom, started, self.clock(), outcome.reason, ran=outcome.ran)

    def _end(self, entry: _Entry, code: int) -> None:
        entry.state = EXITED
        entry.status = self._ended[entry.id] = self._status(entry.outcome, code, entry.started)
        if entry.spec.remove:
            self._entries.pop(entry.id, None)


def _pass(outcome: Outcome, stdio: Stdio) -> None:
    for handle, data in ((stdio.stdout, outcome.out), (stdio.stderr, outcome.err)):
        if handle >= 0 and data:
            os.write(handle, data)
