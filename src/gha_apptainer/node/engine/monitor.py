"""One process for each container, as conmon: parent of Apptainer, child subreaper, in a session of its own.

It owns mounts, FUSE helpers, logs and the exit record, and nothing of the container lives longer than it: the container's init reads a pipe
that only the monitor holds. Whoever started it sits at the other end of a channel; for a container that belongs to its caller the end
of the channel is the end of the container.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from gha_apptainer.domain.containers import TMPFS, ContainerSpec, ExitStatus, Stdio
from gha_apptainer.domain.documents import to_json
from gha_apptainer.domain.errors import DOCKER_FAILURE, EngineFailed, GhaError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import replace
from gha_apptainer.node import apptainer, files, process
from gha_apptainer.node.engine import channel as channels
from gha_apptainer.node.engine import deciding, kernel, layers, namespaces, setup, starting
from gha_apptainer.node.engine.records import Records, Running
from gha_apptainer.node.engine.signals import signal_process
from gha_apptainer.node.images import uses
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, NoReturn, Optional, Tuple

    from gha_apptainer.node.engine import flat, join, keeping
    from gha_apptainer.node.engine.attendants import Attendants
    from gha_apptainer.node.engine.logs import LogWriter
    from gha_apptainer.node.interpreter import socket

LOST_ROOT = "root file system lost"
OWNER_GONE = "its owner is gone"
_END_LIMIT = 10.0  # seconds for a killed container to disappear


class Monitor:
    """The life of one container; `main` never returns."""

    def __init__(
        self,
        job: deciding.Job,
        records: Records,
        host: HostFacts,
        settings: NodeSettings,
        channel: socket.socket,
        stdio: Optional[Stdio],
        looks: deciding.Looks,
    ) -> None:
        self._looks = looks
        self._job, self._records, self._host, self._settings = job, records, host, settings
        self._channel, self._stdio = channel, stdio
        self._held: Optional[setup.Held] = None
        self._root: Optional[layers.Root] = None
        self._marks: Optional[keeping.Marks] = None
        self._log: Optional[LogWriter] = None
        self._pipes: Dict[int, Tuple[str, int]] = {}
        self._main = 0
        self._dying: List[int] = []
        self._unfinished = ""
        self._rooms: Tuple[str, ...] = ()
        self._command: Optional[join.Command] = None
        self._entered: Optional[join.Entered] = None
        self._closing: List[int] = []
        self._main_ended: Optional[Tuple[int, object]] = None
        self._reason = ""
        self._use = uses.Use("")
        self._attendants: Optional[Attendants] = None
        self._renew_at = 0.0
        self._since = time.time()

    def main(self) -> NoReturn:
        """Run to the end and exit; every failure becomes a record and a word on the channel."""
        code = 0
        try:
            self._detach()
            status = self._finish(self._live())
            self._send(channels.end_message(status))
        except GhaError as error:
            code = error.exit_code
            self._fail(error)
        except BaseException as error:  # noqa: BLE001  # a defect of ours must still end the container and say so
            code = 70
            self._fail(EngineFailed("the monitor failed: %s: %s" % (type(error).__name__, error)))
        os._exit(code)

    def _detach(self) -> None:
        os.setsid()
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(one, signal.SIG_IGN)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        os.umask(0o022)
        os.chdir("/")
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        if null > 2:
            os.close(null)
        self._records.started_by_me(self._job.identity)

    # up

    def _live(self) -> ExitStatus:
        identity = self._job.identity
        self._watch_owner()
        job = self._job = deciding.decide(self._job, self._records, self._host, self._settings, self._looks, tell=self._note)
        self._use = uses.use(job.spec.image, self._settings, self._host, identity)
        self._renew_at = time.monotonic() + uses.RENEW_USE
        if starting.attended(job.spec):
            from gha_apptainer.node.engine.attendants import Attendants

            self._attendants = Attendants(self._records, identity, job.spec)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # id maps can only be written so; our caller may have closed himself to looks
        single = namespaces.enter_own(self._host)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # its id maps are written; from here on nothing inside may look into us
        self._root = layers.mount_root(job.root, self._host, job.layer, single=single, tell=self._note)
        if job.spec.keep:
            from gha_apptainer.node.engine import keeping

            self._marks = keeping.marks(job.start, self._root.merged)
        binds = setup.fill_root(job.start, self._root, one_id=single)
        if single and job.spec.switch_users:
            from gha_apptainer.node.engine import switching

            switching.place(self._root.merged, self._host.machine)
        config = self._config()
        talk = self._records.path(identity, "apptainer.log")
        real_root = not single and self._host.uid == 0
        self._rooms = setup.SHIELDED_SYS + (setup.SHIELDED_PROC if job.fresh_proc else ()) if real_root else ()
        self._held = setup.hold(
            self._host,
            job.start,
            self._root,
            binds,
            config=config,
            fresh_proc=job.fresh_proc,
            talk=talk,
            meanwhile=self._load_the_rest,
            early=self._enter_early,
        )
        from gha_apptainer.node.engine import cgroups, flat

        record = self._join_record(self._held.init, self._held.init_started)
        oom_before = cgroups.oom_kills()
        self._stop_watching()
        if self._attendants is not None:
            self._attendants.start(self._held.init, self._root.merged, record, self._since)
        if job.spec.main is None:
            setup.shield_held(self._held, read_only=not job.spec.writable, rooms=self._rooms)
        else:
            self._start_main(record)
        files.write_whole(self._records.path(identity, "join"), flat.encode(record))  # from here on others can enter
        self._announce()
        usage = self._wait()
        return self._judge(usage, oom_before)

    def _load_the_rest(self) -> None:
        """While Apptainer starts: what the container needs next, modules among it. Nothing may be loaded once a process is inside."""
        from gha_apptainer.node.engine import cgroups, flat, join  # noqa: F401  # they are needed soon

        if self._attendants is not None:
            self._attendants.load()
        request = self._job.spec.main
        if request is not None and request.tty:
            from gha_apptainer.node.engine import terminal  # noqa: F401
        if self._stdio is None or not self._job.spec.remove:
            from gha_apptainer.node.engine import logs  # noqa: F401
        usual = request or self._job.spec.usual
        settings = flat.ExecSettings(usual.env, usual.cwd, usual.user)
        files.write_whole(self._records.path(self._job.identity, "exec"), flat.encode_settings(settings))

    def _watch_owner(self) -> None:
        """While the container is being made, however long that takes, an owner that goes away ends it: no command starts for nobody.

        SIGIO comes whenever something happens on the channel, and its handler raises out of whatever we are waiting for.
        """
        if not self._job.attached:
            return
        signal.signal(signal.SIGIO, self._owner_moved)
        fcntl.fcntl(self._channel, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._channel, fcntl.F_GETFL)
        fcntl.fcntl(self._channel, fcntl.F_SETFL, flags | os.O_ASYNC)
        self._owner_moved()

    def _owner_moved(self, *_: object) -> None:
        if self._channel_closed():
            raise EngineFailed(OWNER_GONE)

    def _stop_watching(self) -> None:
        """From here on the long wait looks at the channel itself."""
        if not self._job.attached:
            return
        flags = fcntl.fcntl(self._channel, fcntl.F_GETFL)
        fcntl.fcntl(self._channel, fcntl.F_SETFL, flags & ~os.O_ASYNC)
        self._owner_moved()
        signal.signal(signal.SIGIO, signal.SIG_IGN)

    def _config(self) -> str:
        if not self._host.config_option:
            return ""
        path = self._records.path(self._job.identity, "apptainer.conf")
        files.write_whole(path, apptainer.engine_config().encode())
        return path

    def _join_record(self, init: int, started: int) -> flat.JoinRecord:
        from gha_apptainer.node.engine import flat

        one_id = namespaces.maps_one_id(init)
        return flat.JoinRecord(
            boot=self._host.boot_id,
            machine=self._host.machine,
            init=init,
            started=started,
            uid=self._host.uid,
            gid=self._host.gid,
            single=int(one_id),
            emulate=int(one_id),
            keyring=int(self._settings.keep_session_keyring),
            libs=starting.GPU_LIBRARIES if self._job.start.gpu else "",
        )

    def _enter_early(self, init: int, started: int) -> None:
        """While Apptainer does the last of its work: the main process enters, and waits for the word to begin."""
        from gha_apptainer.node.engine import join

        if self._job.spec.main is None or not self._job.spec.writable:  # Apptainer may still have something to write
            return
        try:
            self._entered = join.Entered(self._join_record(init, started), self._main_command())
        except join.JoinFailed:
            pass  # it is tried again when Apptainer is done, and then it counts

    def _main_command(self) -> join.Command:
        """The main process as the joiner takes it, made once. Its descriptors of ours are closed when it has started."""
        from gha_apptainer.node.engine import join

        if self._command is not None:
            return self._command
        request = self._job.spec.main
        assert request is not None
        self._terminal = channels.pair()
        read_only, rooms = not self._job.spec.writable, self._rooms

        def shield(host_self: int) -> None:
            setup.shield(host_self, read_only=read_only, rooms=rooms)

        streams, self._closing = ((-1, -1, -1), []) if request.tty else self._streams()
        self._command = join.Command(
            request.argv,
            request.env,
            request.cwd,
            request.user,
            *streams,
            create_cwd=request.create_cwd,
            terminal=self._terminal[1].fileno() if request.tty else -1,
            open_terminal=_open_terminal,
            first=shield,
        )
        return self._command

    def _start_main(self, record: flat.JoinRecord) -> None:
        from gha_apptainer.node.engine import join

        command = self._main_command()
        mine, theirs = self._terminal
        try:
            entered, self._entered = self._entered, None
            self._main = entered.go() if entered is not None else join.spawn(record, command)
            if command.terminal >= 0:
                self._take_terminal(mine)
        except join.JoinFailed as failed:
            status = ExitStatus(failed.code, started=self._since, finished=time.time(), reason=failed.text, ran=False)
            status = self._finish(status)
            self._send(channels.end_message(status))
            os._exit(0)
        finally:
            mine.close()
            theirs.close()
            for handle in self._closing:
                os.close(handle)

    def _take_terminal(self, mine: socket.socket) -> None:
        """The container's terminal goes to who sits at ours; without anybody it is read into the log."""
        _, master = channels.receive(mine)
        if self._stdio is not None:
            channels.send_descriptor(self._channel, master)
            os.close(master)
            return
        from gha_apptainer.node.engine.logs import LogWriter

        self._log = LogWriter(self._records.path(self._job.identity, "log"), self._settings.log_bytes, self._settings.log_files)
        self._pipes[master] = ("stdout", -1)

    def _streams(self) -> Tuple[Tuple[int, int, int], List[int]]:
        """The main process's descriptors, and those of them that are ours to close. A foreground container that is removed at its end
        writes straight to its caller; every other one through pipes of ours into the log, and to the caller as well.
        """
        stdio = self._stdio
        if stdio is not None and self._job.spec.remove:
            return (stdio.stdin, stdio.stdout, stdio.stderr), []
        from gha_apptainer.node.engine.logs import LogWriter

        self._log = LogWriter(self._records.path(self._job.identity, "log"), self._settings.log_bytes, self._settings.log_files)
        closing = []
        out = []
        for name, copy in (("stdout", stdio.stdout if stdio else -1), ("stderr", stdio.stderr if stdio else -1)):
            inner, outer = os.pipe2(os.O_CLOEXEC)
            self._pipes[inner] = (name, copy)
            closing.append(outer)
            out.append(outer)
        stdin = stdio.stdin if stdio else -1
        if stdin < 0 and self._job.spec.interactive:
            fifo = self._records.path(self._job.identity, "stdin")
            if not os.path.exists(fifo):
                os.mkfifo(fifo, 0o600)
            stdin = os.open(fifo, os.O_RDWR | os.O_CLOEXEC)
            closing.append(stdin)
        return (stdin, out[0], out[1]), closing

    def _announce(self) -> None:
        assert self._held is not None
        running = Running(
            init=self._held.init,
            init_started=self._held.init_started,
            main=self._main,
            main_started=process.start_time(self._main) if self._main else 0,
            since=self._since,
            layer=self._job.layer,
            mechanism=self._job.root.mechanism,
            interactive=self._job.spec.interactive,
        )
        self._records.write(self._job.identity, "running.json", to_json(running))
        self._send(channels.message(channels.READY))

    # the long wait

    def _wait(self) -> Optional[Tuple[int, object]]:
        """Until the main process ends, or the container, or its owner. Gives the main process's wait status and resource usage."""
        assert self._held is not None
        gone, owner = self._held.gone, self._job.spec.owner
        poller = select.poll()
        poller.register(gone, select.POLLIN | select.POLLHUP)
        if self._job.attached:
            poller.register(self._channel, select.POLLIN | select.POLLHUP)
        for handle in self._pipes:
            poller.register(handle, select.POLLIN | select.POLLHUP)
        wake = _child_signal_pipe()
        poller.register(wake, select.POLLIN)
        ended: Optional[Tuple[int, object]] = self._reap_main()
        while ended is None:
            if not self._is_down() and owner.pid and not process.alive(owner.pid, owner.started):
                self._reason = OWNER_GONE
                self._kill()
            if self._is_down() and not self._main:
                return None
            for handle, _ in poller.poll(2000):
                if handle in self._pipes:
                    self._pump(handle, poller.unregister)
                elif handle == wake:
                    os.read(wake, 4096)
                elif handle == gone:
                    poller.unregister(handle)
                    self._kill()
                    if not self._main:
                        return None
                elif self._channel_closed():
                    poller.unregister(self._channel)
                    self._reason = self._reason or OWNER_GONE
                    self._kill()
            self._renew_image()
            ended = self._reap_main()
            if ended is None and self._root is not None and layers.lost_helper(self._root.helpers) is not None:
                self._reason = LOST_ROOT
                self._kill()
            if ended is None and self._attendants is not None and not self._is_down():
                lost = self._attendants.check()
                if lost:
                    self._reason = lost
                    self._kill()
        self._check_root()
        self._strike()
        if self._pipes:
            self._await_gone()
            self._drain()
        return ended

    def _is_down(self) -> bool:
        return self._held is None

    def _renew_image(self) -> None:
        """Tell collectors on every node that the image is in use."""
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + uses.RENEW_USE
        try:
            self._use.renew()
        except OSError:
            pass  # the store is out of reach just now; a hold outlives many missed renewals

    def _check_root(self) -> None:
        """A helper that died before the payload did means that the payload may have read nonsense, whatever its exit code."""
        if not self._reason and self._root is not None and layers.lost_helper(self._root.helpers) is not None:
            self._reason = LOST_ROOT

    def _reap_main(self) -> Optional[Tuple[int, object]]:
        """The main process's wait status and resource usage if it has ended."""
        if not self._main or self._main_ended is not None:
            return self._main_ended
        try:
            pid, status, usage = os.wait4(self._main, os.WNOHANG)
        except ChildProcessError:
            return (DOCKER_FAILURE << 8, None)
        return (status, usage) if pid == self._main else None

    def _channel_closed(self) -> bool:
        try:
            return not self._channel.recv(1, channels.DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _pump(self, handle: int, unregister: Callable[[int], None]) -> None:
        name, copy = self._pipes[handle]
        try:
            data = os.read(handle, 1 << 16)
        except OSError:  # EIO: a terminal that nobody has open any more
            data = b""
        if not data:
            unregister(handle)
            os.close(handle)
            del self._pipes[handle]
            return
        if copy >= 0:
            try:
                _write_all(copy, data)
            except OSError as error:  # the caller gets no more of it; the log still does
                self._pipes[handle] = (name, -1)
                if error.errno != errno.EPIPE:  # he still listens, and what he has is not whole: that is no success
                    self._reason = self._reason or "its %s could not be written: %s" % (name, error.strerror)
        if self._log is not None:
            self._log.feed(name, data)

    def _drain(self) -> None:
        """Read what the container wrote before it ended; all its processes are gone, so every pipe ends."""
        deadline = time.monotonic() + _END_LIMIT
        while self._pipes:
            ready = select.select(list(self._pipes), [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                self._unfinished = self._unfinished or "its output did not end within %g s of SIGKILL and may not be whole" % _END_LIMIT
                break
            for handle in ready:
                self._pump(handle, lambda _: None)
        if self._log is not None:
            self._log.close()
            self._log = None

    # down

    def _kill(self) -> None:
        """End the container: its init dies, and with it everything in its pid namespace."""
        self._strike()
        self._await_gone()

    def _strike(self) -> None:
        """Its init gets SIGKILL; what follows from that is for `_await_gone` to see."""
        if self._held is None:
            return
        held, self._held = self._held, None
        for pid, started in ((held.init, held.init_started), (held.starter, held.starter_started)):
            signal_process(pid, started, signal.SIGKILL)  # Apptainer has nothing to clean up: mounts and helpers are ours
        os.close(held.life)
        self._dying = [held.starter, held.init]  # the second becomes our child when the first is gone
        os.close(held.gone)

    def _await_gone(self) -> None:
        """Until its processes are gone. One that hangs in the kernel cannot be waited for, and what it wrote or did is then not known."""
        left, self._dying = self._dying, []
        deadline = time.monotonic() + _END_LIMIT
        while left and time.monotonic() < deadline:
            self._main_ended = self._main_ended or self._reap_main()  # init ends only when every process of its namespace was reaped
            if process.reap(left[0], 0.0):
                left.pop(0)
            else:
                time.sleep(0.0002)
        if left:
            self._unfinished = "its processes did not end within %g s of SIGKILL: output and files may not be whole" % _END_LIMIT

    def _judge(self, ended: Optional[Tuple[int, object]], oom_before: int) -> ExitStatus:
        finished = time.time()
        if ended is None:
            return ExitStatus(137, 9, started=self._since, finished=finished, reason=self._reason)
        from gha_apptainer.node.engine import cgroups, join

        status, usage = ended
        code = join.exit_code(status)
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if self._reason and code == 0:
            code = DOCKER_FAILURE
        peak = getattr(usage, "ru_maxrss", 0) * 1024
        cpu = getattr(usage, "ru_utime", 0.0) + getattr(usage, "ru_stime", 0.0)
        oom = code == 137 and 0 <= oom_before < cgroups.oom_kills()
        return ExitStatus(code, number, oom, self._since, finished, self._reason, peak, cpu)

    def _clean(self) -> None:
        """Undo mounts and helpers; the layer stays, it belongs to the container."""
        self._kill()
        self._unmount()

    def _unmount(self) -> None:
        if self._attendants is not None:
            self._attendants.end()
        if self._root is None:
            return
        root, self._root = self._root, None
        layers.unmount_root(root, keep=not self._job.spec.remove)
        for one in self._job.start.placed:
            if one.kind == TMPFS:
                try:
                    kernel.unmount(files.encode(one.source))
                except OSError:
                    continue  # it was not mounted yet
        self._release_image()

    def _release_image(self) -> None:
        try:
            self._use.release()
        except OSError:
            pass  # it expires by itself

    def _finish(self, status: ExitStatus) -> ExitStatus:
        """Everything of the container ends, then its record says how; one that is to be removed goes while the kernel takes it apart."""
        identity = self._job.identity
        if not self._job.spec.remove or self._marks is not None:
            self._clean()
            status = self._whole(status)
            if self._marks is not None and not status.exit_code and not status.reason:
                from gha_apptainer.node.engine import keeping

                keeping.keep(self._job.root, self._job.layer, self._marks, self._job.spec.keep)
            if self._job.spec.remove:
                self._records.discard(identity, status)
            else:
                self._records.write(identity, "exit.json", to_json(status))
            return status
        self._strike()
        if self._root is not None and self._root.helpers:
            self._await_gone()  # a process that waits for a FUSE program which we end would hang
        self._unmount()
        left = self._records.retire(identity, status)
        self._await_gone()
        if self._whole(status) != status:
            status = self._whole(status)
            self._records.leave_end(identity, status)
        for path in left:
            files.remove_tree(path)
        return status

    def _whole(self, status: ExitStatus) -> ExitStatus:
        """The status, never success where something of the container may not be finished."""
        if not self._unfinished or status.reason:
            return status
        return replace(status, exit_code=status.exit_code or DOCKER_FAILURE, reason=self._unfinished)

    def _fail(self, error: GhaError) -> None:
        """Leave nothing running; the record and the caller hear the same words."""
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        cause = error.cause
        try:
            if self._entered is not None and not self._main:
                self._entered.abandon()
            self._clean()
            if os.path.isdir(self._records.path(self._job.identity)):
                self._finish(ExitStatus(DOCKER_FAILURE, started=self._since, finished=time.time(), reason=error.what))
        except (GhaError, OSError) as second:
            cause = "%s; and then: %s" % (error.cause, second)
        self._send(channels.error_message(error, cause))

    def _note(self, text: str) -> None:
        self._send(channels.message(channels.NOTE, text))

    def _send(self, message: bytes) -> None:
        try:
            self._channel.send(message)
        except OSError:
            pass  # who started us is gone; the record stays


def become(
    identity: str,
    spec: ContainerSpec,
    host: HostFacts,
    settings: NodeSettings,
    channel: socket.socket,
    stdio: Optional[Stdio],
    looks: deciding.Looks,
    *,
    attached: bool,
) -> NoReturn:
    """In a forked process: be the monitor of a recorded container. `attached` ties it to the channel.

    Of the caller's descriptors only the given streams and the channel stay open.
    """
    stdio, channel = _keep_only(stdio, channel)
    Monitor(deciding.Job(identity, spec, attached), Records(host.state_dir), host, settings, channel, stdio, looks).main()


def _keep_only(stdio: Optional[Stdio], channel: socket.socket) -> Tuple[Optional[Stdio], socket.socket]:
    """Hold on to the given streams and the channel, close everything else that was open in the caller."""
    wanted = [channel.fileno()] + ([stdio.stdin, stdio.stdout, stdio.stderr] if stdio else [])
    kept = [fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 3) if handle >= 0 else -1 for handle in wanted]
    channel.detach()
    kernel.close_others({0, 1, 2, *kept})
    return (Stdio(*kept[1:]) if stdio else None), channels.at(kept[0])


def _open_terminal(channel: int) -> int:
    from gha_apptainer.node.engine.terminal import open_inside  # loaded before, by whoever asked for a terminal

    return open_inside(channel)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(handle, view) :]
        except BlockingIOError:  # the caller's end may be set to non-blocking by who shares it
            select.select([], [handle], [], 1.0)


def _child_signal_pipe() -> int:
    """A descriptor that becomes readable whenever a child ends."""
    inner, outer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(outer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return inner
