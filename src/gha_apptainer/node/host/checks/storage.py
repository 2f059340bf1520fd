"""Disks: where records, layers, images and temporary files lie, and what may be done there."""

from __future__ import annotations

import os
import time

from gha_apptainer.node.host import trying
from gha_apptainer.node.host.checks.answering import Patient, Said, fail, ok, skip, warn
from gha_apptainer.node.host.overlay import overlay_probe
from gha_apptainer.node.host.surroundings import read_text

_MEMORY = ("tmpfs", "ramfs")
_SHARED = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "panfs", "afs", "glusterfs", "9p")
_LOW, _SCARCE = 50 << 20, 1 << 30
_STORE = 5 << 30
_INODES = 10000
_SKEW_S = 30.0


def state(patient: Patient) -> Said:
    """Type, free bytes and free inodes of the file system that holds the records and layers."""
    return _space("the state directory", patient.facts.state_dir, scarce=_SCARCE, must_be_local=True)


def store(patient: Patient) -> Said:
    """The same of the place where images are kept."""
    place = patient.settings.store or os.path.join(patient.facts.state_dir, "store")
    return _space("the image store", place, scarce=_STORE, must_be_local=False)


def layers(patient: Patient) -> Said:
    """The same of the place where writable layers lie, if the site chose one."""
    if not patient.settings.layers:
        return skip("writable layers lie in the state directory")
    return _space("the place of writable layers", patient.settings.layers, scarce=_SCARCE, must_be_local=True)


def _space(name: str, path: str, *, scarce: int, must_be_local: bool) -> Said:
    there = path
    while not os.path.isdir(there) and there != "/":
        there = os.path.dirname(there)
    kind, room = _type(there), os.statvfs(there)
    free, inodes = room.f_bavail * room.f_frsize, room.f_favail if room.f_files else -1
    text = "%s %s lies on %s with %.1f GB free" % (name, path, kind, free / 1e9) + (" and %d free inodes" % inodes if inodes >= 0 else "")
    if must_be_local and kind in _SHARED:
        return fail(
            text, "records must lie on a disk of this machine: set GHA_APPTAINER_STATE (or the setting `layers`) for the whole site"
        )
    if free < _LOW or 0 <= inodes < 100:
        return fail(text, "free space or inodes there (gha-apptainer image gc), or choose another place")
    if free < scarce or 0 <= inodes < _INODES:
        return warn(text, "a container's packages and an image may not fit: free space there, or choose another place")
    if kind in _MEMORY:
        return warn(text, "what is written there counts as memory of the job: choose a disk if there is one")
    return ok(text)


def _type(path: str) -> str:
    device = os.stat(path).st_dev
    wanted = "%d:%d" % (os.major(device), os.minor(device))
    found = [line.partition(" - ") for line in read_text("/proc/self/mountinfo").splitlines()]
    kinds = [right.split()[0] for left, _, right in found if left.split()[2] == wanted and right.split()]
    return kinds[-1] if kinds else "an unknown file system"


def overlay(patient: Patient) -> Said:
    """On the real disk: through a kernel overlay a directory is deleted and made anew and a file is changed."""
    if patient.facts.userns_reason:
        return skip("no user namespace to try it in")
    place = patient.settings.layers or patient.facts.state_dir
    reason = overlay_probe(place, "", patient.facts)
    if not reason:
        return ok("the kernel's overlay works at %s" % place)
    text = "the kernel's overlay does not work at %s: %s" % (place, reason)
    if patient.facts.fuse_reason or not patient.facts.fuse_overlayfs:
        return warn(
            text + "; writable containers copy their image", "put the state directory on ext4 or xfs, or make fuse-overlayfs usable"
        )
    return warn(text + "; fuse-overlayfs is used, which is slower", "put the state directory on ext4 or xfs of this machine")


def overlay_in_memory(patient: Patient) -> Said:
    """The same with the upper layer on a new tmpfs, for sites whose only disks are shared ones."""
    if patient.facts.userns_reason:
        return skip("no user namespace to try it in")
    place = os.path.join(patient.scratch, "memory")
    os.mkdir(place)

    def work() -> None:
        trying.own_namespace(trying.NEW_MOUNT)
        trying.mount("tmpfs", place, "tmpfs")
        os.chdir(place)
        for name in ("lower", "lower/old", "upper", "work", "merged"):
            os.mkdir(name)
        trying.mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work,userxattr")
        os.rmdir("merged/old")
        os.mkdir("merged/old")

    reason = trying.attempt(work)
    if reason:
        return warn("writable layers in memory do not work with the kernel's overlay: %s" % reason, "keep layers on a disk")
    return ok("writable layers in memory would work")


def temporary(patient: Patient) -> Said:
    """A file is written where TMPDIR says, else in /tmp."""
    named = patient.environ.get("TMPDIR", "")
    place = named or "/tmp"
    probe = os.path.join(place, ".gha-apptainer-doctor-%d" % os.getpid())
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.unlink(probe)
    except OSError as error:
        return warn(
            "temporary files cannot be written in %s: %s" % (place, error.strerror), "set TMPDIR to a directory that can be written"
        )
    return ok("temporary files go to %s%s" % (place, "" if named else " (TMPDIR is not set)"))


def home(patient: Patient) -> Said:
    """Whether HOME is set, there, and may be written. Containers do not need it; a private install of Apptainer does."""
    named = patient.environ.get("HOME", "")
    if not named:
        return ok("HOME is not set, which containers do not need")
    if not os.path.isdir(named) or not os.access(named, os.W_OK):
        return warn("HOME %s is missing or cannot be written" % named, "set XDG_CACHE_HOME if Apptainer is to be installed for this user")
    return ok("HOME is %s" % named)


def workspace(patient: Patient) -> Said:
    """Whether the job's work folder may be written, and on which file system it lies."""
    named = patient.environ.get("GITHUB_WORKSPACE", "")
    if not named:
        return skip("not inside a workflow job")
    if not os.path.isdir(named) or not os.access(named, os.W_OK | os.X_OK):
        return fail(
            "the work folder %s is missing or cannot be written" % named,
            "point the runner's work folder at a place that this user may write",
        )
    return ok("the work folder %s lies on %s" % (named, _type(named)))


def clock(patient: Patient) -> Said:
    """The time that the store's file system gives to a new file is compared with this machine's clock."""
    place = patient.settings.store if os.path.isdir(patient.settings.store or "\0") else patient.scratch
    probe = os.path.join(place, ".gha-apptainer-clock-%d" % os.getpid())
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            apart = abs(os.stat(probe).st_mtime - time.time())
        finally:
            os.unlink(probe)
    except OSError as error:
        return warn("no file can be written in %s: %s" % (place, error.strerror), "make the store writable, or images cannot be kept")
    if apart > _SKEW_S:
        return warn("the clock of %s is %d s apart from this machine's" % (place, apart), "have the clocks set by NTP")
    return ok("the clocks of this machine and its files agree")
