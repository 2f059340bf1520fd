"""Try something in a forked process: what it breaks there, breaks there, and its reason comes back."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time

from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence, Tuple

NEW_USER, NEW_MOUNT, NEW_PID, NEW_NET = 0x10000000, 0x00020000, 0x20000000, 0x40000000
MOUNT_PRIVATE, MOUNT_RECURSIVE, MOUNT_BIND = 1 << 18, 16384, 4096
_REAP_S = 2.0
_END = b"\0"  # ends a whole answer
_libc = ctypes.CDLL(None, use_errno=True)


class CannotTry(Exception):
    """The reason why a try failed, for a person."""


def attempt(work: Callable[[], None], limit: float = 5.0) -> str:
    """Why `work` fails in a process of its own; empty if it does not. It gets SIGKILL after `limit` seconds."""

    def say_nothing() -> str:
        work()
        return ""

    return answers((say_nothing,), limit)[0].reason


@dataclass(frozen=True)
class Answer:
    """What one piece of work gave (`text`), or why it gave nothing (`reason`, else empty)."""

    text: str = ""
    reason: str = ""


def answers(works: Sequence[Callable[[], str]], limit: float) -> Tuple[Answer, ...]:
    """Do each piece of work in a process of its own, all at once, and give their answers in order.

    Whoever has not answered after `limit` seconds, all together, is killed.
    """
    started = [_start(work) for work in works]
    deadline = time.monotonic() + limit
    heard = [b""] * len(started)
    open_pipes = {pipe: at for at, (_, pipe) in enumerate(started)}
    try:
        while open_pipes:
            left = deadline - time.monotonic()
            ready = select.select(list(open_pipes), [], [], left)[0] if left > 0 else []
            if not ready:
                break
            for pipe in ready:
                part = os.read(pipe, 65536)
                heard[open_pipes[pipe]] += part
                if not part or part.endswith(_END):  # what the child has started may hold the pipe open for longer
                    del open_pipes[pipe]
    finally:
        for child, pipe in started:
            os.close(pipe)
            _end(child)
    late = set(open_pipes.values())
    return tuple(_answer(text, "it did not end within %g s" % limit if at in late else "it was killed") for at, text in enumerate(heard))


def _answer(heard: bytes, silence: str) -> Answer:
    whole = heard.endswith(_END)
    kind, text = heard[:1] if whole else b"", heard[1:-1].decode("utf-8", "replace") if whole else ""
    return Answer(text=text) if kind == b"+" else Answer(reason=text or silence)


def _start(work: Callable[[], str]) -> Tuple[int, int]:
    """A child that does the work and writes `+` and what it gave, or `-` and why it failed; its pid and the pipe to read."""
    inner, outer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(outer)
        return child, inner
    try:
        os.setpgid(0, 0)
        os.umask(0o022)
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        said = "+" + work()
    except CannotTry as error:
        said = "-" + str(error)
    except OSError as error:
        said = "-" + (error.strerror or str(error))
    except BaseException as error:  # noqa: BLE001  # a forked child must never return into its parent's code
        said = "-%s: %s" % (type(error).__name__, error)
    try:
        os.write(outer, said.encode("utf-8", "replace")[:60000] + _END)
    finally:
        os._exit(0)


def _end(child: int) -> None:
    """Kill what is left of a child and of its group."""
    for target in (-child, child):
        try:
            os.kill(target, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
    _reap(child)


def _reap(child: int) -> None:
    """Wait for a killed child, but not for ever: one that hangs in the kernel, on a dead mount, cannot be killed."""
    deadline = time.monotonic() + _REAP_S
    while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.002)


def in_child(work: Callable[[], None]) -> None:
    """Do `work` in a child, for what only the first process of a new pid namespace can do; its OSError is raised here."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except OSError as error:
            os._exit(error.errno or 1)
        except BaseException:  # noqa: BLE001  # a forked child must never return into its parent's code
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        number = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 4  # EINTR: a signal ended it
        raise OSError(number, os.strerror(number))


def check(result: int, what: str) -> None:
    """Raise OSError for a failed call of the C library."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (what, os.strerror(number)))


def own_namespace(more: int = 0, *, inside: bool = False) -> None:
    """Become root of a new user namespace with one id, and of the further new namespaces in `more`. `inside`: we are in such a one."""
    uid, gid = (0, 0) if inside else (os.geteuid(), os.getegid())
    check(_libc.unshare(ctypes.c_int(NEW_USER | more)), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % uid), ("gid_map", "0 %d 1" % gid)):
        with open("/proc/self/" + name, "w") as handle:
            handle.write(text)
    if more & NEW_MOUNT:
        mount("none", "/", "", MOUNT_RECURSIVE | MOUNT_PRIVATE)


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """man 2 mount."""
    encoded = [text.encode("utf-8", "surrogateescape") or None for text in (source, target, kind)]
    check(_libc.mount(*encoded, ctypes.c_ulong(flags), data.encode("utf-8", "surrogateescape") or None), "mount %s" % target)


def join(pid: int, kinds: Sequence[str]) -> None:
    """Enter namespaces of another process, named as in /proc/PID/ns. man 2 setns."""
    handles = [os.open("/proc/%d/ns/%s" % (pid, kind), os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    for handle in handles:
        check(_libc.setns(ctypes.c_int(handle), ctypes.c_int(0)), "setns")


def sleep_until_killed() -> None:
    """Hold what this process has made; dies with its parent."""
    _libc.prctl(ctypes.c_int(1), ctypes.c_ulong(signal.SIGKILL), *_NOUGHTS)  # PR_SET_PDEATHSIG
    while True:
        signal.pause()


_NOUGHTS = (ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def allow_all_filter() -> None:
    """Install a seccomp filter of one line that allows everything. man 2 seccomp."""
    program = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET, SECCOMP_RET_ALLOW
    check(_libc.prctl(ctypes.c_int(38), ctypes.c_ulong(1), *_NOUGHTS), "no_new_privs")
    code = _Filter(1, program)
    check(_libc.prctl(ctypes.c_int(22), ctypes.c_ulong(2), ctypes.byref(code), *_NOUGHTS[:2]), "seccomp")


def mount_fuse(name: str, target: str) -> int:
    """Mount /dev/fuse at `target` in our own namespace; gives the descriptor that a FUSE program has to serve."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions" % device
    mount(name, target, "fuse." + name, 0, options)
    return device


def serve(argv: Sequence[str], device: int) -> None:
    """Start a FUSE program on a mounted descriptor; it dies with us. Only for a process that ends soon."""
    me = os.getpid()
    if os.fork() == 0:
        try:
            _libc.prctl(ctypes.c_int(1), ctypes.c_ulong(signal.SIGKILL), *_NOUGHTS)  # PR_SET_PDEATHSIG
            if os.getppid() == me:
                os.set_inheritable(device, True)
                os.execve(argv[0], list(argv), {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
        finally:
            os._exit(127)
    os.close(device)
