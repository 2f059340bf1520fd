"""The console script `gha-apptainer`: it hands the node side's verbs over and keeps what needs more than the standard library.

Rule: one command a module, one row in `COMMANDS`; a command parses, calls, prints. click is imported only for these rows, because its
start-up time would be every step's.
"""

import sys
from collections.abc import Sequence

from gha_apptainer.node import main as node

COMMANDS = {
    # command: module, name of the click command in it, one line for --help
    "workflow": ("gha_apptainer.cli.workflow", "workflow", "run a GitHub workflow on this machine, without Docker"),
    "explain": ("gha_apptainer.cli.explain", "explain", "print what the container steps of a workflow would do"),
    "models": ("gha_apptainer.cli.models", "models", "compile trained models to shared objects, and check them"),
    "config": ("gha_apptainer.cli.config", "config", "check and compile a site's settings, show those in force"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give the exit code."""
    words = tuple(sys.argv[1:] if argv is None else argv)
    asked = words[1] if words[:1] == ("help",) and len(words) > 1 else ""
    if asked in COMMANDS:
        words = (asked, "--help")
    if not words or words[0] not in COMMANDS:
        return node.main(words, tuple((name, row[2]) for name, row in COMMANDS.items()))
    from gha_apptainer.cli.clicking import run

    return run(words)
