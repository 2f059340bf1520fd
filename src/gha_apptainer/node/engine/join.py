"""Enter a running container and become a command there: the path of every exec and of every main process.

Imports are an allow-list (os, sys, fcntl, resource, signal and a few modules of ours), because their cost is every step's cost,
and because nothing may be imported once we are inside: the file system is the image's then.

The order matters. We fork a doorman, so that the caller itself never enters. The doorman is not dumpable and in a session keyring of its
own before it enters any namespace, so that nothing inside can read its memory, descriptors or environment. It joins user, ipc, uts, net,
pid and mount namespace, and forks the command's process with CLONE_PARENT, as a child of the caller: only that process is inside the pid
namespace, and the caller waits for it. Its last exec is a sealed trampoline of a few hundred bytes, never the
interpreter: a script that starts with `#!/proc/self/exe` then finds only that (CVE-2019-5736).
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import sys

from gha_apptainer.node.engine import kernel, programs
from gha_apptainer.node.engine.flat import JoinRecord
from gha_apptainer.node.interpreter import signal

MYPY = False
if MYPY:  # type checkers take it for true; typing is not worth its import at run time
    from typing import Callable

NOT_FOUND, NOT_EXECUTABLE, OURS = 127, 126, 125
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACES = (
    ("user", kernel.CLONE_NEWUSER),
    ("ipc", kernel.CLONE_NEWIPC),
    ("uts", kernel.CLONE_NEWUTS),
    ("net", kernel.CLONE_NEWNET),
    ("pid", kernel.CLONE_NEWPID),
    ("mnt", kernel.CLONE_NEWNS),
)
_ERRORS, _PROGRAM = 3, 4  # descriptors of the command's process: failure report, trampoline
_DATABASE_LIMIT = 4 << 20
_LIMIT = 120.0  # seconds to enter


class JoinFailed(Exception):
    """The command did not start. `code` is Docker's exit code for it: 127 not found, 126 not executable, 125 ours."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Command:
    """What to become: `argv`, the whole `env` as pairs, `cwd`, `user` as Docker writes it, and three descriptors (-1: /dev/null).

    `first` is done inside before anything else; it gets the host's /proc/self, held open, and raises OSError.

    `terminal` is a connected unix socket over which the master of a new pty in the container is sent, or -1; `open_terminal` makes
    that pty.
    """

    __slots__ = ("argv", "create_cwd", "cwd", "env", "first", "open_terminal", "stderr", "stdin", "stdout", "terminal", "user")

    def __init__(
        self,
        argv: tuple[str, ...],
        env: tuple[tuple[str, str], ...],
        cwd: str,
        user: str,
        stdin: int,
        stdout: int,
        stderr: int,
        create_cwd: bool = False,
        terminal: int = -1,
        open_terminal: Callable[[int], int] = lambda _: -1,
        first: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.argv, self.env, self.cwd, self.user = argv, env, cwd, user
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self.create_cwd, self.terminal, self.open_terminal, self.first = create_cwd, terminal, open_terminal, first


def spawn(record: JoinRecord, command: Command) -> int:
    """Start the command in the container and give its host pid; it is a child of the calling process and dies with it.

    Raises JoinFailed. The caller must have a single thread.
    """
    return Entered(record, command).go()


class Entered:
    """A command's process that has entered the container and waits there, in code of ours, for `go`. Raises JoinFailed as `spawn`."""

    def __init__(self, record: JoinRecord, command: Command) -> None:
        if os.uname().machine != record.machine:
            raise JoinFailed(OURS, "the container was started on another machine type (%s)" % record.machine)
        self._command = command
        self._pid, self._report = 0, b""
        self._errors, errors_out = os.pipe2(os.O_CLOEXEC)
        go_in, self._go = os.pipe2(os.O_CLOEXEC)
        program = kernel.sealed_memory_file("gha-apptainer", programs.machine_programs(record.machine).trampoline)
        try:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
            doorman = os.fork()
            if doorman == 0:
                _doorman(record, command, program, errors_out, go_in, (self._errors, self._go))
        except BaseException:
            self.close()
            raise
        finally:
            for handle in (program, errors_out, go_in):
                os.close(handle)
        try:
            if not select.select([self._errors], [], [], _LIMIT)[0]:  # reading the image's passwd file can hang on a dead mount
                os.kill(doorman, signal.SIGKILL)
            _, status = os.waitpid(doorman, 0)
            self._report = os.read(self._errors, 1 << 16)
            if self._report[:1] == b"P":  # the doorman names the command's process, which may have failed by now
                self._pid, self._report = int(self._report[1:9]), self._report[9:]
            if self._report or not self._pid or status:
                raise self._failure()
        except BaseException:
            self.abandon()
            raise

    def go(self) -> int:
        """Become the command; gives its pid."""
        try:
            try:
                os.write(self._go, b"g")
            except BrokenPipeError:
                pass  # it has failed by now, and its report says why
            self._report += _read_all(self._errors)
            if self._report:
                raise self._failure()
            return self._pid
        finally:
            self.close()

    def abandon(self) -> None:
        """End the process that waits, and reap it: a pid namespace does not end before every process of it was reaped."""
        self.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def close(self) -> None:
        """Without `go` before, the process ends."""
        for handle in (self._errors, self._go):
            if handle >= 0:
                os.close(handle)
        self._errors = self._go = -1

    def _failure(self) -> JoinFailed:
        os.close(self._go)
        self._go = -1
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0
        return _failure(self._report, self._command)


def _read_all(handle: int) -> bytes:
    parts: list[bytes] = []
    while True:
        part = os.read(handle, 4096)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _failure(report: bytes, command: Command) -> JoinFailed:
    if len(report) == 4:  # from the trampoline: the errno of its execve
        number = int.from_bytes(report, sys.byteorder)
        code = NOT_FOUND if number in (2, 20) else NOT_EXECUTABLE
        hint = " (its interpreter or loader is missing in the image)" if number == 2 else ""
        return JoinFailed(code, "exec %r: %s%s" % (command.argv[0], os.strerror(number), hint))
    ours, _, text = report.partition(b":")
    if ours.isdigit():
        return JoinFailed(int(ours), text.decode("utf-8", "replace"))
    return JoinFailed(OURS, "the command's process was lost before it started")


def _doorman(record: JoinRecord, command: Command, program: int, errors: int, go: int, close: tuple[int, ...]) -> None:
    """The forked process between caller and container; never returns."""
    try:
        for handle in close:
            os.close(handle)
        if not record.keyring:
            kernel.new_session_keyring()
        host_self = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        sys.meta_path.clear()  # an import from here on would be the image's code
        _enter(record)
        command.first(host_self)
        uid, gid, groups, home = find_user(command.user)
        single = bool(record.single)
        if single and (uid, gid) != (0, 0):
            _become_other(host_self, uid, gid)
            groups = []
        os.close(host_self)
        pid = kernel.fork_sibling()
        if pid:
            os.write(errors, b"P%08d" % pid)
            os._exit(0)
        _command(record, command, program, errors, go, (uid, gid, groups, home))
    except JoinFailed as failed:
        _report(errors, failed.code, failed.text)
    except BaseException as error:  # noqa: BLE001  # the only way out of a forked process is a report
        _report(errors, OURS, "%s" % error)
    os._exit(OURS)


def _report(errors: int, code: int, text: str) -> None:
    os.write(errors, b"%d:%s" % (code, text.encode("utf-8", "replace")[:4000]))


def _enter(record: JoinRecord) -> None:
    """Join every namespace in which the container's init differs from us.

    Its /proc entry is held open, so that a reused pid cannot slip in.
    """
    try:
        entry = os.open("/proc/%d" % record.init, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stat = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=entry)
        text = os.read(stat, 4096)
        os.close(stat)
        fields = text[text.rindex(b")") + 2 :].split()
        if int(fields[19]) != record.started or fields[0] in (b"Z", b"X"):
            raise FileNotFoundError
        handles = []
        for name, kind in _NAMESPACES:
            handle = os.open("ns/" + name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=entry)
            if os.fstat(handle).st_ino == os.stat("/proc/self/ns/" + name).st_ino:
                os.close(handle)
            else:
                handles.append((handle, kind))
    except (FileNotFoundError, ProcessLookupError):
        raise JoinFailed(OURS, "the container is not running") from None
    for handle, kind in handles:
        kernel.setns(handle, kind)
        os.close(handle)
    os.close(entry)


def _become_other(host_self: int, uid: int, gid: int) -> None:
    """A user namespace of one id in which the container's root is `uid`:`gid`.

    Its map can only be written by a dumpable process, through the host's /proc: we are not in the container's pid namespace yet, and so
    invisible to everything in it for that moment.
    """
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", "%d %d 1" % (uid, outer_uid)), ("gid_map", "%d %d 1" % (gid, outer_gid))):
        handle = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=host_self)
        os.write(handle, text.encode())
        os.close(handle)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def _command(record: JoinRecord, command: Command, program: int, errors: int, go: int, who: tuple[int, int, list[int], str]) -> None:
    """In the container's pid namespace: take on user, directory, streams, limits, then exec. Raises on failure."""
    uid, gid, groups, home = who
    os.setsid()
    if os.read(go, 1) != b"g":  # no word of ours before the caller knows our pid
        os._exit(OURS)
    if command.terminal >= 0:
        command.stdin = command.stdout = command.stderr = command.open_terminal(command.terminal)
    if command.create_cwd:
        _make_directory(command.cwd)
    if not record.single:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
    _raise_limits()
    os.umask(0o022)
    kernel.limit_capabilities(kernel.DOCKER_CAPABILITIES)
    if not record.single:
        os.setresuid(uid, uid, uid)
    try:
        os.chdir(command.cwd)
    except OSError as error:
        raise JoinFailed(NOT_EXECUTABLE, "working directory %r: %s" % (command.cwd, error.strerror)) from None
    env = _environment(command.env, home, record.libs)
    path = find_program(command.argv[0], env)
    _streams(command, program, errors, go)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_blocking(_PROGRAM + 1, False)
    try:
        os.read(_PROGRAM + 1, 1)
        os._exit(OURS)  # its other end is closed: the caller died before that could take effect
    except BlockingIOError:
        os.close(_PROGRAM + 1)
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):  # 32 and 33 belong to libc
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if record.emulate and uid == 0:
        kernel.install_filter(programs.seccomp_filter(record.machine))
    os.execve(_PROGRAM, ["gha-apptainer", path, *command.argv], env)


def _environment(pairs: tuple[tuple[str, str], ...], home: str, libs: str) -> dict[bytes, bytes]:
    """Exactly the given environment, HOME from the passwd file where it has none, the GPU's libraries last."""
    env = {name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape") for name, value in pairs}
    env.setdefault(b"HOME", home.encode("utf-8", "surrogateescape"))
    if libs:
        before = env.get(b"LD_LIBRARY_PATH", b"")
        env[b"LD_LIBRARY_PATH"] = before + b":" + libs.encode() if before else libs.encode()
    return env


def find_program(name: str, env: dict[bytes, bytes]) -> str:
    """The file to execute, looked up in the command's own PATH. Raises JoinFailed 127 or 126, as Docker answers."""
    if "/" in name:
        candidates = [name]
    else:
        search = env.get(b"PATH", DEFAULT_PATH.encode()).decode("utf-8", "surrogateescape")
        candidates = [os.path.join(part or ".", name) for part in search.split(":")] if name else []
    code, reason = NOT_FOUND, "no such file" if "/" in name else "not found in PATH"
    for path in candidates:
        try:
            if os.path.isdir(path):
                code, reason = NOT_EXECUTABLE, "is a directory"
            elif os.access(path, os.X_OK, effective_ids=True):
                return path
            elif os.path.exists(path):
                code, reason = NOT_EXECUTABLE, "permission denied"
        except (OSError, ValueError):
            continue
    raise JoinFailed(code, "exec %r: %s" % (name, reason))


def _streams(command: Command, program: int, errors: int, go: int) -> None:
    """Put the streams at 0-2, the failure report at 3, the trampoline at 4, the caller's go at 5, and close everything else."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    wanted = [null if handle < 0 else handle for handle in (command.stdin, command.stdout, command.stderr)] + [errors, program, go]
    high = [fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, 64) for handle in wanted]
    for number, handle in enumerate(high):
        os.dup2(handle, number, inheritable=number < _ERRORS)
    kernel.close_from(len(high))


def _raise_limits() -> None:
    for kind in range(resource.RLIMIT_CPU, 16):
        try:
            soft, hard = resource.getrlimit(kind)
            if soft != hard:
                resource.setrlimit(kind, (hard, hard))
        except (ValueError, OSError):
            continue


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise JoinFailed(NOT_EXECUTABLE, "working directory %r: %s" % (path, error.strerror)) from None


def find_user(text: str) -> tuple[int, int, list[int], str]:
    """uid, gid, supplementary groups and home of a user as Docker names it, by the passwd and group files at hand.

    Docker's rules: a name must be there, a number need not; without a group the passwd file's and the user's further groups apply.
    Raises JoinFailed 126.
    """
    name, _, group = (text or "0").partition(":")
    uid, gid, groups, home, login = 0, 0, [], "/", ""
    row = _row("/etc/passwd", name, 7)
    if row:
        login, uid, gid, home = row[0], int(row[2]), int(row[3]), row[5] or "/"
    elif name.isdigit():
        uid, gid = int(name), 0
        home = "/root" if uid == 0 else "/"
    else:
        raise JoinFailed(NOT_EXECUTABLE, "unable to find user %s: no matching entries in passwd file" % name)
    if group:
        found = _row("/etc/group", group, 3)
        if not found and not group.isdigit():
            raise JoinFailed(NOT_EXECUTABLE, "unable to find group %s: no matching entries in group file" % group)
        gid = int(found[2]) if found else int(group)
    else:
        groups = [int(fields[2]) for fields in _rows("/etc/group", 4) if login and login in fields[3].split(",")]
    if max(uid, gid) > 0xFFFFFFFE:
        raise JoinFailed(NOT_EXECUTABLE, "user %s is no valid id" % text)
    return uid, gid, groups, home


def _row(path: str, wanted: str, least: int) -> list[str]:
    by_number: list[str] = []
    for fields in _rows(path, least):
        if fields[0] == wanted:
            return fields
        if not by_number and wanted.isdigit() and int(fields[2]) == int(wanted):
            by_number = fields
    return by_number


def _rows(path: str, least: int) -> list[list[str]]:
    """Well-formed rows of a colon-separated database; the file is the image's and so never trusted to be a file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        if os.fstat(handle).st_mode & 0o170000 != 0o100000:
            return []
        text = os.read(handle, _DATABASE_LIMIT).decode("utf-8", "surrogateescape")
    finally:
        os.close(handle)
    rows = [line.split(":") for line in text.split("\n")]
    return [row for row in rows if len(row) >= least and row[2].isdigit() and (least != 7 or row[3].isdigit())]


def exit_code(status: int) -> int:
    """Docker's exit code for a wait status: the command's own, or 128+n for signal n."""
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
