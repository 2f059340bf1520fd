"""CVMFS repositories: read once with a time limit, so that a dead or unknown one fails by name before a step starts.

autofs mounts a repository when it is first touched, and a client that cannot reach its servers holds whoever touches it in the kernel,
where not even SIGKILL helps; so a child does it. The ladder: /cvmfs, the site's alias, `mountrepo` of cvmfsexec
(https://github.com/cvmfs/cvmfsexec), the error that names the companion action.
"""

from __future__ import annotations

import json
import os
import sys
from typing import List, Mapping, Optional, Sequence, Tuple

from gha_apptainer.domain.errors import GhaError, HostUnfit, TimedOut
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import process
from gha_apptainer.node.files import encode
from gha_apptainer.node.volumes.cvmfsexec import Cvmfsexec

ROOT = "/cvmfs"
READ_LIMIT = 20.0
"""Seconds that a repository may take to show its first entry."""
COMPANION = "cvmfs-contrib/github-action-cvmfs"
HERE, ALIAS, CVMFSEXEC = "mounted", "alias", "cvmfsexec"

_READ = r"""
import json, os, sys
path, found = sys.argv[1], {"entries": False, "revision": "", "error": ""}
try:
    with os.scandir(path) as entries:
        found["entries"] = next(entries, None) is not None
except OSError as error:
    found["error"] = error.strerror or str(error)
try:
    found["revision"] = os.getxattr(path, "user.revision").decode("ascii", "replace").strip("\0\n ")
except OSError:
    pass
json.dump(found, sys.stdout)
"""


@dataclass(frozen=True)
class Repository:
    """One repository that answers. `path` is where it lies, `revision` "" where the client does not say, `how` the rung of the ladder."""

    name: str
    path: str
    revision: str
    how: str


@dataclass(frozen=True)
class _Look:
    """What one reading showed: an error, or the revision. `hung` means that there was no answer in time."""

    error: str = ""
    revision: str = ""
    hung: bool = False


def look(path: str, limit: float = READ_LIMIT) -> _Look:
    """Read a directory's first entry and its revision, in a child."""
    try:
        done = process.run((sys.executable, "-I", "-S", "-c", _READ, path), timeout=limit).check()
    except TimedOut:
        return _Look("%s does not answer within %g s" % (path, limit), hung=True)
    raw = json.loads(done.stdout)
    if raw["error"]:
        return _Look("%s: %s" % (path, raw["error"]))
    return _Look(revision=raw["revision"]) if raw["entries"] else _Look("%s is empty" % path)


def read_repositories(
    names: Sequence[str],
    aliases: Mapping[str, str],
    tool: Cvmfsexec,
    *,
    root: str = ROOT,
    limit: float = READ_LIMIT,
) -> Tuple[Repository, ...]:
    """Each repository by the first rung of the ladder that holds. Raises TimedOut for one that hangs, HostUnfit for one that is nowhere."""
    return tuple(_read(name, aliases, tool, root, limit) for name in names)


def _read(name: str, aliases: Mapping[str, str], tool: Cvmfsexec, root: str, limit: float) -> Repository:
    here = os.path.join(root, name)
    first = look(here, limit)
    if not first.error:
        return Repository(name, here, first.revision, HERE)
    reasons = [first.error]
    if name in aliases:
        second = look(aliases[name], limit)
        if not second.error:
            return Repository(name, aliases[name], second.revision, ALIAS)
        reasons.append("the site's alias " + second.error)
    if first.hung:
        raise TimedOut(
            "CVMFS repository %s hangs: %s" % (name, "; ".join(reasons)),
            cause="its client cannot reach a proxy or server, or was killed",
            remedy="cvmfs_config probe %s; run the job on another node" % name,
        )
    mounted = _by_cvmfsexec(name, tool, limit, reasons)
    if mounted is not None:
        return mounted
    raise HostUnfit(
        "CVMFS repository %s cannot be read: %s" % (name, "; ".join(reasons)),
        cause="there is no CVMFS on this machine, or the name is wrong",
        remedy="on a hosted runner add a step before: uses: %s with cvmfs_repositories: %s; elsewhere install the client or cvmfsexec"
        % (COMPANION, name),
    )


def _by_cvmfsexec(name: str, tool: Cvmfsexec, limit: float, reasons: List[str]) -> Optional[Repository]:
    try:
        place = tool.mount(name)
    except GhaError as error:
        reasons.append("mountrepo: " + error.what)
        return None
    if not place:
        return None
    last = look(place, limit)
    if last.error:
        reasons.append("mountrepo: " + last.error)
        return None
    return Repository(name, place, last.revision, CVMFSEXEC)


def holder_of(path: str, aliases: Mapping[str, str]) -> Tuple[str, str]:
    """The repository in which a path lies, in /cvmfs or at a site's alias, and where that is; ("", "") for none."""
    parts = path.split("/")
    if path.startswith(ROOT + "/") and len(parts) > 2 and parts[2]:
        return parts[2], "%s/%s" % (ROOT, parts[2])
    for name, place in aliases.items():
        if path == place or path.startswith(place.rstrip("/") + "/"):
            return name, place
    return "", ""


def exists(path: str, limit: float = READ_LIMIT) -> bool:
    """Whether a path on CVMFS is there, asked by a child. Raises TimedOut."""
    program = "import os,sys; sys.exit(not os.access(sys.argv[1], os.R_OK))"
    done = process.run((sys.executable, "-I", "-S", "-c", program, encode(path).decode("utf-8", "surrogateescape")), timeout=limit)
    return done.code == 0
