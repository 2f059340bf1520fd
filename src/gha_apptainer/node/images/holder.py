"""A process as others see it that share a file system with it: who works on something, and whether it still lives."""

from __future__ import annotations

import os

from gha_apptainer.domain.documents import from_json
from gha_apptainer.domain.errors import GhaError, Untrusted
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.files import decode, read_whole
from gha_apptainer.node.process import alive, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional


@dataclass(frozen=True)
class Holder:
    """The content of a lease: a process, named so that others on its host can tell whether it lives, and its count of signs of life."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    started: int
    token: str
    count: int = 0

    def __str__(self) -> str:
        return "process %d on %s" % (self.pid, self.host)

    def known_dead(self, me: Holder) -> bool:
        """Whether it can be told from here that the process is gone; False where it cannot be told."""
        same = (self.boot_id, self.pid_namespace) == (me.boot_id, me.pid_namespace)
        return same and not alive(self.pid, self.started)


def myself() -> Holder:
    """This process as a holder, with a new random token."""
    try:
        boot_id = decode(read_whole("/proc/sys/kernel/random/boot_id")).strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except (OSError, GhaError):
        boot_id, namespace = "", "unknown"
    return Holder(os.uname().nodename, boot_id, namespace, os.getpid(), start_time(os.getpid()), os.urandom(8).hex())


def read_holder(path: str) -> Optional[Holder]:
    """Who holds the lease at `path`; None where nobody does. A file that is no lease reads as a holder of nothing."""
    try:
        return from_json(Holder, decode(read_whole(path, limit=1 << 16)))
    except FileNotFoundError:
        return None
    except Untrusted:
        return Holder("an unreadable lease", "", "", 0, 0, "")
