"""`action`: the door that action.yml calls, `python3 -I -S src action`."""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import InputError
from gha_apptainer.node.actions.container import ContainerStep
from gha_apptainer.node.actions.surroundings import environment
from gha_apptainer.node.report import for_github

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence


def main(argv: Sequence[str]) -> int:
    """Run the container action on the environment of this process; the step's exit code."""
    if tuple(argv) not in ((), ("container",)):
        raise InputError("action: unknown argument %s" % argv[0], remedy="the action takes its inputs from the environment")
    environ = environment()
    os.umask(0o022)
    return ContainerStep(environ, for_github(environ)).run()
