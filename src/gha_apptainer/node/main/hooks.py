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


def main(argv: Sequence[str]) -> int:
    """install or check."""
    parser = Parser("gha-apptainer hooks", "gha-apptainer hooks install /opt/gha-apptainer/hooks", __doc__ or "")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_sub)
    one = commands.add_parser("install", help="write the two hook files into a directory, print the lines for the runner's environment")
    one.add_argument("directory", metavar="DIR", help="where the files go; no spaces in its path")
    one.add_argument("--policy", default="", metavar="FILE.json", help="the site's policy, as `config compile --policy` writes it")
    one.add_argument("--json", action="store_true", help="one JSON document on stdout")
    two = commands.add_parser(
        "check", help="try all four commands with a small image on this machine, and look at who may change the hooks"
    )
    two.add_argument(
        "directory", metavar="DIR", nargs="?", default="", help="where the hooks are installed; without it they are only tried"
    )
    two.add_argument("--image", default="", help="an image to try with, instead of a small one that is made here")
    two.add_argument("--json", action="store_true", help="one JSON document on stdout")
    asked = parser.read(argv)
    if asked is None:
        return 0
    if asked.command == "install":
        return _install(asked.directory, asked.policy, as_json=asked.json)
    if asked.command == "check":
        return _check(asked.directory, asked.image, as_json=asked.json)
    raise InputError("hooks: no command", remedy="gha-apptainer hooks --help")


def _sub(**words: str) -> Parser:
    return Parser(words["prog"], words["prog"] + " /opt/gha-apptainer/hooks", "")


def _install(directory: str, policy: str, *, as_json: bool) -> int:
    from gha_apptainer.node import host
    from gha_apptainer.node.hooks.install import install

    environ = environment()
    facts = host.probe(host.load_settings(environ), environ)
    done = install(directory, policy, environ, facts.apptainer)
    if as_json:
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


def _check(directory: str, image: str, *, as_json: bool) -> int:
    from gha_apptainer.node.hooks.check import check

    findings = check(directory, image, environment())
    if as_json:
        tell(json.dumps({"version": REPORT_VERSION, "status": worst(findings), "findings": [plain(one) for one in findings]}, indent=2))
    else:
        for one in findings:
            tell("%-4s  %s  %s" % (one.status, one.id, one.finding))
            if one.remedy:
                tell("      remedy: " + one.remedy)
    return 1 if worst(findings) == FAIL else 0
