"""`hooks install`: write the shims, say what the runner needs to know of them."""

from __future__ import annotations

import os
import sys
from typing import Dict, List, Mapping, Tuple

from gha_apptainer.domain.errors import GhaError, InputError
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import files
from gha_apptainer.node.hooks import shims
from gha_apptainer.node.hooks.surroundings import read_policy

FORBIDDEN = " \t\n\"'"
"""The runner puts the path of a hook unquoted into a command line."""


@dataclass(frozen=True)
class Installed:
    """What was written, the lines for the runner's environment, and what a person should know."""

    javascript: str
    shell: str
    environment: Tuple[str, ...]
    notes: Tuple[str, ...]


def install(directory: str, policy: str, environ: Mapping[str, str], apptainer: str) -> Installed:
    """Write both shims into `directory`. `apptainer` is the program that was found here, which hooks are to use.

    Raises InputError for a directory that the runner cannot use or a policy that cannot be read.
    """
    directory = os.path.abspath(directory)
    if any(mark in directory for mark in FORBIDDEN):
        raise InputError(
            "%r: the runner cannot start hooks from a path with spaces or quotes" % directory, remedy="choose another directory"
        )
    if policy:
        policy = os.path.abspath(policy)
        read_policy(policy)
    found: Dict[str, str] = {name: environ[name] for name in ("GHA_APPTAINER_STATE", "GHA_APPTAINER_SETTINGS") if environ.get(name)}
    if apptainer:
        found["GHA_APPTAINER"] = apptainer
    settings = shims.Settings(interpreter(), source(), policy, found)
    try:
        os.makedirs(directory, exist_ok=True)
        paths = []
        for name, text in ((shims.JS, shims.javascript(settings)), (shims.SH, shims.shell(settings))):
            paths.append(os.path.join(directory, name))
            files.write_whole(paths[-1], files.encode(text), mode=0o644)
    except OSError as error:
        raise InputError(
            "cannot write into %s: %s" % (directory, error.strerror), remedy="choose a directory that you may write"
        ) from error
    lines = ("ACTIONS_RUNNER_CONTAINER_HOOKS=%s" % paths[0], "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER=true")
    return Installed(paths[0], paths[1], lines, tuple(_notes(paths)))


def interpreter() -> str:
    """The Python that runs this, by its own name: not a virtual environment's, which lies where its owner can change it."""
    found = os.path.realpath(sys.executable) if sys.executable else ""
    if not found:
        raise GhaError("the path of this Python is not known")
    return found


def source() -> str:
    """The directory that holds our package."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def _notes(paths: List[str]) -> List[str]:
    return [
        "put the lines into the runner's environment (its `.env` file, or its service) and start it again",
        "%s is faster by node's own start, and only for runners whose repositories are all trusted: "
        "a step can put its own `bash` before the runner's" % paths[1],
        "the second line makes every job name a container; leave it out only where host steps are wanted (see `hooks check`)",
        "no wrapper may stand between the runner and these files: containers end when the process that called the hooks does",
    ]
