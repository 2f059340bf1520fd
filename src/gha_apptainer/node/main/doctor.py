"""`gha-apptainer doctor`: every check with status, finding and remedy, and what an administrator needs to know."""

from __future__ import annotations

import json
import os
import time
from typing import List, Mapping, Optional, Sequence, Tuple

from gha_apptainer.domain.documents import plain
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.findings import FAIL, OK, SKIP, WARN, Finding, worst
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files, host
from gha_apptainer.node.host.checks.answering import Patient
from gha_apptainer.node.host.checks.catalogue import CATALOGUE, Check, examine
from gha_apptainer.node.host.surroundings import read_text
from gha_apptainer.node.main import environment, tell
from gha_apptainer.node.main.parsing import Parser

REPORT_VERSION = 1
"""Version of the document that `doctor --json` prints."""
_MARKS = {OK: "ok  ", WARN: "WARN", FAIL: "FAIL", SKIP: "skip"}


def main(argv: Sequence[str]) -> int:
    """Examine this machine; 1 if a check failed, else 0."""
    parser = Parser("gha-apptainer doctor", "gha-apptainer doctor --json", __doc__ or "")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    asked = parser.read(argv)
    if asked is None:
        return 0
    before = time.monotonic()
    facts, findings = diagnose(environment())
    took = time.monotonic() - before
    tell(json.dumps(report(facts, findings, took), indent=2) if asked.json else "\n".join(rendered(facts, findings, took)))
    return 1 if worst(findings) == FAIL else 0


def diagnose(environ: Mapping[str, str], checks: Sequence[Check] = CATALOGUE) -> Tuple[Optional[HostFacts], List[Finding]]:
    """What is known of this machine, and one finding per check. Nothing is raised: what cannot be examined is a finding too."""
    early: List[Finding] = []
    settings = NodeSettings()
    try:
        settings = host.load_settings(environ)
    except GhaError:
        pass  # the check `settings` says it, with the reason
    scratch = ""
    try:
        try:
            facts = host.probe(settings, environ)
            scratch = _scratch(facts.state_dir)
        except (GhaError, OSError) as error:
            early.append(_unusable_state(error))
            scratch = _scratch("/tmp")
            facts = host.probe(settings, {**environ, "GHA_APPTAINER_STATE": scratch})
            checks = [one for one in checks if one.id != "state"]
        return facts, early + examine(Patient(facts, settings, environ, scratch), checks)
    except (GhaError, OSError) as error:
        said = "this machine cannot be examined: %s" % error
        return None, [
            *early,
            Finding("examination", FAIL, said, "make /tmp writable, or set GHA_APPTAINER_STATE to a directory of your own"),
        ]
    finally:
        if scratch:
            files.remove_tree(scratch)


def _scratch(parent: str) -> str:
    path = os.path.join(parent, "gha-doctor-%d-%s" % (os.getpid(), os.urandom(4).hex()))
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)
    return path


def _unusable_state(error: Exception) -> Finding:
    if isinstance(error, GhaError):
        return Finding("state", FAIL, error.what + (": " + error.cause if error.cause else ""), error.remedy)
    return Finding("state", FAIL, "the state directory cannot be used: %s" % error, "set GHA_APPTAINER_STATE to a directory of your own")


def report(facts: Optional[HostFacts], findings: Sequence[Finding], took: float) -> Mapping[str, object]:
    """The document of `--json`; `seconds` is how long the examination took."""
    return {
        "version": REPORT_VERSION,
        "status": worst(findings),
        "seconds": round(took, 3),
        "machine": _machine(facts),
        "facts": plain(facts) if facts else None,
        "findings": [plain(one) for one in findings],
        "for_administrators": list(for_administrators(facts, findings)),
    }


def rendered(facts: Optional[HostFacts], findings: Sequence[Finding], took: float) -> List[str]:
    """The report as lines for a person."""
    width = max(len(one.id) for one in findings)
    lines = [_machine(facts)]
    for one in findings:
        lines.append("%s  %s  %s" % (_MARKS[one.status], one.id.ljust(width), one.finding))
        if one.remedy:
            lines.append("%s  remedy: %s" % (" " * (width + 6), one.remedy))
    count = {status: sum(one.status == status for one in findings) for status in _MARKS}
    summary = "%d checks in %.1f s: %d ok, %d warnings, %d failed, %d not applicable"
    lines.append(summary % (len(findings), took, count[OK], count[WARN], count[FAIL], count[SKIP]))
    block = for_administrators(facts, findings)
    return [*lines, "", *block] if block else lines


def for_administrators(facts: Optional[HostFacts], findings: Sequence[Finding]) -> Tuple[str, ...]:
    """What to send to the site's administrators where something failed, without names of users; else empty."""
    bad = [one for one in findings if one.status == FAIL]
    if not bad:
        return ()
    lines = [
        "What to send to the administrators of this machine:",
        "---",
        "Containers (Apptainer, without root) cannot run on " + _machine(facts) + ".",
    ]
    lines += ["- %s: %s" % (one.id, one.finding) for one in bad]
    for path in (
        "/proc/sys/user/max_user_namespaces",
        "/proc/sys/kernel/unprivileged_userns_clone",
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    ):
        value = read_text(path).strip()
        lines.append("  %s = %s" % (path[len("/proc/sys/") :].replace("/", "."), value or "not there"))
    return (*lines, "Apptainer's own guide: https://apptainer.org/docs/admin/main/user_namespace.html", "---")


def _machine(facts: Optional[HostFacts]) -> str:
    system = os.uname()
    pretty = [line.partition("=")[2].strip("\"'") for line in read_text("/etc/os-release").splitlines() if line.startswith("PRETTY_NAME=")]
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    one = facts is not None and facts.uid == 0 and sum(part.count for part in facts.uid_ranges) == 1
    return "%s, Linux %s on %s, as %s%s" % (
        pretty[0] if pretty else "an unnamed system",
        system.release,
        system.machine,
        who,
        " of a namespace with one id" if one else "",
    )
