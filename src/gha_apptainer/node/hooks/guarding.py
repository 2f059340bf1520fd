"""Mounts of what a job can write, against a job that changes it while it is mounted.

A container step binds directories of the runner's in which the job's own processes may be at work. Between our look at a path and
Apptainer's bind of it, one of them could put a link in its place. So the directories are opened before, without following any link, and
when the container is up, and before anything of its image runs, what lies at the targets inside must be just these.
"""

from __future__ import annotations

import os
from typing import Dict, Tuple

from gha_apptainer.domain.containers import BIND, Mount
from gha_apptainer.domain.errors import Refused
from gha_apptainer.node.engine.flat import JoinRecord
from gha_apptainer.node.hooks import looking

Identity = Tuple[int, int]


def identities(mounts: Tuple[Mount, ...], work: str) -> Dict[str, Identity]:
    """By target, device and inode of every bind's source below the work directory, walked without following links; missing ones are made.

    Raises Refused where a link lies on the way.
    """
    found: Dict[str, Identity] = {}
    for one in mounts:
        if one.kind == BIND and work and (one.source == work or one.source.startswith(work + "/")):
            found[one.target] = _walk(work, one.source)
    return found


def _walk(work: str, source: str) -> Identity:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(work, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in [one for one in source[len(work) :].split("/") if one]:
            try:
                below = os.open(part, flags, dir_fd=here)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=here)
                below = os.open(part, flags, dir_fd=here)
            os.close(here)
            here = below
            if os.fstat(here).st_mode & 0o170000 == 0o120000:
                raise _replaced(source)
        status = os.fstat(here)
        return status.st_dev, status.st_ino
    except NotADirectoryError as error:
        raise _replaced(source) from error
    finally:
        os.close(here)


def check(record: JoinRecord, wanted: Dict[str, Identity]) -> None:
    """Raises Refused where something else was mounted in a running container than what was looked at."""
    there = looking.places(record, list(wanted))
    for target, identity in wanted.items():
        if there.get(target) != identity:
            raise _replaced(target)


def _replaced(path: str) -> Refused:
    return Refused(
        "%s does not lie where the runner put it: a link leads elsewhere" % path,
        cause="a step of this job or of an earlier one has replaced a directory of the runner's",
        remedy="nothing outside of the runner's work directory is given to a container this way",
    )
