"""version: ours, Python's, Apptainer's."""

from __future__ import annotations

import json
import platform
from typing import Sequence

from gha_apptainer import __version__
from gha_apptainer.domain.errors import InputError
from gha_apptainer.node.main import environment, tell

DOCUMENT = 1
"""Version of the document that `version --json` prints."""


def main(argv: Sequence[str]) -> int:
    """Print the versions that a report of a fault needs."""
    words = tuple(argv)
    if words not in ((), ("--json",), ("--help",)):
        raise InputError("version: unknown argument %s" % words[0], remedy="gha-apptainer version [--json]")
    if words == ("--help",):
        tell("Example: gha-apptainer version --json\n\nUsage: gha-apptainer version [--json]\n\nPrint versions.")
        return 0
    found = {"gha-apptainer": __version__, "python": platform.python_version(), "kernel": platform.release(), "apptainer": _apptainer()}
    if words:
        tell(json.dumps({"version": DOCUMENT, "versions": found}, indent=2))
    else:
        for name, text in found.items():
            tell("%s %s" % (name, text or "not found"))
    return 0


def _apptainer() -> str:
    from gha_apptainer.node import host

    environ = environment()
    return host.probe(host.load_settings(environ), environ).apptainer_version
