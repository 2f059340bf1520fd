"""What a site lets the jobs of a runner have: one document, written in YAML by a person, compiled to JSON, read at every job.

Without a file the defaults hold: of the host a job sees its own work directory and, read-only, CVMFS; nothing else.
"""

from __future__ import annotations

from typing import ClassVar, Mapping, Optional, Tuple

from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.image_refs import PATH, ImageRef
from gha_apptainer.domain.images import PULL_IF_NOT_PRESENT, PULL_POLICIES
from gha_apptainer.domain.values import dataclass, field

REFUSE, IGNORE = "refuse", "ignore"
PER_JOB, PER_RUNNER = "job", "runner"
GITHUB_HOME, IMAGE_HOME = "github", "image"
ACKNOWLEDGED = "acknowledged"
NETWORKS = ("host", "none", "private")
_READ_ONLY = ":ro"


@dataclass(frozen=True)
class HookPolicy:
    """A site's word on what jobs may ask for.

    `host_paths`: directories of the host that `volumes:` may name, each with what lies below; `PATH:ro` only for reading. `devices`:
    device nodes that `--device` may name, as patterns. `privileged`: whether --privileged, --cap-add and --security-opt are refused or
    ignored with a warning. `networks`: which of host, none and private a job may have, the first being the one that it gets
    unasked. `images`: patterns of canonical image names; empty allows all. `volumes`: named volumes belong to the job, or to the
    runner and stay. `home`: HOME is the runner's (/github/home) or the image's. `host_env`: variables of the runner's environment that
    steps get. `logins`: a file of registry logins (docker's config.json form) for images that come without one. `pull`: when
    registries are asked. `nodes`: directories with nodeNN trees for images that the runner's own do not fit, by `musl` or by the oldest
    glibc that they need (`glibc-2.17`). `host_steps` is `acknowledged` where jobs without a container may run on the runner and
    the site knows that they can change what the runner's user can write, these hooks included.
    """

    DOCUMENT_VERSION: ClassVar[int] = 1
    version: int = 1
    host_paths: Tuple[str, ...] = ("/cvmfs:ro",)
    devices: Tuple[str, ...] = ()
    privileged: str = REFUSE
    networks: Tuple[str, ...] = NETWORKS
    images: Tuple[str, ...] = ()
    volumes: str = PER_JOB
    home: str = GITHUB_HOME
    host_env: Tuple[str, ...] = ()
    logins: str = ""
    pull: str = PULL_IF_NOT_PRESENT
    nodes: Mapping[str, str] = field(default_factory=dict)
    host_steps: str = ""


def check_policy(policy: HookPolicy, name: str) -> HookPolicy:
    """The policy itself; InputError for values that no field may have."""
    for key, value, accepted in (
        ("privileged", policy.privileged, (REFUSE, IGNORE)),
        ("volumes", policy.volumes, (PER_JOB, PER_RUNNER)),
        ("home", policy.home, (GITHUB_HOME, IMAGE_HOME)),
        ("pull", policy.pull, PULL_POLICIES),
        ("host_steps", policy.host_steps, ("", ACKNOWLEDGED)),
    ):
        if value not in accepted:
            raise InputError("%s: %s is %r" % (name, key, value), remedy="accepted: " + ", ".join(one for one in accepted if one))
    wrong = [one for one in policy.networks if one not in NETWORKS]
    if wrong or not policy.networks:
        raise InputError("%s: networks: %s" % (name, ", ".join(map(repr, wrong)) or "none"), remedy="one or more of " + ", ".join(NETWORKS))
    for key, paths in (("host_paths", policy.host_paths), ("devices", policy.devices), ("nodes", tuple(policy.nodes.values()))):
        for path in paths:
            if not path.startswith("/"):
                raise InputError("%s: %s: %r is no absolute path" % (name, key, path))
    for libc in policy.nodes:
        if libc != "musl" and glibc_version(libc) is None:
            raise InputError(
                "%s: nodes: %r is no C library" % (name, libc), remedy="write musl, or glibc-2.17 for trees that need that or newer"
            )
    return policy


def glibc_version(text: str) -> Optional[Tuple[int, int]]:
    """The version in `glibc-2.17`, None for anything else."""
    name, _, version = text.partition("-")
    major, _, minor = version.partition(".")
    if name != "glibc" or not (major.isdigit() and minor.isdigit() and version.isascii()):
        return None
    return int(major), int(minor)


def path_right(policy: HookPolicy, real: str, resolve: Mapping[str, str]) -> str:
    """What a job may do with a host path: `rw`, `ro`, or empty for nothing.

    `real` is the path without links; `resolve` gives the same for each directory of the policy.
    """
    best, right = -1, ""
    for entry in policy.host_paths:
        path, read_only = (entry[: -len(_READ_ONLY)], True) if entry.endswith(_READ_ONLY) else (entry, False)
        top = resolve.get(path, path).rstrip("/")
        if (real == top or real.startswith(top + "/")) and len(top) > best:
            best, right = len(top), "ro" if read_only else "rw"
    return right


def policy_paths(policy: HookPolicy) -> Tuple[str, ...]:
    """The directories of `host_paths`, without their rights."""
    return tuple(one[: -len(_READ_ONLY)] if one.endswith(_READ_ONLY) else one for one in policy.host_paths)


def check_image(policy: HookPolicy, ref: ImageRef) -> None:
    """Refuse an image that is not on the site's list. Paths are judged as mounts are, by who calls."""
    if not policy.images or ref.transport == PATH:
        return
    from fnmatch import fnmatchcase

    name = ref.name
    spelled = name + (":" + ref.tag if ref.tag else "") + ("@" + ref.digest if ref.digest else "")
    if not any(fnmatchcase(name, one) or fnmatchcase(spelled, one) for one in policy.images):
        raise Refused(
            "the image %s is not allowed on this runner" % spelled,
            cause="this site's policy allows: " + ", ".join(policy.images),
            remedy="use one of these, or ask the administrators of the runner",
        )


def check_device(policy: HookPolicy, path: str) -> None:
    """Refuse a device node that is not on the site's list."""
    from fnmatch import fnmatchcase

    if not any(fnmatchcase(path, one) for one in policy.devices):
        raise Refused(
            "--device %s is not allowed on this runner" % path,
            cause="this site's policy allows: %s" % (", ".join(policy.devices) or "no device nodes"),
            remedy="for GPUs use --gpus; otherwise ask the administrators of the runner (policy key `devices`)",
        )


def rights(policy: HookPolicy, flag: str, value: str) -> str:
    """The warning for an option that asks for rights, where the site ignores such; raises Refused where it does not."""
    shown = flag + ("=" + value if value else "")
    if policy.privileged == IGNORE:
        return "%s is ignored: a container never has more rights than the runner's user" % shown
    raise Refused(
        "%s is not allowed on this runner" % shown,
        cause="a container never has more rights than the user who runs it",
        remedy="leave it out; a site can have it ignored (policy key `privileged: ignore`)",
    )
