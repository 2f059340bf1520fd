"""What a monitor does between its first breath and a container that waits for commands."""

from __future__ import annotations

import errno
import os
import select
import time

from gha_apptainer.domain.containers import BIND, TMPFS
from gha_apptainer.domain.errors import EngineFailed, InputError, TimedOut
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import apptainer, files, process
from gha_apptainer.node.engine import kernel, namespaces, programs, rootpaths
from gha_apptainer.node.engine.channel import END_LIMIT, READY_LIMIT
from gha_apptainer.node.engine.layers import Root
from gha_apptainer.node.engine.starting import GPU_LIBRARIES, HOLDER, Placed, StartPlan
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Tuple

_APT = "/etc/apt/apt.conf.d"
APT_FILE = _APT + "/zz-gha-apptainer"
_APT_ROOT = b"""// Written by gha-apptainer: this container has one user id, and apt checks that it could switch to its own.
APT::Sandbox::User "root";
"""
"""apt.conf(5), the APT group: who downloads. An emulated switch would pass, but apt asks getgid(2) whether it came about."""
_GPU_PROGRAMS = tuple("/usr/bin/nvidia-" + name for name in ("smi", "debugdump", "persistenced", "cuda-mps-control", "cuda-mps-server"))
"""The programs of Apptainer's nvliblist.conf, where drivers install them."""
_REMOUNT = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
_CLOSED = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
ROOMS = ("proc", "sys", "dev", "tmp", "var/tmp", "etc")
"""Directories that every root needs."""
KERNEL_ROOMS = ("/proc", "/sys", "/dev")
SHIELDED_PROC = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
SHIELDED_SYS = ("/sys",)
"""What Docker shows read-only too; a /proc that comes from outside is shielded there."""


@dataclass(frozen=True)
class Held:
    """A container that is up: pids and start times of Apptainer and of the container's init, and the pipe on which its life hangs."""

    starter: int
    starter_started: int
    init: int
    init_started: int
    life: int
    gone: int


def fill_root(plan: StartPlan, root: Root, *, sandboxed_env: bool = True, one_id: bool = False) -> Tuple[apptainer.Bind, ...]:
    """Write our files into the mounted root, make every mount point and give the binds. Nothing in an image can lead us out of it.

    `one_id` tells that root will be alone in there: apt is then told not to switch to a user of its own.
    """
    merged = root.merged
    for name in ROOMS:
        rootpaths.make_target(merged, name, directory=True)
    for path, text in plan.written:
        _write_inside(merged, path, files.encode(text), 0o644)
    if sandboxed_env:
        _silence_image_scripts(merged)
    if one_id and os.path.isdir(rootpaths.resolve(merged, _APT)):
        _write_inside(merged, APT_FILE, _APT_ROOT, 0o644)
    if plan.gpu:
        rootpaths.make_target(merged, GPU_LIBRARIES, directory=True)
        for name in _GPU_PROGRAMS:
            if os.path.exists(name):  # Apptainer binds the host's, but makes no mount point in a writable root
                rootpaths.make_target(merged, name, directory=False)
    _write_inside(merged, HOLDER, programs.machine_programs(os.uname().machine).holder, 0o755)
    done: List[Tuple[str, str]] = [("/", merged)]
    return tuple([_place(one, merged, done) for one in plan.placed])


def _write_inside(merged: str, path: str, data: bytes, mode: int) -> None:
    files.write_whole(rootpaths.make_target(merged, path, directory=False), data, mode=mode)


def _silence_image_scripts(merged: str) -> None:
    """Apptainer sources an image's environment scripts before it starts anything; ours comes from the image's configuration instead."""
    scripts = rootpaths.resolve(merged, "/.singularity.d/env")
    if os.path.isdir(scripts):
        for name in os.listdir(scripts):
            files.remove_tree(os.path.join(scripts, name))


def _place(one: Placed, merged: str, done: List[Tuple[str, str]]) -> apptainer.Bind:
    """Prepare source and mount point of one mount. A target below an earlier mount is made in that one's source."""
    inside = "/" + os.path.relpath(rootpaths.resolve(merged, one.target), merged)
    if not one.target.startswith(tuple(room + "/" for room in KERNEL_ROOMS)):
        over, source = max((row for row in done if _below(inside, row[0])), key=lambda row: len(row[0]))
        inner = os.path.relpath(inside, over)
        fresh = one.kind != BIND
        if fresh:
            _make_source(one, rootpaths.resolve(merged, inside))
        elif not os.path.lexists(one.source):
            if not one.create:
                raise InputError("cannot bind %s: there is no such file or directory" % one.source)
            os.makedirs(one.source, exist_ok=True)
        try:
            rootpaths.make_target(source, inner, directory=fresh or os.path.isdir(one.source))
        except OSError as error:
            raise EngineFailed("cannot make the mount point %s: %s" % (one.target, error.strerror)) from error
        done.append((inside, one.source))
    else:
        inside = one.target
        if one.kind != BIND:  # --shm-size: Apptainer has the mount point, the source is still ours to make
            _make_source(one, rootpaths.resolve(merged, inside))
    return apptainer.Bind(one.source, inside, one.read_only)


def _below(path: str, over: str) -> bool:
    return over == "/" or path == over or path.startswith(over + "/")


def _make_source(one: Placed, image_path: str) -> None:
    """The directory behind a tmpfs or a volume; an empty volume takes what the image has there."""
    os.makedirs(one.source, mode=0o755, exist_ok=True)
    if one.kind == TMPFS:
        data = "mode=%o%s" % (one.mode, ",size=%d" % one.size if one.size else "")
        kernel.mount(b"tmpfs", files.encode(one.source), b"tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, data.encode())
        return
    if one.fill and not os.listdir(one.source):
        rootpaths.copy_content(image_path, one.source)
    if one.target in ("/tmp", "/var/tmp"):
        os.chmod(one.source, one.mode)  # whatever the image says: a temporary directory is everybody's


def hold(
    host: HostFacts,
    plan: StartPlan,
    root: Root,
    binds: Tuple[apptainer.Bind, ...],
    *,
    config: str,
    fresh_proc: bool,
    talk: str,
    meanwhile: Callable[[], None] = lambda: None,
    early: Callable[[int, int], None] = lambda _init, _started: None,
) -> Held:
    """Start Apptainer around the holder and wait until it holds. What Apptainer says goes to the file `talk`; `meanwhile` is done first.

    Between a root that is in place and the holder that runs in it Apptainer takes a fifth of its time. As soon as the first is seen,
    `early` is called with the init's pid and start time; it must not let anything of the container run yet. It may never be called.

    Raises EngineFailed with Apptainer's own words, or TimedOut.
    """
    argv = apptainer.exec_argv(host, root.merged, (HOLDER,), config=config, binds=binds, flags=plan.flags, fresh_proc=fresh_proc)
    life_in, life_out = os.pipe2(os.O_CLOEXEC)
    ready_in, ready_out = os.pipe2(os.O_CLOEXEC)
    starter = os.fork()
    if starter == 0:
        _become_apptainer(argv, plan, (life_in, ready_out), talk)
    os.close(life_in)
    os.close(ready_out)
    try:
        meanwhile()
        _await_ready(ready_in, talk, lambda: _root_in_place(starter, early))
        init = namespaces.find_init(starter)
        started = process.start_time(init)
        if not init or not started:
            raise EngineFailed("the container ended while it was being started", cause=_said(talk))
        os.unlink(root.merged + HOLDER)
        return Held(starter, process.start_time(starter), init, started, life_out, ready_in)
    except BaseException:
        os.close(life_out)
        os.close(ready_in)
        end_starter(starter)
        raise


def _become_apptainer(argv: Tuple[str, ...], plan: StartPlan, ends: Tuple[int, int], talk: str) -> None:
    """In the forked child: hostname and network namespace, then Apptainer. Never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.unshare(kernel.CLONE_NEWUTS | (kernel.CLONE_NEWNET if plan.private_network else 0))
        kernel.set_hostname(files.encode(plan.hostname)[:64])
        if plan.private_network:
            namespaces.loopback_up()
            namespaces.open_low_ports()
        said = os.open(talk, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        for number, handle in enumerate((ends[0], ends[1], said)):
            os.dup2(handle, number)
        os.chdir("/")
        # not the folder of Apptainer: it would try the FUSE programs there at every start, and we give it a plain directory
        # GOGC: it starts four times over as a Go program, none of which lives long enough for a collection to pay
        env = {"PATH": process.BASE_PATH, "HOME": "/", "LANG": "C.UTF-8", "GOGC": "off"}
        os.execve(argv[0], list(argv), env)
    except BaseException as error:  # noqa: BLE001  # the only way out of a forked process
        os.write(2, files.encode("cannot start %s: %s\n" % (argv[0], error)))
    os._exit(127)


def _root_in_place(starter: int, early: Callable[[int, int], None]) -> bool:
    """Whether the container's init has our root already, and all that Apptainer mounts in it before it changes to it."""
    init = namespaces.find_init(starter)
    if not init:
        return False
    try:
        os.stat("/proc/%d/root%s" % (init, HOLDER))
    except OSError:
        return False
    started = process.start_time(init)
    if started:
        early(init, started)
    return True


def _await_ready(ready: int, talk: str, look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_LIMIT
    looks, pause = 100, 16  # milliseconds: earlier than the first look no root is in place, and a slow start needs no haste
    poller = select.poll()
    poller.register(ready, select.POLLIN | select.POLLHUP)
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOut("the container did not start within %d s" % READY_LIMIT, cause=_said(talk))
        if looks > 0 and not poller.poll(pause):
            looks, pause = 0 if look() else looks - 1, 2
            continue
        if poller.poll(left * 1000):
            if os.read(ready, 1) == b"\n":
                return
            raise EngineFailed(
                "Apptainer could not start the container",
                cause=_said(talk) or "it gave no reason",
                remedy="gha-apptainer doctor checks this machine",
            )


def _said(talk: str) -> str:
    try:
        return files.decode(files.read_whole(talk, limit=1 << 20))[-1500:].strip()
    except OSError:
        return ""


def shield(host_self: int, *, read_only: bool, rooms: Tuple[str, ...]) -> None:
    """In the container's own mount namespace: make the root read-only, and the kernel's `rooms` (SHIELDED) where our root is the host's.

    Root of an identity map is the host's uid 0 to /proc/sys, which asks for the id and not for capabilities. `host_self` is the
    host's /proc/self, held open. To be called before anything of the container runs. Raises OSError.
    """
    for path in rooms:
        if os.path.exists(path):
            kernel.mount(files.encode(path), files.encode(path), b"", kernel.MS_BIND | kernel.MS_REC)
            _close_room(path, host_self)
    if read_only:
        kernel.mount(b"none", b"/", b"", _REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV)


def shield_held(held: Held, *, read_only: bool, rooms: Tuple[str, ...]) -> None:
    """The same for a container that is only held open, where no command of ours enters first. Raises EngineFailed."""
    if not read_only and not rooms:
        return
    child = os.fork()
    if child == 0:
        try:
            handle = os.open("/proc/%d/ns/mnt" % held.init, os.O_RDONLY | os.O_CLOEXEC)
            host_self = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            kernel.setns(handle, kernel.CLONE_NEWNS)
            shield(host_self, read_only=read_only, rooms=rooms)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
    if code:
        raise EngineFailed("cannot protect the container's root or kernel settings: %s" % os.strerror(code))


def _close_room(path: str, host_self: int) -> None:
    """Make a directory of the kernel's read-only, with every mount below it: control groups lie below /sys."""
    try:
        kernel.set_mount_attributes(files.encode(path), _CLOSED)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        for place in _mounts_below(host_self, path):  # a remount is not recursive
            kernel.mount(b"none", place, b"", _REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)


def _mounts_below(host_self: int, path: str) -> Tuple[bytes, ...]:
    """Mount points at and below a path, for a process that left its own /proc behind. man 5 proc_pid_mountinfo."""
    handle = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=host_self)
    with os.fdopen(handle, "rb") as lines:
        places = [line.split(b" ")[4] for line in lines]
    plain = [_unescaped(place) for place in places]
    own = files.encode(path)
    return tuple(sorted({place for place in plain if place == own or place.startswith(own + b"/")}))


def _unescaped(place: bytes) -> bytes:
    """A mount point as the kernel writes it, with its octal escapes for blank, tab, newline and backslash undone."""
    head, *rest = place.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)


def end_starter(pid: int) -> None:
    """SIGKILL to Apptainer and wait for it; with its own pid namespace the container ends too."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.reap(pid, END_LIMIT)
