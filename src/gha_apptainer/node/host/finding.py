"""Where Apptainer is: the first that passes the probes, in the order that a site may rely on."""

from __future__ import annotations

import os
import stat

from gha_apptainer.domain.apptainer_trials import too_old, trial_argv, version_argv
from gha_apptainer.domain.errors import GhaError, TimedOut, disk_full, is_disk_full
from gha_apptainer.domain.places import private_apptainer
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import files, process
from gha_apptainer.node.host.trial_root import host_loader, tiny_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Mapping, Tuple

CVMFS_APPTAINER = "/cvmfs/oasis.opensciencegrid.org/mis/apptainer/bin/apptainer"
_LIMIT = 20.0  # seconds for one start of a candidate; the first from CVMFS is slow
_CVMFS_LIMIT = 5.0


@dataclass(frozen=True)
class Found:
    """An Apptainer and what was learnt of it; `reason` says why it cannot be used, empty if it can. `origin` is where we looked."""

    path: str
    version: str = ""
    setuid: bool = False
    reason: str = ""
    origin: str = ""


def candidates(settings: NodeSettings, environ: Mapping[str, str]) -> Iterator[Tuple[str, str]]:
    """(origin, path) of every place to look, best first; a path need not exist. The CVMFS one may hang: never stat it here."""
    if environ.get("GHA_APPTAINER"):
        yield "GHA_APPTAINER", environ["GHA_APPTAINER"]
    if settings.apptainer:
        yield "the site's settings", settings.apptainer
    on_path = on_the_path("apptainer", environ)
    if on_path:
        yield "PATH", on_path
    yield "CVMFS", CVMFS_APPTAINER
    private = private_apptainer(environ, os.uname().machine)
    if private:
        yield "the private install", private


def on_the_path(name: str, environ: Mapping[str, str]) -> str:
    """The program `name` in the caller's PATH, else in the usual directories; empty if it is in neither. Relative entries do not count."""
    for folder in (environ.get("PATH", "") + ":" + process.BASE_PATH).split(":"):
        path = folder + "/" + name
        if folder.startswith("/") and not folder.startswith("/cvmfs/") and _is_program(path):
            return path
    return ""


def _is_program(path: str) -> bool:
    return os.access(path, os.X_OK) and os.path.isfile(path)


def find(settings: NodeSettings, environ: Mapping[str, str], scratch: str) -> Found:
    """The first candidate that works, else a Found that says of each candidate why it does not. Tries happen below `scratch`."""
    reasons: List[Tuple[str, Found]] = []
    for origin, path in candidates(settings, environ):
        if path.startswith("/cvmfs/") and not cvmfs_answers(path):
            if origin != "CVMFS":
                reasons.append((origin, Found(path, reason="%s does not answer" % path)))
            continue
        if not _is_program(path):
            if origin in ("GHA_APPTAINER", "the site's settings"):
                reasons.append((origin, Found(path, reason="%s is no program" % path)))
            continue
        found = examine(path, origin, scratch)
        if not found.reason:
            return found
        reasons.append((origin, found))
    if not reasons:
        return Found("", reason="no Apptainer was found in GHA_APPTAINER, settings, PATH, CVMFS or the user's cache")
    first = reasons[0][1]
    return Found(first.path, first.version, first.setuid, "; ".join("from %s: %s" % (origin, one.reason) for origin, one in reasons), "")


def cvmfs_answers(path: str) -> bool:
    """Whether CVMFS serves a path in time; autofs may hang for ever."""
    from gha_apptainer.node.host import trying

    return os.path.isdir("/cvmfs") and trying.attempt(lambda: os.close(os.open(path, os.O_RDONLY)), _CVMFS_LIMIT) == ""


def examine(path: str, origin: str, scratch: str) -> Found:
    """Start a candidate and judge it: version, setuid mode, and whether a container of it starts in a user namespace."""
    real = os.path.realpath(path)
    try:
        done = process.run(version_argv(real), timeout=_LIMIT).check()
    except GhaError as error:
        return Found(real, reason="%s does not start: %s" % (real, error.what), origin=origin)
    version, reason = too_old(real, done.stdout.decode("utf-8", "replace"))
    return Found(real, version, _setuid(real), reason or _trial_reason(real, scratch), origin)


def _trial_reason(path: str, scratch: str) -> str:
    """Why a container does not start; empty if it does. Where the machine has no static program to start, only the version counts."""
    loader = host_loader(path)
    if not loader:
        return ""
    work = os.path.join(scratch, "trial-%d-%s" % (os.getpid(), os.urandom(4).hex()))
    umask = os.umask(0o022)  # the caller's may close what we make even to ourselves
    try:
        os.mkdir(work, 0o700)
        done = process.run(trial_argv(path, tiny_root(work + "/root", loader), ("/program", "--version")), timeout=_LIMIT)
    except TimedOut as error:
        return "a container does not start: %s" % error.what
    except OSError as error:
        raise (disk_full(error, work) if is_disk_full(error) else error) from error
    finally:
        os.umask(umask)
        files.remove_tree(work)
    if done.code == 0:
        return ""
    said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return "a container does not start: %s" % (said[-1].strip()[-500:] if said else "exit code %d" % done.code)


def _setuid(path: str) -> bool:
    top = os.path.dirname(os.path.dirname(path))
    for inner in ("libexec/apptainer/bin/starter-suid", "lib/apptainer/bin/starter-suid"):
        try:
            if os.stat(os.path.join(top, inner)).st_mode & stat.S_ISUID:
                return True
        except OSError:
            continue
    return False


def helper(names: Tuple[str, ...], apptainer: str, environ: Mapping[str, str]) -> str:
    """A program that Apptainer ships or needs, the first of `names` that there is: beside it, on PATH, then in its libexec; else empty."""
    top = os.path.dirname(os.path.dirname(apptainer)) if apptainer else ""
    for name in names:
        beside = top + "/bin/" + name
        found = beside if top and os.access(beside, os.X_OK) else on_the_path(name, environ)
        inner = top + "/libexec/apptainer/bin/" + name
        found = found or (inner if top and os.access(inner, os.X_OK) else "")
        if found:
            return found
    return ""
