"""Repositories that cvmfsexec (https://github.com/cvmfs/cvmfsexec) mounts for a step, unmounted by the last step that uses them.

Its `mountrepo` and `umountrepo` mount for the whole user, not for a process. So each step holds a shared lock as long as it uses such a
mount, and what was mounted for steps is noted beside the lock: whoever can have the lock alone at his end unmounts all that is noted,
what a killed step left included. What somebody had mounted before is used and stays.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from typing import List, Mapping, Tuple

from gha_apptainer.domain.errors import GhaError, TimedOut
from gha_apptainer.node import files, process

MOUNT_LIMIT = 60.0
"""Seconds for mounting or unmounting one repository."""
_BUSY_LIMIT = 5.0  # seconds: the kernel may still be taking the container apart


def mounted(place: str) -> bool:
    """Whether something is mounted at a path, told without touching it: a dead mount would hold us."""
    path = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
    escaped = "".join("\\%03o" % ord(mark) if mark in " \t\n\\" else mark for mark in path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as handle:
        return any(row.split(" ")[4] == escaped for row in handle)


class Cvmfsexec:
    """One step's use of cvmfsexec; `state` is the directory of this user on this host."""

    def __init__(self, state: str, environ: Mapping[str, str]) -> None:
        self._lock = os.path.join(state, "cvmfsexec.lock")
        self._notes = os.path.join(state, "cvmfsexec")
        self._env = tuple((key, environ[key]) for key in ("PATH", "HOME", "LANG") if key in environ)
        found = shutil.which("cvmfsexec", path=environ.get("PATH", os.defpath))
        self._folder = os.path.dirname(os.path.realpath(found)) if found else ""
        self._handle = -1

    def mount(self, name: str) -> str:
        """Where the repository is mounted now; "" where there is no cvmfsexec on PATH. Raises GhaError where mounting fails."""
        tool = os.path.join(self._folder, "mountrepo")
        if not self._folder or not os.access(tool, os.X_OK):
            return ""
        self._share()
        place = os.path.join(self._folder, "dist", "cvmfs", name)
        if not mounted(place):
            files.write_whole(os.path.join(self._notes, name), files.encode(self._folder))  # before: a kill must not lose it
            process.run((tool, name), env=self._env, timeout=MOUNT_LIMIT).check()
        return place

    def _share(self) -> None:
        if self._handle >= 0:
            return
        os.makedirs(self._notes, mode=0o700, exist_ok=True)
        self._handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + MOUNT_LIMIT
        while not _locked(self._handle, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise TimedOut("another step has been unmounting CVMFS repositories for %g s" % MOUNT_LIMIT, remedy="umountrepo -a")
            time.sleep(0.05)

    def release(self) -> Tuple[str, ...]:
        """Unmount what is noted, unless another step uses such mounts; what did not go, as sentences."""
        if self._handle < 0:
            return ()
        left: List[str] = []
        try:
            if _locked(self._handle, fcntl.LOCK_EX):
                left = [one for one in map(self._unmount, sorted(os.listdir(self._notes))) if one]
        finally:
            os.close(self._handle)
            self._handle = -1
        return tuple(left)

    def _unmount(self, name: str) -> str:
        note = os.path.join(self._notes, name)
        try:
            folder = files.decode(files.read_whole(note))
            deadline = time.monotonic() + _BUSY_LIMIT
            place = os.path.join(folder, "dist", "cvmfs", name)
            said = ""
            while mounted(place):
                if time.monotonic() > deadline:
                    return "CVMFS repository %s is still mounted by cvmfsexec: %s" % (name, said)
                done = process.run((os.path.join(folder, "umountrepo"), name), env=self._env, timeout=MOUNT_LIMIT)
                said = files.decode(done.stderr).strip()
                if done.code:
                    time.sleep(0.2)
            os.unlink(note)
            return ""
        except (OSError, GhaError) as error:
            return "CVMFS repository %s is still mounted by cvmfsexec: %s" % (name, error)


def _locked(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
