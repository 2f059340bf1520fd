"""Jobs on disk: one private directory each in the state directory, outside of every bind.

    jobs/ID/job.json     what the job has, for prepare_job, run_container_step and cleanup_job
    jobs/ID/step         what a step needs of it (`flat`)
    jobs/ID/card.md      the summary card, until a step has taken it

A directory is being made while its name begins with `.new-`, being removed while it begins with `.gone-`; both carry pid, start time and
place of who does it. A job belongs to the runner's process: when that is gone, the next hook of the same user removes what it left.
"""

from __future__ import annotations

import os
import re
from typing import ClassVar, List, Optional, Tuple

from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import GhaError, InputError
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import files, process
from gha_apptainer.node.hooks import flat

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ServiceRecord:
    """One service of a job: its container, the names under which it is found, and what it is called in messages."""

    container: str
    title: str
    aliases: Tuple[str, ...] = ()


@dataclass(frozen=True)
class JobRecord:
    """One job. `owner` and `owner_started` name the runner's process, `place` says where pids mean something; `scope` as in `flat`.

    `network` is the kind of network that the job container has, and so its container steps.
    """

    DOCUMENT_VERSION: ClassVar[int] = 1
    version: int = 1
    id: str = ""
    scope: str = ""
    owner: int = 0
    owner_started: int = 0
    place: str = ""
    work: str = ""
    container: str = ""
    network: str = ""
    services: Tuple[ServiceRecord, ...] = ()


class Jobs:
    """The jobs below one state directory."""

    def __init__(self, state: str) -> None:
        self.top = files.private_directory(os.path.join(state, "jobs"))
        self._state = state

    def path(self, identity: str, *parts: str) -> str:
        """A path in a job's directory."""
        return os.path.join(self.top, identity, *parts)

    def add(self, record: JobRecord) -> None:
        """Make a job's directory, whole at once."""
        making = os.path.join(self.top, self._half(".new", record.id))
        os.mkdir(making, 0o700)
        try:
            files.write_whole(os.path.join(making, "job.json"), to_json(record).encode())
            os.rename(making, self.path(record.id))
        except BaseException:
            files.remove_tree(making)
            raise

    def write(self, record: JobRecord) -> None:
        """Publish a job's changed record."""
        files.write_whole(self.path(record.id, "job.json"), to_json(record).encode())

    def write_step(self, identity: str, job: flat.FlatJob) -> None:
        """Publish what steps need."""
        files.write_whole(self.path(identity, "step"), flat.encode(job))

    def read(self, identity: str) -> Optional[JobRecord]:
        """A job's record; None if there is no such job. Raises Untrusted for one that is damaged."""
        if not _ID.fullmatch(identity):
            return None
        try:
            return from_json(JobRecord, files.decode(files.read_whole(self.path(identity, "job.json"))))
        except FileNotFoundError:
            return None

    def ids(self) -> Tuple[str, ...]:
        """All jobs of this user on this host."""
        return tuple(name for name in sorted(os.listdir(self.top)) if _ID.fullmatch(name))

    def of_scope(self, scope: str) -> Tuple[str, ...]:
        """The jobs that were made for the very job that a hook is called for now."""
        found = []
        for identity in self.ids():
            try:
                record = self.read(identity)
            except GhaError:
                continue
            if record is not None and record.scope == scope and not process.elsewhere(record.place):
                found.append(identity)
        return tuple(found)

    def dead(self) -> Tuple[str, ...]:
        """Jobs whose runner is gone, on this host. What cannot be read is left alone: another version's hooks may be at work."""
        found = []
        for identity in self.ids():
            try:
                record = self.read(identity)
            except GhaError:
                continue
            if record is None or process.elsewhere(record.place) or process.alive(record.owner, record.owner_started):
                continue
            found.append(identity)
        return tuple(found)

    def sweep(self) -> None:
        """Remove half-made and half-removed directories whose maker is gone."""
        for name in os.listdir(self.top):
            if not name.startswith((".new-", ".gone-")):
                continue
            words = name.split("-", 4)
            if len(words) == 5 and (process.elsewhere(words[3]) or process.alive(int(words[1]), int(words[2]))):
                continue
            files.remove_tree(os.path.join(self.top, name))

    def discard(self, identity: str) -> None:
        """Remove a job's directory; gone already is fine."""
        self.drop(self.path(identity))

    def drop(self, path: str) -> None:
        """Remove a tree of the state directory: out of sight at once, so that of several who would remove it one does; gone is fine."""
        going = os.path.join(self.top, self._half(".gone", os.path.basename(path)))
        try:
            os.rename(path, going)
        except FileNotFoundError:
            return
        files.remove_tree(going)

    def volumes(self, prefix: str) -> List[str]:
        """Paths of the named volumes whose names begin with `prefix`."""
        top = os.path.join(self._state, "volumes")
        try:
            return [os.path.join(top, name) for name in os.listdir(top) if name.startswith(prefix)]
        except FileNotFoundError:
            return []

    @staticmethod
    def _half(kind: str, identity: str) -> str:
        return "%s-%d-%d-%s-%s" % (kind, os.getpid(), process.start_time(os.getpid()), process.here(), identity)


def new_id() -> str:
    """An id that nobody can guess."""
    return os.urandom(16).hex()


def owner_of(given: int) -> Tuple[int, int]:
    """pid and start time of the runner's process: the nearest Runner.Worker above `given`, else `given` itself. Raises InputError."""
    pid = given or os.getppid()
    for _ in range(5):
        name, parent = _named(pid)
        if name == "Runner.Worker":
            return pid, process.start_time(pid)
        if parent <= 1:
            break
        pid = parent
    first = given or os.getppid()
    started = process.start_time(first)
    if not started:
        raise InputError("the runner that called this hook is gone")
    return first, started


def _named(pid: int) -> Tuple[str, int]:
    try:
        with open("/proc/%d/stat" % pid, "rb") as handle:
            text = handle.read()
    except OSError:
        return "", 0
    return text[text.index(b"(") + 1 : text.rindex(b")")].decode("utf-8", "replace"), int(text[text.rindex(b")") + 2 :].split()[1])
