"""Programs: each is run, and the FUSE ones really serve something."""

from __future__ import annotations

import os
import sys
import time
from typing import Tuple

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node import process
from gha_apptainer.node.host import finding, trying
from gha_apptainer.node.host.checks.answering import Patient, Said, fail, ok, skip, warn

_LIMIT = 3.0
_SLOW_START_MS = 250


def apptainer(patient: Patient) -> Said:
    """The first Apptainer that starts a container is named: version, place, setuid or not, and by which rule it was found."""
    facts = patient.facts
    if not facts.apptainer:
        return fail(facts.apptainer_reason, "install Apptainer 1.3 or newer, or run: gha-apptainer provision")
    origins = [origin for origin, path in finding.candidates(patient.settings, patient.environ) if _same(path, facts.apptainer)]
    text = "Apptainer %s, %s" % (facts.apptainer_version, facts.apptainer)
    text += " (from %s)" % origins[0] if origins else ""
    if facts.apptainer_setuid:
        return ok(text + ", a setuid installation: used with --userns")
    return ok(text + ", unprivileged")


def _same(path: str, chosen: str) -> bool:
    return path == chosen if path.startswith("/cvmfs/") else os.path.realpath(path) == chosen


def fuse(patient: Patient) -> Said:
    """/dev/fuse is opened for reading and writing."""
    reason = patient.facts.fuse_reason
    if reason:
        return warn(
            "%s: SIF images are unpacked before use, and images of other owners (CVMFS) are copied to be written" % reason,
            "make /dev/fuse readable and writable for users (mode 0666), and visible in containers and pods",
        )
    return ok("/dev/fuse opens")


def squashfuse(patient: Patient) -> Said:
    """A small squashfs is made and served by squashfuse in a namespace of our own."""
    facts = patient.facts
    if not facts.squashfuse:
        return warn(
            "squashfuse is not installed: SIF images are unpacked before use", "install squashfuse, or run: gha-apptainer provision"
        )
    if facts.fuse_reason or facts.userns_reason:
        return skip("%s cannot be tried: %s" % (facts.squashfuse, facts.fuse_reason or "no user namespace"))
    if not facts.mksquashfs:
        return warn("%s is there but cannot be tried without mksquashfs" % facts.squashfuse, "install squashfs-tools")
    work = _folder(patient, "squashfuse", "tree", "mount")
    with open(work + "/tree/file", "w") as handle:
        handle.write("squashed")
    process.run((facts.mksquashfs, work + "/tree", work + "/image", "-quiet", "-no-progress", "-no-xattrs"), timeout=_LIMIT).check()

    def serve() -> None:
        trying.own_namespace(trying.NEW_MOUNT)
        device = trying.mount_fuse("squashfuse", work + "/mount")
        trying.serve((facts.squashfuse, "-f", work + "/image", "/dev/fd/%d" % device), device)
        with open(work + "/mount/file") as reader:
            if reader.read() != "squashed":
                raise trying.CannotTry("a file reads differently")

    reason = trying.attempt(serve, _LIMIT)
    if reason:
        return warn(
            "%s does not serve an image: %s" % (facts.squashfuse, reason), "install another squashfuse, or run: gha-apptainer provision"
        )
    return ok("%s serves an image" % facts.squashfuse)


def fuse_overlayfs(patient: Patient) -> Said:
    """A file is changed and a directory deleted through fuse-overlayfs in a namespace of our own."""
    facts = patient.facts
    if not facts.fuse_overlayfs:
        return warn(
            "fuse-overlayfs is not installed: images of other owners (CVMFS) are copied to be written",
            "install fuse-overlayfs, or run: gha-apptainer provision",
        )
    if facts.fuse_reason or facts.userns_reason:
        return skip("%s cannot be tried: %s" % (facts.fuse_overlayfs, facts.fuse_reason or "no user namespace"))
    work = _folder(patient, "fuse-overlayfs", "lower", "lower/old", "upper", "work", "mount")

    def serve() -> None:
        trying.own_namespace(trying.NEW_MOUNT)
        device = trying.mount_fuse("fuse-overlayfs", work + "/mount")
        options = "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work,squash_to_uid=0,squash_to_gid=0,noacl" % (work, work, work)
        trying.serve((facts.fuse_overlayfs, "-f", "-o", options, "/dev/fd/%d" % device), device)
        os.rmdir(work + "/mount/old")
        with open(work + "/mount/new", "w") as handle:
            handle.write("text")
        if not os.path.exists(work + "/upper/new"):
            raise trying.CannotTry("a new file did not arrive in the upper layer")

    reason = trying.attempt(serve, _LIMIT)
    if reason:
        return warn("%s does not work: %s" % (facts.fuse_overlayfs, reason), "install another one, or run: gha-apptainer provision")
    return ok("%s works" % facts.fuse_overlayfs)


def squashfs_tools(patient: Patient) -> Said:
    """mksquashfs and unsquashfs are started."""
    facts, bad = patient.facts, []
    for name, path in (("mksquashfs", facts.mksquashfs), ("unsquashfs", facts.unsquashfs)):
        reason = _starts((path, "-version")) if path else "not installed"
        if reason:
            bad.append("%s: %s" % (name, reason))
    if bad:
        return warn("; ".join(bad), "install squashfs-tools, or run: gha-apptainer provision; images can then be kept and unpacked as SIF")
    return ok("%s and %s start" % (facts.mksquashfs, facts.unsquashfs))


def _starts(argv: Tuple[str, ...]) -> str:
    try:
        done = process.run(argv, timeout=_LIMIT)
    except GhaError as error:
        return error.what
    said = done.stdout + done.stderr
    return "" if b"version" in said.lower() else "it says nothing of its version (exit code %d)" % done.code


def python(patient: Patient) -> Said:
    """The interpreter that runs this, and how long it takes to start (median of three)."""
    times = []
    chosen = patient.settings.python or sys.executable
    for _ in range(3):
        before = time.monotonic()
        process.run((chosen, "-I", "-S", "-c", ""), timeout=_LIMIT).check()
        times.append(1000 * (time.monotonic() - before))
    text = "Python %d.%d.%d, %s, starts in %d ms" % (*sys.version_info[:3], chosen, sorted(times)[1])
    if sorted(times)[1] > _SLOW_START_MS:
        return warn(text, "every step pays that: use a Python on a disk of this machine (the setting `python`)")
    return ok(text)


def c_library(_: Patient) -> Said:
    """Asks for the host's C library: prebuilt programs need a certain version."""
    try:
        found = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        found = None
    return ok("C library: %s" % (found or "not glibc"))


def _folder(patient: Patient, name: str, *inner: str) -> str:
    work = os.path.join(patient.scratch, name)
    for folder in ("", *inner):
        os.mkdir(os.path.join(work, folder) if folder else work)
    return work
