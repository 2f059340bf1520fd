"""`gha-apptainer hooks`: install the runner's container hooks, and try all four commands on this machine."""

from __future__ import annotations

import json
from typing import Sequence

from gha_apptainer.domain.documents import plain
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.findings import FAIL, worst
from gha_apptainer.node.main import environment, tell
from gha_apptainer.node.main.parsing import Parser

REPORT_VERSION = 1
"""Version of the documents that `hooks install --json` and `hooks check --json` print."""


VERBS = {
    "install": "write the two hook files into a directory, print the lines for the runner's environment",
    "check": "try all four commands with a small image on this machine, and look at who may change the hooks",
}


def main(argv: Sequence[str]) -> int:
    """One of the verbs of `hooks`."""
    words = tuple(argv)
    if not words or words[0] in ("-h", "--help"):
        tell(_help())
        return 0
    if words[0] == "install":
        return _install(words[1:])
    if words[0] == "check":
        return _check(words[1:])
    raise InputError("hooks: unknown verb %r" % words[0], remedy="gha-apptainer hooks --help")


def _help() -> str:
    lines = [
        "Example: gha-apptainer hooks install /opt/gha-apptainer/hooks",
        "",
        "Usage: gha-apptainer hooks VERB [OPTIONS] …",
        "",
        "Verbs:",
    ]
    return "\n".join([*lines, *("  %-8s %s" % (name, text) for name, text in VERBS.items())])


def _install(argv: Sequence[str]) -> int:
    parser = Parser("gha-apptainer hooks install", "gha-apptainer hooks install /opt/gha-apptainer/hooks", VERBS["install"])
    parser.add_argument("directory", metavar="DIR", help="where the files go; no spaces in its path")
    parser.add_argument("--policy", default="", metavar="FILE.json", help="the site's policy, as `config compile --policy` writes it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    from gha_apptainer.node import host
    from gha_apptainer.node.hooks.install import install

    environ = environment()
    facts = host.probe(host.load_settings(environ), environ)
    done = install(chosen.directory, chosen.policy, environ, facts.apptainer)
    if chosen.json:
        tell(json.dumps({"version": REPORT_VERSION, **plain(done)}, indent=2))
        return 0
    for line in done.environment:
        tell(line)
    from gha_apptainer.node.main import complain

    if not facts.apptainer:
        complain(("warning: no Apptainer works here yet: " + facts.apptainer_reason, "remedy: gha-apptainer doctor"))
    for note in done.notes:
        complain((note,))
    return 0


def _check(argv: Sequence[str]) -> int:
    parser = Parser("gha-apptainer hooks check", "gha-apptainer hooks check /opt/gha-apptainer/hooks", VERBS["check"])
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", default="", help="where the hooks are installed; without it they are only tried"
    )
    parser.add_argument("--image", default="", help="an image to try with, instead of a small one that is made here")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    from gha_apptainer.node.hooks.check import check

    findings = check(chosen.directory, chosen.image, environment())
    if chosen.json:
        tell(json.dumps({"version": REPORT_VERSION, "status": worst(findings), "findings": [plain(one) for one in findings]}, indent=2))
    else:
        for one in findings:
            tell("%-4s  %s  %s" % (one.status, one.id, one.finding))
            if one.remedy:
                tell("      remedy: " + one.remedy)
    return 1 if worst(findings) == FAIL else 0
