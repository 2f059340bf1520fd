"""Try something in a forked process: what it breaks there, breaks there, and its reason comes back."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from typing import Callable

NEW_USER, NEW_MOUNT, NEW_PID, NEW_NET = 0x10000000, 0x00020000, 0x20000000, 0x40000000
MOUNT_PRIVATE, MOUNT_RECURSIVE, MOUNT_BIND = 1 << 18, 16384, 4096
_REAP_S = 2.0
_libc = ctypes.CDLL(None, use_errno=True)


class CannotTry(Exception):
    """The reason why a try failed, for a person."""


def attempt(work: Callable[[], None], limit: float = 5.0) -> str:
    """Why `work` fails in a process of its own; empty if it does not. It gets SIGKILL after `limit` seconds."""
    inner, outer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(inner)
            os.setpgid(0, 0)
            null = os.open("/dev/null", os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)
            work()
        except CannotTry as error:
            os.write(outer, str(error).encode("utf-8", "replace")[:4000])
        except OSError as error:
            os.write(outer, (error.strerror or str(error)).encode("utf-8", "replace")[:4000])
        except BaseException as error:  # noqa: BLE001  # a forked child must never return into its parent's code
            os.write(outer, ("%s: %s" % (type(error).__name__, error)).encode("utf-8", "replace")[:4000])
        else:
            os.write(outer, b"\0")
        os._exit(0)
    os.close(outer)
    try:
        ready = select.select([inner], [], [], limit)[0]
        answer = os.read(inner, 4096) if ready else b"it did not end within %d s" % limit
    finally:
        os.close(inner)
        for target in (-child, child):
            try:
                os.kill(target, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        _reap(child)
    return "" if answer == b"\0" else answer.decode("utf-8", "replace") or "it was killed"


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


def own_namespace(more: int = 0) -> None:
    """Become root of a new user namespace with one id, and of the further new namespaces in `more`."""
    uid, gid = os.geteuid(), os.getegid()
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
