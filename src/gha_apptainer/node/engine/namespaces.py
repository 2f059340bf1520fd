"""The user and mount namespace that a monitor makes for its container, and what can be seen of namespaces from outside.

An ordinary user becomes root of a namespace that maps one id. Root maps every id that it has to itself, so that chown and package
managers really work, yet holds no power over the host's own namespaces.
"""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import EngineFailed, HostUnfit
from gha_apptainer.domain.hosts import HostFacts, IdRange
from gha_apptainer.node import process
from gha_apptainer.node.engine import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

IdMap = tuple[tuple[int, int, int], ...]
"""Lines of /proc/PID/uid_map: first id inside, first id outside, count."""
_ALL_IDS = 4294967295


def wanted_map(ranges: Tuple[IdRange, ...], own: int) -> IdMap:
    """Identity for root with more than one id, else root inside = our own id outside.

    The last id of all is left out: a map of every id is how programs recognise that they are in no user namespace.
    """
    if own == 0 and sum(one.count for one in ranges) > 1:
        return tuple((one.first, one.first, min(one.count, _ALL_IDS - 1 - one.first)) for one in ranges)
    return ((0, own, 1),)


def enter_own(host: HostFacts) -> bool:
    """Move this process into a new user and mount namespace; tells whether only one id is mapped there.

    Must be called in a process with one thread. Mounts made later on the host still arrive (CVMFS behind autofs), ours never leave.
    """
    uids, gids = wanted_map(host.uid_ranges, host.uid), wanted_map(host.gid_ranges, host.gid)
    single = len(uids) == 1 and uids[0][2] == 1
    try:
        if single:
            _unshare_single(host.uid, host.gid)
        else:
            try:
                _unshare_mapped(uids, gids)
            except OSError:  # a pod may withhold CAP_SETUID; one id always works
                single = True
                _unshare_single(host.uid, host.gid)
        kernel.mount(b"none", b"/", b"", kernel.MS_REC | kernel.MS_SLAVE)
    except OSError as error:
        raise HostUnfit(
            "cannot make a user and mount namespace: %s" % error,
            cause=host.userns_reason or "user namespaces are limited here",
            remedy="gha-apptainer doctor names the setting to change",
        ) from error
    return single


def _unshare_single(uid: int, gid: int) -> None:
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % uid), ("gid_map", "0 %d 1" % gid)):
        with open("/proc/self/" + name, "w") as handle:
            handle.write(text)


def _unshare_mapped(uids: IdMap, gids: IdMap) -> None:
    """Maps of many ids must be written from the parent namespace: by a child that stays behind in it."""
    ready_in, ready_out = os.pipe()
    me = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready_out)
            if os.read(ready_in, 1) == b"r":
                for name, lines in (("uid_map", uids), ("gid_map", gids)):
                    with open("/proc/%d/%s" % (me, name), "w") as handle:
                        handle.write("".join("%d %d %d\n" % line for line in lines))
                os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(1)
    os.close(ready_in)
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
        os.write(ready_out, b"r")
    finally:
        os.close(ready_out)
        code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, "uid_map: " + os.strerror(code))


def find_init(starter: int) -> int:
    """The host pid of the container's first process: the first descendant in another pid namespace than ours. 0 if there is none."""
    mine = os.stat("/proc/self/ns/pid").st_ino
    todo = [starter]
    while todo:
        pid = todo.pop(0)
        try:
            if os.stat("/proc/%d/ns/pid" % pid).st_ino != mine:
                return pid
        except OSError:
            pass
        todo.extend(process.children(pid))
    return 0


def maps_one_id(pid: int) -> bool:
    """Whether the user namespace of a process maps only one id."""
    with open("/proc/%d/uid_map" % pid) as handle:
        lines = [line.split() for line in handle]
    if not lines:
        raise EngineFailed("the container's user namespace has no id map")
    return len(lines) == 1 and lines[0][2] == "1"


def loopback_up() -> None:
    """Bring `lo` up in the network namespace that this process just made. man 7 netdevice, SIOCSIFFLAGS."""
    import fcntl
    import struct

    from gha_apptainer.node.interpreter import socket

    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fcntl.ioctl(probe.fileno(), 0x8914, struct.pack("16sh14x", b"lo", 0x1))  # IFF_UP
    probe.close()


def open_low_ports() -> None:
    """Let every process of this network namespace bind ports below 1024; only who made it may, and only before exec."""
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as handle:
            handle.write("0")
    except OSError:
        pass  # kernels without the setting; the bind then fails with the kernel's own word
