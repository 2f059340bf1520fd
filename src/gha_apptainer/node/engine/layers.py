"""A container's root: the image below, a writable layer above, mounted by us in our own user and mount namespace.

One mechanism where it works: the kernel's overlay with `userxattr`, in which image directories can be deleted and made anew
(https://docs.kernel.org/filesystems/overlayfs.html). fuse-overlayfs where the image's owner is not mapped (CVMFS) or the kernel's
overlay fails its probe; a private copy where neither is possible. `plan_root` decides, `mount_root` does.
"""

from __future__ import annotations

import os
import stat
import time

from gha_apptainer.domain.errors import DiskFull, EngineFailed, HostUnfit
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import SIF, Image
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import files, process
from gha_apptainer.node.engine import kernel
from gha_apptainer.node.images.filesystems import NETWORK
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional, Tuple

KERNEL, FUSE, COPY = "overlay", "fuse-overlayfs", "copy"
_COPY_LIMIT = 3600.0  # seconds for a private copy of an image
_KEEP_LIMIT = 60.0  # seconds for a layer's image file to be written down; it may lie on slow storage
_END_LIMIT = 10.0  # seconds for a killed helper to disappear
_SERVE_LIMIT = 60.0  # seconds until a FUSE program answers; its file may lie on slow storage


@dataclass(frozen=True)
class RootPlan:
    """How the root is made. `lower` is a directory, or a SIF whose squashfs starts at `offset` bytes.

    `mechanism` is overlay, fuse-overlayfs or copy; `why` says why it is not the first of them. `squash` shows every file of the image as
    ours, for images whose owner is not mapped. `above` are saved layers over the image, the uppermost first. `memory` above 0 puts the
    writable layer into memory, at most so many bytes of it; `image_file` puts it into the file system in the layer's image file.
    """

    mechanism: str
    lower: str
    sif: bool
    offset: int = 0
    squash: bool = False
    why: str = ""
    memory: int = 0
    image_file: bool = False
    above: Tuple[str, ...] = ()


def foreign_owner(image: Image, host: HostFacts) -> bool:
    """Whether the tree belongs to an id that our namespace will not map: for a user everything but his own, for root nothing."""
    return image.form != SIF and host.uid != 0 and os.lstat(image.rootfs).st_uid != host.uid


def layer_memory(nature: str, wanted: int, available: int) -> int:
    """How many bytes of memory the writable layer may take: none on local storage, where it lies on disk.

    `nature` is local, memory or network; on network storage an overlay's upper directory is not supported
    (https://docs.kernel.org/filesystems/overlayfs.html), so the layer goes to memory, unless the site says 0 or half the memory that is
    `available` is less than `wanted`.
    """
    return wanted if nature == NETWORK and 0 < wanted <= available // 2 else 0


def available_memory() -> int:
    """Bytes that can be used without swapping, as the kernel estimates; 0 if it does not say. man 5 proc_meminfo."""
    try:
        with open("/proc/meminfo", encoding="ascii") as handle:
            for line in handle:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError):
        pass
    return 0


def plan_root(
    image: Image,
    host: HostFacts,
    *,
    offset: int,
    foreign: bool,
    overlay_reason: str,
    memory: int = 0,
    image_file: bool = False,
    above: Tuple[str, ...] = (),
) -> RootPlan:
    """Decide. `overlay_reason` says why the kernel's overlay does not work on the layer's file system ("" = it does).

    It never does for a layer in an `image_file`, which FUSE serves: the kernel takes no such upper directory.
    Raises HostUnfit where nothing works, naming each reason.
    """
    sif = image.form == SIF
    fuse = host.fuse_reason
    if sif and (fuse or not host.squashfuse):
        if not host.unsquashfs:
            raise HostUnfit(
                "cannot use the SIF %s here" % image.rootfs,
                cause=fuse or "squashfuse is not installed",
                remedy="make /dev/fuse usable, install squashfuse or unsquashfs, or use an unpacked image",
            )
        return RootPlan(COPY, image.rootfs, True, offset, why=fuse or "squashfuse is not installed")
    served = "the writable layer is served by FUSE" if image_file else ""
    reason = "the image belongs to another user" if foreign else served or overlay_reason
    if not reason:
        return RootPlan(KERNEL, image.rootfs, sif, offset, memory=memory, above=above)
    if above:
        raise HostUnfit("saved layers need the kernel's overlay, which does not work here", cause=reason, remedy="gha-apptainer doctor")
    if not fuse and host.fuse_overlayfs:
        return RootPlan(FUSE, image.rootfs, sif, offset, squash=foreign, why=reason, memory=memory, image_file=image_file)
    why = "%s; fuse-overlayfs: %s" % (reason, fuse or "not installed")
    return RootPlan(COPY, image.rootfs, sif, offset, why=why)


def squashfuse_argv(host: HostFacts, plan: RootPlan, device: int, single: bool) -> Tuple[str, ...]:
    """The FUSE program that serves a SIF's squashfs through an already mounted /dev/fuse descriptor."""
    options = "offset=%d" % plan.offset + (",uid=0,gid=0" if single else "")
    return (host.squashfuse, "-f", "-o", options, plan.lower, "/dev/fd/%d" % device)


def fuse_overlayfs_argv(host: HostFacts, plan: RootPlan, lower: str, layer: str, device: int) -> Tuple[str, ...]:
    """fuse-overlayfs over `lower`; with squash every file looks like root's, which is who we are in there."""
    options = "lowerdir=%s,upperdir=%s/upper,workdir=%s/work,noacl" % (_escape(lower), layer, layer)
    if plan.squash:
        options += ",squash_to_uid=0,squash_to_gid=0"
    return (host.fuse_overlayfs, "-f", "-o", options, "/dev/fd/%d" % device)


def _escape(path: str) -> str:
    """Overlay's own escapes for a lower directory: backslash, colon, comma."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


@dataclass(frozen=True)
class Root:
    """A mounted root: where it is, and the FUSE helpers (pids) that must outlive the payload.

    `mounts` are undone in their order; `keeper` is the helper that must be given the time to write down what it holds (0: none).
    """

    merged: str
    helpers: Tuple[int, ...]
    mounts: Tuple[str, ...] = ()
    keeper: int = 0


def mount_root(plan: RootPlan, host: HostFacts, layer: str, *, single: bool, tell: Callable[[str], None]) -> Root:
    """Make and mount the root below `layer`, in the namespace that this process has made. Helpers are started by us and die with us.

    `tell` hears of what costs time or space that nobody asked for.
    """
    helpers: List[int] = []
    mounts: List[str] = []
    keeper = 0
    place = layer
    if plan.memory:
        tell("the writable layer is in memory, at most %d MB: there is only network storage for it" % (plan.memory >> 20))
        kernel.mount(b"tmpfs", files.encode(layer), b"tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, b"mode=755,size=%d" % plan.memory)
        mounts.append(layer)
    elif plan.image_file:
        from gha_apptainer.node.engine import layer_image

        place, keeper = layer_image.mount(layer, host, tell)
        helpers.append(keeper)
        mounts.append(place)
    for path in (place + "/upper", place + "/work", layer + "/merged", *((layer + "/image",) if plan.sif else ())):
        os.makedirs(path, mode=0o755, exist_ok=True)
    merged = os.path.join(layer, "merged")
    if plan.mechanism == COPY:
        _copy(plan, host, merged, single, tell)
        return Root(merged, ())
    lower = plan.lower
    if plan.sif:
        lower = os.path.join(layer, "image")
        device = _mount_fuse(b"squashfuse", lower)
        mounts.insert(0, lower)
        helpers.append(_start_server(squashfuse_argv(host, plan, device, single), device, lower))
    _prepare_upper(lower, os.path.join(place, "upper"))
    if plan.mechanism == FUSE:
        device = _mount_fuse(b"fuse-overlayfs", merged)
        helpers.append(_start_server(fuse_overlayfs_argv(host, plan, lower, place, device), device, merged))
    else:
        data = "lowerdir=%s,upperdir=%s,workdir=%s,userxattr" % (
            _stacked((*plan.above, lower), layer),
            _escape(os.path.join(place, "upper")),
            _escape(os.path.join(place, "work")),
        )
        _mount_overlay(data, merged, layer)
    return Root(merged, tuple(helpers), (merged, *mounts), keeper)


def _stacked(lowers: Tuple[str, ...], place: str) -> str:
    """The value of lowerdir. Several layers go by short links below `place`, to which paths are then relative: all must fit on a page."""
    if len(lowers) == 1:
        return _escape(lowers[0])
    files.remove_tree(os.path.join(place, "l"))
    os.mkdir(os.path.join(place, "l"))
    for number, lower in enumerate(lowers):
        os.symlink(lower, os.path.join(place, "l", str(number)))
    return ":".join("l/%d" % number for number in range(len(lowers)))


def _mount_overlay(data: str, merged: str, place: str) -> None:
    if len(data) >= 4096:  # man 2 mount: one page of options
        raise EngineFailed("paths of image and layer are too long for one mount", remedy="use a shorter state directory or store")
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(place)
        kernel.mount(b"overlay", files.encode(merged), b"overlay", 0, files.encode(data))
    except OSError as error:
        raise EngineFailed("cannot mount the writable layer at %s: %s" % (place, error), cause=data) from error
    finally:
        os.fchdir(before)
        os.close(before)


def show(image: str, above: Tuple[str, ...], place: str) -> str:
    """An image with saved layers over it, to be read, in the namespace that this process has made; gives where it is."""
    if not above:
        return image
    merged = os.path.join(place, "shown")
    os.makedirs(merged)
    _mount_overlay("lowerdir=%s,userxattr" % _stacked((*above, image), place), merged, place)
    return merged


def unmount_root(root: Root, *, keep: bool) -> None:
    """Undo mounts and end helpers. With `keep` the layer will be used again: who holds parts of it in memory may first write them down."""
    for path in root.mounts:
        try:
            kernel.unmount(files.encode(path))
        except OSError:
            continue  # its helper is gone
    others = [pid for pid in root.helpers if pid != root.keeper]
    for pid in (*others, *((root.keeper,) if root.keeper else ())):
        if pid == root.keeper and keep and process.reap(pid, _KEEP_LIMIT):
            continue
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.reap(pid, _END_LIMIT)


def _prepare_upper(lower: str, upper: str) -> None:
    """The merged root has the mode of the upper directory: take the image's, never less than what a root needs."""
    os.chmod(upper, stat.S_IMODE(os.stat(lower).st_mode) | 0o755)


def _mount_fuse(name: bytes, target: str) -> int:
    device = os.open("/dev/fuse", os.O_RDWR)  # inherited by the helper, closed here after its start
    data = "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions" % device
    try:
        kernel.mount(name, files.encode(target), b"fuse." + name, kernel.MS_NOSUID | kernel.MS_NODEV, data.encode())
    except OSError:
        os.close(device)
        raise
    return device


def _start_server(argv: Tuple[str, ...], device: int, target: str) -> int:
    """Start a FUSE program on a descriptor that is mounted already, and wait until it serves."""
    try:
        pid = start_helper(argv, device=device)
    finally:
        os.close(device)
    _wait_served(target, argv[0])
    return pid


def start_helper(argv: Tuple[str, ...], *, device: int = -1, said: int = -1) -> int:
    """Start a FUSE program that a signal to the whole job does not end, but our death does. It inherits `device`; `said` gets its words."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if device >= 0:
                os.set_inheritable(device, True)
            if said >= 0:
                os.dup2(said, 1)
                os.dup2(said, 2)
            os.execve(argv[0], list(argv), dict(process.minimal_env()))
        except OSError as error:
            os.write(2, files.encode("%s: %s\n" % (argv[0], error.strerror)))
        os._exit(127)
    return pid


def _wait_served(target: str, name: str) -> None:
    """A first look-up blocks until the helper answers; it fails at once when the helper is gone (ENOTCONN).

    It is made in a process of its own, because one that hangs could not be ended.
    """
    from gha_apptainer.node.host import trying

    reason = trying.attempt(lambda: os.close(os.open(target, os.O_RDONLY | os.O_DIRECTORY)), _SERVE_LIMIT)
    if reason:
        raise EngineFailed("%s does not serve %s: %s" % (os.path.basename(name), target, reason), cause="the image is damaged, or FUSE is")


def _copy(plan: RootPlan, host: HostFacts, merged: str, single: bool, tell: Callable[[str], None]) -> None:
    """A private copy of the image; the free space is checked first. Works where nothing else does, and says so (`why`).

    A container that is started again has its copy already.
    """
    if os.path.exists(merged + ".complete"):
        return
    if plan.sif:
        argv: Tuple[str, ...] = (host.unsquashfs, "-q", "-n", "-f", "-o", str(plan.offset), "-d", merged, plan.lower)
        needed = 3 * os.stat(plan.lower).st_size
    else:
        needed = files.tree_size(plan.lower)[0]
        keep = "mode,timestamps,links" + ("" if single else ",ownership")  # with one id there is only one owner
        argv = ("/bin/cp", "-dR", "--preserve=" + keep, "--reflink=auto", plan.lower + "/.", merged)
    free = os.statvfs(merged)
    if needed > free.f_bavail * free.f_frsize:
        raise DiskFull("a private copy of the image needs %d MB at %s" % (needed >> 20, merged), cause=plan.why)
    tell("making a private copy of the image, about %d MB: %s" % (needed >> 20, plan.why))
    began = time.monotonic()
    process.run(argv, timeout=_COPY_LIMIT).check()
    files.write_whole(merged + ".complete", b"")
    tell("the private copy took %.1f s and %d MB" % (time.monotonic() - began, files.tree_size(merged)[0] >> 20))


def lost_helper(helpers: Tuple[int, ...]) -> Optional[int]:
    """The pid of a helper that has ended, or None while all serve. Reaps it."""
    for pid in helpers:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return pid
        except ChildProcessError:
            return pid
    return None
