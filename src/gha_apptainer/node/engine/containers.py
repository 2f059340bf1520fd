"""`ApptainerEngine`: containers by id, for faces that are separate processes and meet only in the records on disk."""

from __future__ import annotations

import os
import select
import time

from gha_apptainer.domain.containers import NETWORK_PRIVATE, RUNNING, Container, ContainerSpec, ExecRequest, ExitStatus, LogLine, Stdio
from gha_apptainer.domain.documents import to_json
from gha_apptainer.domain.errors import DOCKER_FAILURE, EngineFailed, GhaError, HostUnfit, InputError, Refused, TimedOut
from gha_apptainer.domain.findings import OK, WARN, Finding
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import replace
from gha_apptainer.node import files, process
from gha_apptainer.node.engine import channel as channels
from gha_apptainer.node.engine import deciding, monitor, starting
from gha_apptainer.node.engine.records import UNKNOWN, Records
from gha_apptainer.node.engine.signals import forward_to, signal_number, signal_process
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, NoReturn, Optional, Sequence, Tuple

    from gha_apptainer.node.engine.foreground import Foreground
    from gha_apptainer.node.interpreter import socket


class ApptainerEngine:
    """The engine. Give it facts that were probed and settings that were read; it looks nothing up by itself."""

    def __init__(
        self,
        host: HostFacts,
        settings: NodeSettings,
        tell: Callable[[str], None] = lambda _: None,
        looks: Optional[deciding.Looks] = None,
    ) -> None:
        """`tell` hears of what costs time or space that nobody asked for, such as a private copy of an image."""
        self._tell, self._host, self._settings = tell, host, settings
        self._looks = deciding.Looks() if looks is None else looks
        self._records = Records(host.state_dir)

    # making and starting

    def create(self, spec: ContainerSpec, name: str = "") -> str:
        """Record a container; nothing runs yet. Raises InputError for a name that is taken."""
        return self._add(spec, name)[0]

    def _add(self, spec: ContainerSpec, name: str) -> Tuple[str, ContainerSpec]:
        self._check_host()
        self.reap()
        identity = os.urandom(32).hex()
        full = starting.named(spec, identity)
        if full.network == NETWORK_PRIVATE:
            from gha_apptainer.node.engine import networks

            full = replace(full, address=networks.claim_address(self._records, identity, full.owner.scope, name or identity))
        self._records.add(identity, full, name)
        return identity, full

    def start(self, id: str, stdio: Optional[Stdio] = None) -> None:
        """Start a created or ended container and return when its main process runs. It goes on by itself afterwards.

        Raises EngineFailed with the cause; a main process that cannot be started is a status, not an error.
        """
        channel, _ = self._launch(self._own(id), stdio, attached=False)
        try:
            self._await_start(channel)
        finally:
            channel.close()

    def run(self, spec: ContainerSpec, name: str, stdio: Stdio, *, grace: float = 0.0) -> ExitStatus:
        """Create, start and wait in the foreground. The container belongs to this process: when it is gone, in whatever way, so is that.

        Signals are handed on to the main process, as `docker run` does. With `grace` (seconds) the first signal cancels: the main
        process's whole session gets it, and what is left after the grace is killed.
        """
        from gha_apptainer.node.engine.foreground import CancelledEarly, Foreground

        identity, spec = self._add(spec, name)
        foreground = Foreground(self._records, identity, stdio, grace)
        with foreground:
            try:
                channel, watcher = self._launch(identity, stdio, attached=True, spec=spec)
            except BaseException:
                if spec.remove:
                    self._records.discard(identity)
                raise
            try:
                started = self._await_start(channel, foreground)
                return foreground.judged(started if started is not None else foreground.wait(channel))
            except CancelledEarly as cancelled:
                os.kill(watcher, signal.SIGKILL)  # mounts, helpers and Apptainer die with it
                return ExitStatus(128 + cancelled.number, cancelled.number, reason="cancelled before its command started", ran=False)
            finally:
                channel.close()
                process.reap(watcher, channels.END_LIMIT)
                self._reap_quietly(identity)

    def _reap_quietly(self, identity: str) -> None:
        """See to what a monitor that was killed left behind; an ordinary end has left nothing to do."""
        try:
            self._reap_one(identity)
            if self._records.monitor(identity) == (0, 0) and self._records.owner(identity)[2]:
                self._records.discard(identity)  # it was killed before it could sign
        except FileNotFoundError:
            pass

    def _own(self, id: str) -> str:
        """The id of a container that this place may act on. Raises Refused for one that was started elsewhere."""
        identity = self._records.find(id)
        if self._records.foreign(identity):
            raise Refused(
                "container %s was started on another host or in another pid namespace" % id,
                remedy="act on it where it runs; GHA_APPTAINER_STATE can give each place a directory of its own",
            )
        return identity

    def _check_host(self) -> None:
        reason = self._host.userns_reason or self._host.apptainer_reason
        if reason:
            raise HostUnfit("containers cannot be started here: " + reason, remedy="gha-apptainer doctor names every finding")

    def _launch(
        self, identity: str, stdio: Optional[Stdio], *, attached: bool, spec: Optional[ContainerSpec] = None
    ) -> Tuple[socket.socket, int]:
        """Decide everything, then fork the monitor; gives our end of the channel to it, and its pid if it is our child (else 0)."""
        self._check_host()
        records = self._records
        if spec is None:
            container = records.container(identity)
            if container.state == RUNNING:
                raise InputError("container %s is running already" % container.name)
            spec = container.spec
        for name in ("exit.json", "running.json", "join", "monitor", "reach.json", "health.json"):
            files.remove_tree(records.path(identity, name))
        ours, theirs = channels.pair()
        child = os.fork()
        if child == 0:
            self._in_child(identity, spec, ours, theirs, stdio, attached)
        theirs.close()
        if not attached:
            os.waitpid(child, 0)  # the short-lived parent of a monitor that must not be our child
        return ours, child if attached else 0

    def _in_child(
        self, identity: str, spec: ContainerSpec, ours: socket.socket, theirs: socket.socket, stdio: Optional[Stdio], attached: bool
    ) -> NoReturn:
        if not attached and os.fork():
            os._exit(0)
        try:
            ours.close()
            monitor.become(identity, spec, self._host, self._settings, theirs, stdio, self._looks, attached=attached)
        finally:
            os._exit(70)

    def _await_start(self, channel: socket.socket, foreground: Optional[Foreground] = None) -> Optional[ExitStatus]:
        """Until the monitor says ready (None), that the main process could not start (its status), or an error (raised)."""
        while True:
            limit, watched = channels.READY_LIMIT + 60, [channel.fileno()]
            if foreground is not None:
                foreground.forward_if_started()
                limit = foreground.early_limit()
                watched.append(foreground.wake)
            ready = select.select(watched, [], [], limit)[0]
            if foreground is not None and foreground.wake in ready:
                foreground.woken()
                continue
            if not ready and foreground is not None and limit < channels.READY_LIMIT:
                continue
            if not ready:
                raise TimedOut("the container's monitor does not answer")
            data, handle = channels.receive(channel)
            if handle >= 0:
                if foreground is not None:
                    foreground.master = handle
                continue
            if not data:
                raise EngineFailed("the container's monitor was lost while it started", cause="killed, or the machine is out of memory")
            word, *texts = channels.read_message(data)
            if word == channels.NOTE:
                self._tell(texts[0])
                continue
            if word == channels.ERROR:
                raise channels.read_error(tuple(texts))
            return channels.read_end(tuple(texts)) if word == channels.END else None

    # inside a running one

    def exec(self, id: str, request: ExecRequest, stdio: Stdio) -> ExitStatus:
        """Run a command in a running container and wait for it. It dies with this process. Signals are handed on to it."""
        from gha_apptainer.node.engine import flat, join, terminal

        identity = self._own(id)
        started = time.time()
        try:
            record = flat.read(self._records.path(identity, "join"))
        except (FileNotFoundError, ValueError):
            raise InputError("container %s is not running" % id) from None
        mine, theirs = channels.pair()
        try:
            command = join.Command(
                request.argv,
                request.env,
                request.cwd,
                request.user,
                stdio.stdin,
                stdio.stdout,
                stdio.stderr,
                create_cwd=request.create_cwd,
                terminal=theirs.fileno() if request.tty else -1,
                open_terminal=terminal.open_inside,
            )
            try:
                pid = join.spawn(record, command)
            except join.JoinFailed as failed:
                return ExitStatus(failed.code, started=started, finished=time.time(), reason=failed.text)
            handlers = forward_to(pid)
            try:
                if request.tty:
                    with terminal.Relay(stdio.stdin, stdio.stdout, channels.receive(mine)[1]) as relay:
                        relay.run(lambda: process.start_time(pid) == 0)
                _, status, usage = os.wait4(pid, 0)
            finally:
                for number, handler in handlers:
                    signal.signal(number, handler)
        finally:
            mine.close()
            theirs.close()
        code = join.exit_code(status)
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return ExitStatus(code, killed, False, started, time.time(), "", usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)

    def kill(self, id: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to the main process; SIGKILL, or any signal to a container without one, ends the container."""
        identity = self._own(id)
        running = self._records.running(identity)
        if running is None or self.get(identity).state != RUNNING:
            raise InputError("container %s is not running" % id)
        if number == signal.SIGKILL or not running.main:
            signal_process(running.init, running.init_started, signal.SIGKILL)
        else:
            signal_process(running.main, running.main_started, number)

    def stop(self, id: str, grace: float) -> ExitStatus:
        """The stop signal, the grace (seconds), then SIGKILL to the container's init. Stopped already is fine."""
        identity = self._own(id)
        try:
            container = self._records.container(identity)
        except FileNotFoundError:  # it ended and removed itself just now
            return self.wait(identity, 0.0) or ExitStatus(DOCKER_FAILURE, reason=UNKNOWN)
        if container.state == RUNNING:
            number = signal_number(container.spec.stop_signal)
            running = self._records.running(identity)
            if running is not None and running.main and grace > 0:
                signal_process(running.main, running.main_started, number)
                ended = self.wait(identity, grace)
                if ended is not None:
                    return ended
            if running is not None:
                signal_process(running.init, running.init_started, signal.SIGKILL)
        ended = self.wait(identity, 30.0)
        if ended is None:
            raise TimedOut("container %s does not end" % container.name, remedy="gha-apptainer rm -f removes what is left")
        return ended

    def wait(self, id: str, timeout: float) -> Optional[ExitStatus]:
        """How the container ended, or None if it still runs after `timeout` seconds. Nobody's record is "unknown", never 0."""
        identity = self._records.find(id) if len(id) != 64 else id
        deadline = time.monotonic() + timeout
        while True:
            monitored = process.alive(*self._records.monitor(identity))
            status = self._records.status(identity)
            if status is not None and not monitored:
                return status
            if not monitored and (not os.path.isdir(self._records.path(identity)) or self._records.running(identity) is not None):
                return self._records.status(identity) or ExitStatus(DOCKER_FAILURE, reason=UNKNOWN)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, 0.01))

    def wait_healthy(self, id: str, timeout: float) -> str:
        """Until its health is known: "healthy", "unhealthy", "exited", or "starting" when `timeout` seconds are over."""
        from gha_apptainer.node.engine import health

        return health.wait(lambda: self.get(id), timeout)

    # reporting

    def logs(self, id: str, *, follow: bool = False, tail: int = -1) -> Iterator[LogLine]:
        """What the container wrote, line by line; `follow` goes on until it has ended."""
        identity = self._records.find(id)

        def ended() -> bool:
            return not process.alive(*self._records.monitor(identity))

        from gha_apptainer.node.engine import logs

        return logs.read(self._records.path(identity, "log"), follow=follow, tail=tail, ended=ended)

    def list(self, scope: str = "") -> Sequence[Container]:
        """All containers of this user on this host, oldest first; `scope` limits to one owner's."""
        self.reap()
        found = []
        for identity in self._records.ids():
            try:
                container = self._records.container(identity)
            except FileNotFoundError:
                continue
            if not scope or container.spec.owner.scope == scope:
                found.append(container)
        return found

    def get(self, id: str) -> Container:
        """One container by id, name or beginning of an id. Raises InputError."""
        try:
            return self._records.container(self._records.find(id))
        except FileNotFoundError as error:  # it was removed just now
            raise InputError("no such container: %s" % id, remedy="gha-apptainer ps -a lists all") from error

    # the end

    def remove(self, id: str) -> None:
        """End the container if it runs, and remove record, layer and anonymous volumes. Gone already is fine."""
        try:
            identity = self._own(id)
        except InputError:
            if len(id) == 64:
                return
            raise
        if process.alive(*self._records.monitor(identity)):
            running = self._records.running(identity)
            if running is not None:
                signal_process(running.init, running.init_started, signal.SIGKILL)
            self._await_monitor(identity)
        self._bury(identity)
        self._records.discard(identity)

    def _await_monitor(self, identity: str, limit: float = 30.0) -> None:
        deadline = time.monotonic() + limit
        running = self._records.running(identity)
        while True:
            monitor = self._records.monitor(identity)
            if not process.alive(*monitor):
                return
            if running is None:  # it was still starting when its end was asked for
                running = self._records.running(identity)
                if running is not None:
                    signal_process(running.init, running.init_started, signal.SIGKILL)
            if time.monotonic() > deadline:
                signal_process(*monitor, signal.SIGKILL)  # the container's init dies with it, and so do its mounts
                return
            time.sleep(0.005)

    def reap(self) -> Sequence[Finding]:
        """Clean up what dead owners and killed monitors left on this host and boot, and only that. Called by every command."""
        found: List[Finding] = list(self._records.leftovers())
        for identity in self._records.ids():
            try:
                finding = self._reap_one(identity)
            except FileNotFoundError:
                continue  # another command was faster
            except (GhaError, OSError) as error:
                finding = Finding("unreadable", WARN, "container %s: %s" % (identity[:12], error), "gha-apptainer rm -f " + identity[:12])
            if finding is not None:
                found.append(finding)
        return found

    def _reap_one(self, identity: str) -> Optional[Finding]:
        records = self._records
        if records.foreign(identity):
            return None
        monitor = records.monitor(identity)
        pid, started, remove = records.owner(identity)
        owner_gone = pid != 0 and not process.alive(pid, started)
        if process.alive(*monitor):
            if not owner_gone:
                return None
            self._bury(identity)  # its monitor sees to the rest, and would have looked for its owner within seconds
            self._await_monitor(identity)
        status = records.status(identity)
        if status is None and monitor != (0, 0):
            self._bury(identity)
            status = ExitStatus(DOCKER_FAILURE, finished=time.time(), reason="unknown: its monitor was killed")
            files.write_whole(records.path(identity, "exit.json"), to_json(status).encode())
            if not remove and not owner_gone:
                return Finding("monitor-killed", WARN, "container %s lost its monitor" % records.name(identity))
        if (remove and status is not None) or (owner_gone and (remove or status is None)):
            records.discard(identity, status)
            return Finding("reaped", OK, "removed container %s, whose owner is gone" % identity[:12])
        return None

    def _bury(self, identity: str) -> None:
        """See to it that nothing of a container without a monitor runs; its init ends by itself when the monitor's pipe is gone."""
        running = self._records.running(identity)
        if running is None:
            return
        deadline = time.monotonic() + 5.0
        while process.alive(running.init, running.init_started) and time.monotonic() < deadline:
            signal_process(running.init, running.init_started, signal.SIGKILL)
            time.sleep(0.002)


def open_engine(host: HostFacts, settings: NodeSettings, tell: Callable[[str], None] = lambda _: None) -> ApptainerEngine:
    """The engine as every face uses it."""
    return ApptainerEngine(host, settings, tell)
