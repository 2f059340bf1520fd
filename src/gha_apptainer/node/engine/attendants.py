"""The processes beside a monitor: forwarder and health check. Its children, which die with it; whichever is lost is started again.

What restarts too often is a defect or somebody's will, and then the container fails by name: it would go on without what was asked for.
"""

from __future__ import annotations

import os
import select
import signal
import time
from functools import partial
from typing import Callable, List, Tuple

from gha_apptainer.domain.containers import NETWORK_HOST, NETWORK_PRIVATE, ContainerSpec, Reach
from gha_apptainer.domain.documents import to_json
from gha_apptainer.domain.errors import EngineFailed
from gha_apptainer.node import files, process
from gha_apptainer.node.engine import ports
from gha_apptainer.node.engine.flat import JoinRecord
from gha_apptainer.node.engine.records import Records

LAST_WORDS = "forwarder.error"
"""The file in a container's record directory in which a forwarder says why it cannot go on."""
_READY_LIMIT = 30.0
_END_LIMIT = 4.0
_RESTARTS, _WITHIN = 5, 60.0
"""So many losses within so many seconds are too many."""


class _Attendant:
    """One kind of process: how it is started, the one that runs, and when earlier ones were lost.

    With `words` it says when it is ready, and that is the file for its last words.
    """

    def __init__(self, what: str, serve: Callable[[int, int], None], words: str = "") -> None:
        self.what, self._serve, self._words = what, serve, words
        self.pid = 0
        self._life = -1
        self._lost: List[float] = []

    def start(self) -> None:
        """Fork it, and wait until it says that it is ready, if it says so. Raises EngineFailed with its words."""
        life_in, life_out = os.pipe2(os.O_CLOEXEC)
        ready_in, ready_out = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve(life_in, ready_out)
            except BaseException as error:  # noqa: BLE001  # the only way out of a forked process
                os.write(ready_out, files.encode("%s: %s" % (type(error).__name__, error))[:400])
            finally:
                os._exit(70)
        os.close(life_in)
        os.close(ready_out)
        self._life = life_out
        try:
            said = b"r"
            if self._words:
                said = os.read(ready_in, 400) if select.select([ready_in], [], [], _READY_LIMIT)[0] else b"no answer"
        finally:
            os.close(ready_in)
        if said != b"r":
            self.end()
            raise EngineFailed("%s could not be started" % self.what, cause=said.decode("utf-8", "replace"))

    def check(self) -> str:
        """Start it again if it is lost; a sentence if it was lost too often."""
        if not self.pid or not self._gone():
            return ""
        now = time.monotonic()
        self._lost = [one for one in self._lost if one > now - _WITHIN] + [now]
        os.close(self._life)
        self.pid, self._life = 0, -1
        if len(self._lost) > _RESTARTS:
            return "%s was lost %d times within a minute%s" % (self.what, len(self._lost), self._last_words())
        try:
            self.start()
        except EngineFailed as error:
            return "%s was lost and cannot be started again: %s" % (self.what, error.cause)
        return ""

    def _last_words(self) -> str:
        try:
            return ": " + files.decode(files.read_whole(self._words)) if self._words else ""
        except OSError:
            return ""  # it was killed

    def _gone(self) -> bool:
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        except ChildProcessError:
            return True

    def end(self) -> None:
        """Ask it to finish what it holds, and see that it is gone."""
        if not self.pid:
            return
        os.close(self._life)
        if not process.reap(self.pid, _END_LIMIT):
            os.kill(self.pid, signal.SIGKILL)
            process.reap(self.pid, _END_LIMIT)
        self.pid, self._life = 0, -1


class Attendants:
    """One container's. To be made before its monitor gives rights away: it takes the published ports, or raises InputError."""

    def __init__(self, records: Records, identity: str, spec: ContainerSpec) -> None:
        self._records, self._identity, self._spec = records, identity, spec
        self._published: Tuple[ports.Bound, ...] = ()
        self._early: Tuple[ports.Bound, ...] = ()
        self._attendants: List[_Attendant] = []
        name = records.name(identity)
        if spec.network == NETWORK_HOST:
            if spec.ports:
                reach = Reach(ports=ports.check_host_ports(spec, name, records))
                records.write(identity, "reach.json", to_json(reach))
        else:
            self._published = ports.open_published(spec, name, records)
            self._early = ports.early(spec)

    def load(self) -> None:
        """What they will need, while there is time."""
        if self._spec.network == NETWORK_PRIVATE or self._spec.network_name:
            from gha_apptainer.node.engine import forwarder  # noqa: F401
        if self._spec.health is not None:
            from gha_apptainer.node.engine import health_checks  # noqa: F401

    def start(self, init: int, root: str, record: JoinRecord, since: float) -> None:
        """Start what the container needs, before its main process. Raises EngineFailed."""
        spec = self._spec
        if spec.network == NETWORK_PRIVATE or spec.network_name:
            keep = {bound.fileno() for _, bound in self._published + self._early}

            def forward(life: int, ready: int) -> None:
                from gha_apptainer.node.engine import forwarder

                make = partial(forwarder.Forwarder, self._records, self._identity, spec, init, root, self._published, self._early)
                forwarder.serve(make, life, ready, keep)

            self._attendants.append(_Attendant("its port forwarder", forward, self._records.path(self._identity, LAST_WORDS)))
        if spec.health is not None:

            def check(life: int, ready: int) -> None:
                from gha_apptainer.node.engine import health_checks

                os.close(ready)
                health_checks.serve(self._records, self._identity, spec, record, since, life)

            self._attendants.append(_Attendant("its health check", check))
        for one in self._attendants:
            one.start()

    def check(self) -> str:
        """Look after them; a sentence when the container must not go on."""
        for one in self._attendants:
            reason = one.check()
            if reason:
                return reason
        return ""

    def end(self) -> None:
        """End them, and give the ports back."""
        for one in self._attendants:
            one.end()
        self._attendants.clear()
        for _, bound in self._published + self._early:
            bound.close()
