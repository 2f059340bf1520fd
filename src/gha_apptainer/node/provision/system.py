"""Carries out the steps of a plan that changes the system, as the action may on a hosted runner."""

from __future__ import annotations

import os
import tempfile
from typing import Callable, Mapping, Sequence

from gha_apptainer.domain.containers import Args
from gha_apptainer.domain.errors import ImageFailed
from gha_apptainer.node import http
from gha_apptainer.node.process import BASE_PATH, run
from gha_apptainer.node.provision.plans import Step

_LIMIT_S = 900.0
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def carry_out(steps: Sequence[Step], environ: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Do the steps in order; the first that fails ends it. Raises ProcessFailed, ImageFailed or HostUnfit."""
    env = (
        ("PATH", BASE_PATH),
        ("HOME", "/"),
        ("LANG", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        *((name, environ[name]) for name in _PROXIES if name in environ),
    )
    with tempfile.TemporaryDirectory(prefix="gha-apptainer-") as work:
        os.chmod(work, 0o755)  # apt's own user reads the package there
        for step in steps:
            argv = _with_file(step, work, tell)
            if step.root and os.geteuid() != 0:
                # sudo clears the environment, so that what is needed is named again
                argv = ("sudo", "-n", "env", *("%s=%s" % row for row in env if row[0] != "HOME"), *argv)
            tell("%s: %s" % (step.says, " ".join(argv)))
            run(argv, env=env, timeout=_LIMIT_S).check()


def _with_file(step: Step, work: str, tell: Callable[[str], None]) -> Args:
    if not step.url:
        return step.argv
    path = os.path.join(work, step.url.rsplit("/", 1)[-1])
    tell("fetching %s" % step.url)
    answer = http.download(step.url, path, sha256=step.sha256, tell=tell)
    if answer.status != 200:
        raise ImageFailed("%s answers %d" % (step.url, answer.status), remedy="install Apptainer with the system's packages")
    os.chmod(path, 0o644)
    return tuple(path if word == "{file}" else word for word in step.argv)
