"""The part of a job's record that a step needs, as flat text: NUL-separated, read without a parser. Imports only os.

`scope` ties a record to the job that it was made for: what the runner, and no step, puts into a hook's environment.
"""

from __future__ import annotations

import os

VERSION = b"gha-apptainer job 1"
_FIELDS = ("container", "image", "scope", "node", "cpus", "limits", "work", "helpers", "ooms")
SCOPE = ("RUNNER_TRACKING_ID", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB", "RUNNER_NAME", "GITHUB_WORKSPACE")
"""Variables of a hook's environment that are the same for every call of one job, and differ between jobs."""
_LIMIT = 1 << 16


class FlatJob:
    """What a step needs of its job.

    `container` is the job container's id (empty: the job has services only), `image` its reference for messages. `node` says why the
    runner's own node cannot run in it, or is empty. `cpus` are processors as "0,2", `limits` hard limits as "NUMBER=VALUE,…", `work` is the
    runner's work directory. `helpers` are the processes that serve the container's root, as "PID:STARTED,…". `ooms` is how many
    processes of the runner's control group the kernel had killed for memory when the job began, "-1" where that cannot be read.
    """

    __slots__ = _FIELDS

    def __init__(
        self,
        container: str,
        image: str,
        scope: str,
        node: str = "",
        cpus: str = "",
        limits: str = "",
        work: str = "",
        helpers: str = "",
        ooms: str = "-1",
    ) -> None:
        self.container, self.image, self.scope, self.node = container, image, scope, node
        self.cpus, self.limits, self.work, self.helpers, self.ooms = cpus, limits, work, helpers, ooms


def scope_of(environ: os._Environ[str] | dict[str, str]) -> str:
    """The scope of the job that a hook is called for."""
    return "\n".join("%s=%s" % (name, environ.get(name, "")) for name in SCOPE)


def encode(job: FlatJob) -> bytes:
    """The record as the bytes of its file."""
    fields = [getattr(job, name) for name in _FIELDS]
    return b"\0".join([VERSION] + [field.encode("utf-8", "surrogateescape") for field in fields])


def read(path: str) -> FlatJob:
    """The record in a private file of ours. Raises FileNotFoundError, or ValueError for anything that is not such a file."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid() or found.st_mode & 0o170077 != 0o100000 or found.st_size > _LIMIT:
            raise ValueError("not a private file of this user")
        data = os.read(handle, _LIMIT)
    finally:
        os.close(handle)
    head, *fields = data.split(b"\0")
    if head != VERSION or len(fields) != len(_FIELDS):
        raise ValueError("not a job's record of this version")
    return FlatJob(*[field.decode("utf-8", "surrogateescape") for field in fields])
