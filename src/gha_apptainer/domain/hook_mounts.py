"""What a container of a job sees of the host: the runner's own directories as it asks, a workflow's wishes as the site's policy allows.

Whatever a job can write may hold links that an earlier step has put there. So every path is judged by where it really leads, and a mount
takes the real path.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, Optional, Tuple

from gha_apptainer.domain.containers import ANONYMOUS, BIND, VOLUME, Mount
from gha_apptainer.domain.docker_values import is_name, target
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.hook_policy import PER_RUNNER, HookPolicy, path_right, policy_paths
from gha_apptainer.domain.hook_requests import HookMount
from gha_apptainer.domain.values import dataclass, replace

SOCKET = "/var/run/docker.sock"
WORK, EXTERNALS = "/__w", "/__e"
STEP_WORKSPACE = "/github/workspace"
RealPath = Callable[[str], str]
"""The path without links, as os.path.realpath gives it."""


@dataclass(frozen=True)
class HostView:
    """What is known of the host: `work` is the runner's work directory, `real` and `exists` ask the file system, `job` the job's id."""

    work: str
    job: str
    real: RealPath
    exists: Callable[[str], bool]


def system_mounts(wanted: Tuple[HookMount, ...], view: HostView) -> Tuple[Mount, ...]:
    """The runner's own mounts. The Docker socket is left out: there is no Docker. Missing directories are made, as Docker makes them.

    Raises Refused where a link lies in the runner's work directory below which a mount's source is.
    """
    found: List[Mount] = []
    for one in wanted:
        if SOCKET in (one.source, one.target):
            continue
        if not one.source.startswith("/"):
            raise InputError("the runner's mount on %s has no path on the host: %r" % (one.target, one.source))
        _check_no_link(one.source, view)
        found.append(Mount(one.source.rstrip("/") or "/", target("mount", one.target), one.read_only, create=True))
    return _once(found)


def _check_no_link(source: str, view: HostView) -> None:
    work = view.work.rstrip("/")
    if not work or not (source == work or source.startswith(work + "/")):
        return
    if view.real(source) != view.real(work) + source.rstrip("/")[len(work) :]:
        raise Refused(
            "%s does not lie where the runner put it: a link leads elsewhere" % source,
            cause="a step of this job or of an earlier one has replaced a directory of the runner's by a link",
            remedy="remove the link; nothing outside of the runner's work directory is given to a container this way",
        )


def work_of(mounts: Tuple[HookMount, ...], environ: Mapping[str, str]) -> str:
    """The runner's work directory: what is mounted on /__w, else the parent of its directory for temporary files."""
    for one in mounts:
        if one.target.rstrip("/") == WORK and one.source.startswith("/"):
            return one.source.rstrip("/")
    temporary = environ.get("RUNNER_TEMP", "").rstrip("/")
    if temporary.startswith("/"):
        return temporary.rpartition("/")[0]
    for one in mounts:
        if one.target.rstrip("/") == "/github/runner_temp" and one.source.startswith("/"):
            return one.source.rstrip("/").rpartition("/")[0]
    return ""


def host_spelling(mounts: Tuple[Mount, ...], work: str) -> Tuple[Mount, ...]:
    """The work directory at its own path as well, so that host paths in expressions are valid in the container; where it is free."""
    depth = work.count("/")
    taken = any(one.target == work or one.target.startswith(work + "/") or work.startswith(one.target + "/") for one in mounts)
    if not work or depth < 1 or taken:
        return ()
    return (Mount(work, work, create=True),)


def user_mounts(wanted: Tuple[HookMount, ...], policy: HookPolicy, view: HostView) -> Tuple[Mount, ...]:
    """What `volumes:` asks for."""
    found: List[Mount] = []
    for one in wanted:
        inside = target("volume %s" % (one.written or one.target), one.target)
        if not one.source:
            found.append(Mount("", inside, one.read_only, ANONYMOUS))
        elif one.source.startswith("/"):
            found.append(Mount(one.source, inside, one.read_only, create=True))
        else:
            found.append(Mount(one.source, inside, one.read_only, VOLUME))
    return allowed_mounts(tuple(found), policy, view)


def allowed_mounts(wanted: Tuple[Mount, ...], policy: HookPolicy, view: HostView) -> Tuple[Mount, ...]:
    """The mounts that a workflow asks for, as `volumes:` or in `options:`, judged. Raises Refused naming path and policy."""
    return tuple(_allowed(one, policy, view) for one in wanted)


def _allowed(one: Mount, policy: HookPolicy, view: HostView) -> Mount:
    if one.kind == VOLUME:
        if not is_name(one.source):
            raise InputError("%r is neither a path nor the name of a volume" % one.source, remedy="a path begins with /")
        return replace(one, source=volume_name(one.source, policy, view.job))
    if one.kind != BIND:
        return one
    real = view.real(one.source)
    if real.endswith("/docker.sock"):
        raise Refused(
            "there is no Docker on this runner whose socket %s could be" % one.source,
            remedy="leave the volume out; containers come by `container:`, `services:` and `uses: docker://…`",
        )
    right = path_right(policy, real, {path: view.real(path) for path in policy_paths(policy)})
    own = view.real(view.work) if view.work else ""
    if own and (real == own or real.startswith(own + "/")):
        right = "rw"
    if not right:
        leads = "" if real == one.source.rstrip("/") else " (it leads to %s)" % real
        raise Refused(
            "the path %s%s is not allowed in a container on this runner" % (one.source, leads),
            cause="this site's policy allows: %s, and the runner's work directory" % (", ".join(policy.host_paths) or "no host paths"),
            remedy="use a directory of these, or ask the administrators of the runner (policy key `host_paths`)",
        )
    if not view.exists(real) and (right == "ro" or not one.create):
        raise InputError("cannot bind %s on %s: it does not exist" % (one.source, one.target), remedy="create it, or correct the path")
    return replace(one, source=real, read_only=one.read_only or right == "ro")


def volume_name(name: str, policy: HookPolicy, job: str) -> str:
    """The name under which a job's named volume is kept: the job's own, gone with it, or the runner's where the site wants that."""
    return "runner.%s" % name if policy.volumes == PER_RUNNER else "%s%s" % (volume_prefix(job), name)


def volume_prefix(job: str) -> str:
    """How the names of a job's own volumes begin."""
    return "job-%s." % job[:16]


def image_path_reason(path: str, policy: HookPolicy, view: HostView) -> Optional[str]:
    """Why a job may not use an image that lies at a path of the host, or None."""
    real = view.real(path)
    own = view.real(view.work) if view.work else ""
    if (own and real.startswith(own + "/")) or path_right(policy, real, {one: view.real(one) for one in policy_paths(policy)}):
        return None
    return "this site's policy allows images below: %s" % (", ".join(policy_paths(policy)) or "no host paths")


def _once(mounts: List[Mount]) -> Tuple[Mount, ...]:
    """Each target once; the runner may name one twice with the same source."""
    found: Dict[str, Mount] = {}
    for one in mounts:
        if one.target in found and found[one.target] != one:
            raise InputError("the runner asks for two mounts on %s" % one.target)
        found[one.target] = one
    return tuple(found.values())
