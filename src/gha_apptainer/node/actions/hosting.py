"""A machine that can run containers, or an error that says what is missing; on request Apptainer is installed for this user."""

from __future__ import annotations

import os
import sys

from gha_apptainer.domain.containers import Env
from gha_apptainer.domain.errors import GhaError, HostUnfit
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import host, process
from gha_apptainer.node.report import Report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

INSTALL_LIMIT = 900.0
_HOSTED = "github-hosted"
_APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
_PASSED = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "XDG_CACHE_HOME", "GHA_APPTAINER", "SSL_CERT_FILE", "SSL_CERT_DIR")


def fit_host(settings: NodeSettings, environ: Mapping[str, str], report: Report, *, change: bool) -> HostFacts:
    """The machine's facts, after what `change` allows was done: no network and no change unless something is missing.

    Raises HostUnfit with the remedy.
    """
    facts = host.probe(settings, environ)
    hosted = environ.get("RUNNER_ENVIRONMENT") == _HOSTED
    if facts.userns_reason and change and hosted and os.path.exists("/proc/sys/" + _APPARMOR.replace(".", "/")):
        report.line("this is a machine for one job: allowing user namespaces (sudo sysctl %s=0)" % _APPARMOR)
        try:
            process.run(("sudo", "-n", "sysctl", "-w", _APPARMOR + "=0"), timeout=30).check()
        except GhaError as error:
            report.line("that failed: " + error.what)
        facts = host.probe(settings, environ)
    if facts.userns_reason:
        raise HostUnfit("containers cannot be started here: " + facts.userns_reason, remedy="gha-apptainer doctor names every finding")
    if facts.apptainer:
        return facts
    if not change:
        raise HostUnfit(
            "no Apptainer works here: %s" % facts.apptainer_reason, remedy="install Apptainer, set GHA_APPTAINER to one, or use setup: auto"
        )
    report.line("no Apptainer works here (%s), installing one for this user" % facts.apptainer_reason)
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    argv = (sys.executable, "-I", "-S", source, "provision", *(("--change-system",) if hosted else ()))
    process.run(argv, env=_environment(environ), timeout=INSTALL_LIMIT, stderr_to=2).check()
    facts = host.probe(settings, environ)
    if not facts.apptainer:
        raise HostUnfit("Apptainer was installed and does not work: %s" % facts.apptainer_reason, remedy="gha-apptainer doctor")
    return facts


def _environment(environ: Mapping[str, str]) -> Env:
    """What an installer needs, and none of the step's own variables."""
    return tuple((name, value) for name, value in environ.items() if name in _PASSED or name.lower().endswith("_proxy"))
