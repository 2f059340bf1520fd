"""`probe`: the facts of this machine. What is dear to try is kept in the state directory until something that it depends on changes.

Dear are the starts of programs and of namespaces. The rest (devices, ids, programs beside Apptainer) is looked at each time.
"""

from __future__ import annotations

import os
import time

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.hosts import HostFacts, IdRange
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files
from gha_apptainer.node.host import finding
from gha_apptainer.node.host.keeping import keep, kept
from gha_apptainer.node.host.surroundings import read_text, state_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping, Optional, Tuple

_KEPT, _FORM = "host.kept", "gha-apptainer host 3"
"""The file and its form; another form is probed anew."""
_CVMFS_S = 3600.0  # an Apptainer on CVMFS is not looked at again for this long: a look may hang
_KERNEL = (
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/self/attr/current",
    "/proc/self/uid_map",
    "/proc/self/gid_map",
)
_FUSE_DEVICE = os.makedev(10, 229)
"""https://www.kernel.org/doc/Documentation/admin-guide/devices.txt"""
_CREDENTIALS = ("CapPrm:", "CapBnd:", "NoNewPrivs:", "Seccomp:")
_Kept = dict[str, object]


def probe(settings: NodeSettings, environ: Mapping[str, str]) -> HostFacts:
    """What this machine can do. What is kept from before is used only if nothing that it depends on has changed.

    Raises Untrusted where the state directory is not ours.
    """
    state = state_dir(environ)
    path = os.path.join(state, _KEPT)
    key = _key(settings, environ)
    known = _read_kept(path, key)
    if known is None:
        known = _try(settings, environ, state)
        if not known["apptainer_reason"]:  # a machine without one may get one any moment
            until = time.time() + _CVMFS_S if str(known["apptainer"]).startswith("/cvmfs/") else 0.0
            facts = ["%s=%s" % (name, int(value) if isinstance(value, bool) else value) for name, value in known.items()]
            keep(path, _FORM, ["%.0f" % until, str(len(key)), *key, *facts])
    return _facts(state, environ, known)


def _read_kept(path: str, key: list[str]) -> Optional[_Kept]:
    """What was kept, or None where it is missing, forged, half-written, outdated or of another form."""
    fields = kept(path, _FORM) or []
    until, count, facts = fields[:1], fields[1:2], fields[2 + len(key) :]
    if count != [str(len(key))] or fields[2 : 2 + len(key)] != key or not until[0].isdigit() or 0 < int(until[0]) < time.time():
        return None
    found = dict(fact.partition("=")[::2] for fact in facts)
    if len(facts) != len(found) or set(found) != {"apptainer_setuid", "apptainer_identity", *_TEXTS}:
        return None
    apptainer = found["apptainer"]
    if found["apptainer_reason"] or not apptainer or found["apptainer_setuid"] not in ("0", "1"):
        return None
    if not apptainer.startswith("/cvmfs/") and _identity(apptainer) != found["apptainer_identity"]:
        return None
    return {**found, "apptainer_setuid": found["apptainer_setuid"] == "1"}


_TEXTS = ("userns_reason", "proc_reason", "apptainer", "apptainer_version", "apptainer_reason")


def _key(settings: NodeSettings, environ: Mapping[str, str]) -> list[str]:
    """Everything that the kept facts depend on; no program is started for it and CVMFS is not touched."""
    words = [boot_id(), str(os.getuid()), str(os.geteuid()), str(os.getegid()), os.uname().release, settings.apptainer]
    for _, path in finding.candidates(settings, environ):
        words += [path, "" if path.startswith("/cvmfs/") else _identity(path)]
    words += [read_text(path) for path in _KERNEL]
    words += [line for line in read_text("/proc/self/status").splitlines() if line.startswith(_CREDENTIALS)]
    words += [line for line in read_text("/proc/self/mountinfo").splitlines() if line.split(" ", 5)[4].startswith("/proc")]
    try:
        words.append(os.readlink("/proc/self/ns/user"))
    except OSError:
        words.append("")
    return words


def _identity(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return "%d:%d:%d:%d:%o" % (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)


def boot_id() -> str:
    """The kernel's name for this boot."""
    return read_text("/proc/sys/kernel/random/boot_id").strip()


def _try(settings: NodeSettings, environ: Mapping[str, str], state: str) -> _Kept:
    from gha_apptainer.node.host import namespaces

    userns = namespaces.userns_reason()
    machine = os.uname().machine
    if machine not in ("x86_64", "aarch64"):
        found = finding.Found("", reason="this program has no holder for %s machines, only for x86_64 and aarch64" % machine)
    elif userns:
        found = _unstarted(settings, environ)
    else:
        found = finding.find(settings, environ, state)
    return {
        "userns_reason": userns,
        "proc_reason": "" if userns else namespaces.fresh_proc_reason(),
        "apptainer": "" if found.reason else found.path,
        "apptainer_version": found.version,
        "apptainer_reason": found.reason,
        "apptainer_setuid": found.setuid,
        "apptainer_identity": _identity(found.path) if found.path and not found.path.startswith("/cvmfs/") else "",
    }


def _unstarted(settings: NodeSettings, environ: Mapping[str, str]) -> finding.Found:
    """Without user namespaces no candidate can start: naming one would hide the reason, so nothing is tried."""
    for origin, path in finding.candidates(settings, environ):
        if not path.startswith("/cvmfs/") and os.access(path, os.X_OK):
            return finding.Found(path, reason="not tried: no container can start without user namespaces", origin=origin)
    return finding.Found("", reason="not looked for: no container can start without user namespaces")


def _facts(state: str, environ: Mapping[str, str], kept: _Kept) -> HostFacts:
    """Kept and seen together."""
    texts = {name: str(kept[name]) for name in _TEXTS}
    apptainer, setuid = texts["apptainer"], bool(kept["apptainer_setuid"])
    system = os.uname()

    def helper(*names: str) -> str:
        return finding.helper(names, apptainer, environ)

    return HostFacts(
        hostname=system.nodename,
        boot_id=boot_id(),
        machine=system.machine,
        kernel=system.release,
        uid=os.geteuid(),
        gid=os.getegid(),
        state_dir=state,
        userns_reason=texts["userns_reason"],
        apptainer=apptainer,
        apptainer_version=texts["apptainer_version"],
        apptainer_reason=texts["apptainer_reason"],
        apptainer_setuid=setuid,
        config_option=not setuid or os.geteuid() == 0,
        fuse_reason=fuse_reason(),
        proc_reason=texts["proc_reason"],
        squashfuse=helper("squashfuse_ll", "squashfuse"),
        fuse_overlayfs=helper("fuse-overlayfs"),
        mksquashfs=helper("mksquashfs"),
        unsquashfs=helper("unsquashfs"),
        fuse2fs=helper("fuse2fs"),
        mke2fs=helper("mke2fs"),
        e2fsck=helper("e2fsck"),
        uid_ranges=_ranges("/proc/self/uid_map"),
        gid_ranges=_ranges("/proc/self/gid_map"),
        nvidia_reason=nvidia_reason(),
        rocm_reason=rocm_reason(),
        cvmfs=_is_directory("/cvmfs"),
    )


def fuse_reason() -> str:
    """Why FUSE cannot be used; empty if /dev/fuse really opens. A device's mode does not tell: device cgroups forbid too."""
    try:
        handle = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return "/dev/fuse cannot be opened: %s" % error.strerror
    try:
        return "" if os.fstat(handle).st_rdev == _FUSE_DEVICE else "/dev/fuse is another device"
    finally:
        os.close(handle)


def _ranges(path: str) -> Tuple[IdRange, ...]:
    rows = (line.split() for line in read_text(path).splitlines())
    return tuple(IdRange(int(first), int(count)) for first, _, count in rows)


def nvidia_reason(listing: Callable[[str], list[str]] = os.listdir) -> str:
    """Why there is no NVIDIA GPU for us; empty if there is one. A device without its driver library is none."""
    try:
        names = listing("/dev")
    except OSError:
        names = []
    if not any(name == "nvidiactl" or (name.startswith("nvidia") and name[6:].isdigit()) for name in names):
        return "no NVIDIA device (/dev/nvidiactl) on this machine"
    if not _library("libcuda.so.1"):
        return "an NVIDIA device is here, but its driver library libcuda.so.1 is not in the loader's cache"
    return ""


def rocm_reason() -> str:
    """Why there is no AMD GPU for us; empty if there is one."""
    return "" if os.path.exists("/dev/kfd") else "no AMD device (/dev/kfd) on this machine"


def _library(name: str) -> bool:
    """Whether the dynamic loader would find a library: by its cache, as Apptainer's --nv looks for it too, or in its usual directories."""
    try:
        if name.encode() in files.read_whole("/etc/ld.so.cache"):
            return True
    except (OSError, GhaError):
        pass
    triplet = os.uname().machine + "-linux-gnu"
    folders = ("/usr/lib64", "/usr/lib/" + triplet, "/usr/lib", "/usr/local/nvidia/lib64", "/run/nvidia/driver/usr/lib64")
    return any(os.path.exists(os.path.join(folder, name)) for folder in folders)


def _is_directory(path: str) -> bool:
    try:
        return os.path.isdir(path)
    except OSError:
        return False
