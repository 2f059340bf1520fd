"""The one place that starts programs (the joiner and the monitor's children excepted), each with a time limit."""

from __future__ import annotations

import os
import time

from gha_apptainer.domain.containers import Args, Env
from gha_apptainer.domain.errors import HostUnfit, ProcessFailed, TimedOut
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.interpreter import signal

_KILL_GRACE = 5.0
TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Optional, Tuple

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Completed:
    """A program that ended. `code` is its exit code, negative for a signal."""

    argv: Args
    code: int
    stdout: bytes
    stderr: bytes

    def check(self) -> Completed:
        """Itself, or ProcessFailed if the code is not 0."""
        if self.code:
            raise ProcessFailed(self.argv, self.code, self.stderr.decode("utf-8", "replace"))
        return self


def run(
    argv: Args, *, env: Optional[Env] = None, timeout: float, input: bytes = b"", cwd: str = "/", stderr_to: Optional[int] = None
) -> Completed:
    """Run a program to its end and give what it wrote.

    `env` is the whole environment; None is a minimal one (PATH, HOME, LANG), never ours. The program gets its own session, so that
    on a time-out or an interrupt its whole process group ends with it. `stderr_to` is a descriptor that gets stderr
    instead. Raises TimedOut, or HostUnfit where the program does not exist.
    """
    import subprocess  # a third of a command's start-up time, and many commands start no program

    chosen = minimal_env() if env is None else env
    try:
        child = subprocess.Popen(
            list(argv),
            env={name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape") for name, value in chosen},
            stdin=subprocess.PIPE if input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if stderr_to is None else stderr_to,
            cwd=cwd,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as error:
        raise HostUnfit("cannot start %s: %s" % (argv[0], error.strerror), remedy="gha-apptainer doctor names what is missing") from error
    try:
        out, err = child.communicate(input or None, timeout)
    except subprocess.TimeoutExpired as error:
        end_group(child.pid)
        _reap(child)
        raise TimedOut("%s did not end within %g s" % (argv[0], timeout)) from error
    except BaseException:
        end_group(child.pid)
        _reap(child)
        raise
    return Completed(tuple(argv), child.returncode, out, err or b"")


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for a killed child, but not for ever: one that hangs in the kernel, on a dead mount, cannot be killed."""
    import subprocess

    try:
        child.wait(_KILL_GRACE)
    except subprocess.TimeoutExpired:
        child.returncode = -signal.SIGKILL  # what it will be; else Popen warns that it still runs
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                continue


def end_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads; gone is fine."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def minimal_env() -> Env:
    """PATH, HOME and LANG: what programs of ours need, and nothing that a job could have set to steer them."""
    return (("PATH", BASE_PATH), ("HOME", "/"), ("LANG", "C.UTF-8"))


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if there is none. With the pid it names a process for ever."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as handle:
            text = handle.read()
    except OSError:
        return 0
    fields = text[text.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(pid: int, started: int) -> bool:
    """Whether that very process still runs; a zombie does not."""
    return pid > 0 and started > 0 and start_time(pid) == started


def reap(pid: int, limit: float) -> bool:
    """Wait for a child of ours, at most `limit` seconds; tells whether it is gone. What is no child of ours counts as gone."""
    deadline = time.monotonic() + limit
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.0002)


def here() -> str:
    """Where our pids mean something: host name, boot and pid namespace, as one word without dashes."""
    with open("/proc/sys/kernel/random/boot_id") as handle:
        boot = handle.read(8)
    host = "".join(mark if mark.isalnum() else "_" for mark in os.uname().nodename)
    return "%s.%s.%d" % (host, boot, os.stat("/proc/self/ns/pid").st_ino)


def elsewhere(place: str) -> bool:
    """Whether pids noted at `place` mean nothing here: another host, or another pid namespace of this boot. An earlier boot is over."""
    ours = here()
    if place == ours:
        return False
    host, boot, _ = ours.split(".")
    return place.split(".")[:1] != [host] or place.split(".")[1:2] == [boot]


def children(pid: int) -> Tuple[int, ...]:
    """Direct children of a process, over all its threads."""
    found = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as handle:
                found += [int(word) for word in handle.read().split()]
    except OSError:
        pass
    return tuple(found)
