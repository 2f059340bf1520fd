"""`probe`: the facts of this machine, tried once and kept in the state directory until something that matters changes."""
from __future__ import annotations

import glob
import json
import os
import socket
from typing import List, Mapping, Tuple

from gha_apptainer.domain.documents import from_plain, plain
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.hosts import HostFacts, IdRange
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files
from gha_apptainer.node.host import finding, trying
from gha_apptainer.node.host.surroundings import state_dir

_CACHE = "host.json"
_DEVICES = ("/dev/fuse", "/dev/nvidiactl", "/dev/kfd", "/cvmfs")


def probe(settings: NodeSettings, environ: Mapping[str, str]) -> HostFacts:
    """What this machine can do. What is kept from before is used only if nothing that it depends on has changed.

    Raises Untrusted where the state directory is not ours.
    """
    state = state_dir(environ)
    path = os.path.join(state, _CACHE)
    key = _key(settings, environ)
    try:
        kept = json.loads(files.read_whole(path, limit=1 << 20))
        if kept["key"] == key and key == _key_of(kept["facts"], key):
            return from_plain(HostFacts, kept["facts"])
    except (OSError, ValueError, KeyError, TypeError, GhaError):
        pass  # missing, forged, half-written or of another version: probed anew and written over
    facts = _probe(settings, environ, state)
    if facts.apptainer and not facts.apptainer_reason:  # a machine without one may get one any moment
        files.write_whole(path, json.dumps({"key": key, "facts": plain(facts)}).encode())
    return facts


def _key_of(facts: Mapping[str, object], key: str) -> str:
    """The key, if the program that the facts name is still the one that was probed."""
    return key if str(facts.get("apptainer")) and _identity(str(facts.get("apptainer"))) in key else ""


def _key(settings: NodeSettings, environ: Mapping[str, str]) -> str:
    """Everything that the facts depend on, as one text; no program is started for it."""
    words = [boot_id(), str(os.geteuid()), str(os.getegid()), os.uname().release, settings.apptainer]
    words += [environ.get(name, "") for name in ("GHA_APPTAINER", "PATH", "XDG_CACHE_HOME", "HOME")]
    words += [_identity(path) for _, path in finding.candidates(settings, environ) if not path.startswith("/cvmfs")]
    words += [_identity(path) for path in _DEVICES[:-1]] + [str(os.access("/dev/fuse", os.R_OK | os.W_OK)), str(os.path.isdir("/cvmfs"))]
    words += [_read(path) for path in ("/proc/self/uid_map", "/proc/sys/user/max_user_namespaces", *(path for path, _ in _SWITCHES))]
    return "\n".join(words)


def _identity(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return "%d:%d:%d:%d:%o" % (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode)


def boot_id() -> str:
    """The kernel's name for this boot."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def _read(path: str) -> str:
    try:
        with open(path) as handle:
            return handle.read(65536)
    except OSError:
        return ""


def _probe(settings: NodeSettings, environ: Mapping[str, str], state: str) -> HostFacts:
    userns = userns_reason()
    found = finding.find(settings, environ)
    usable = found.path if not found.reason else ""
    machine = os.uname().machine
    return HostFacts(
        hostname=socket.gethostname(),
        boot_id=boot_id(),
        machine=machine,
        kernel=os.uname().release,
        uid=os.geteuid(),
        gid=os.getegid(),
        state_dir=state,
        userns_reason=userns,
        apptainer=usable,
        apptainer_version=found.version,
        apptainer_reason=found.reason if machine in ("x86_64", "aarch64") else "this program has no holder for %s machines" % machine,
        apptainer_setuid=found.setuid,
        config_option=not found.setuid or os.geteuid() == 0,
        fuse_reason=fuse_reason(),
        proc_reason="" if userns else fresh_proc_reason(),
        squashfuse=finding.helper("squashfuse_ll", usable, environ) or finding.helper("squashfuse", usable, environ),
        fuse_overlayfs=finding.helper("fuse-overlayfs", usable, environ),
        mksquashfs=finding.helper("mksquashfs", usable, environ),
        unsquashfs=finding.helper("unsquashfs", usable, environ),
        uid_ranges=_ranges("/proc/self/uid_map"),
        gid_ranges=_ranges("/proc/self/gid_map"),
        nvidia_reason=_nvidia_reason(),
        rocm_reason="" if os.path.exists("/dev/kfd") else "no AMD device (/dev/kfd) on this machine",
        cvmfs=os.path.isdir("/cvmfs"),
    )


_SWITCHES = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
)


def userns_reason() -> str:
    """Why no user and mount namespace can be made, in one sentence that names the setting to change; empty if one can."""
    failed = trying.attempt(lambda: trying.own_namespace(trying.NEW_MOUNT))
    if not failed:
        return ""
    setting = ""
    if _read("/proc/sys/user/max_user_namespaces").strip() == "0":
        setting = "user.max_user_namespaces is 0: set it to 15000 or more"
    for path, off in _SWITCHES:
        if not setting and _read(path).strip() == off and os.geteuid() != 0:
            name = path[len("/proc/sys/") :].replace("/", ".")
            setting = "%s is %s: set it to %s" % (name, off, "1" if off == "0" else "0, or allow this program in an AppArmor profile")
    return "user namespaces cannot be used (%s): %s" % (failed, setting or "the surrounding container or the kernel forbids them")


def fuse_reason() -> str:
    """Why FUSE cannot be used; empty if /dev/fuse opens."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return "/dev/fuse: %s" % error.strerror
    return ""


def fresh_proc_reason() -> str:
    """Why a new /proc cannot be mounted in a new pid namespace; a container around us that masks parts of /proc forbids it."""

    def work() -> None:
        trying.own_namespace(trying.NEW_MOUNT | trying.NEW_PID)
        child = os.fork()
        if child == 0:
            try:
                trying.mount("proc", "/proc", "proc")
            except OSError as error:
                os._exit(error.errno or 1)
            os._exit(0)
        code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
        if code:
            raise OSError(code, os.strerror(code))

    return trying.attempt(work)


def _ranges(path: str) -> Tuple[IdRange, ...]:
    found: List[IdRange] = []
    for line in _read(path).splitlines():
        first, _, count = line.split()
        found.append(IdRange(int(first), int(count)))
    return tuple(found)


def _nvidia_reason() -> str:
    if not os.path.exists("/dev/nvidiactl") and not glob.glob("/dev/nvidia[0-9]*"):
        return "no NVIDIA device (/dev/nvidiactl) on this machine"
    return ""
