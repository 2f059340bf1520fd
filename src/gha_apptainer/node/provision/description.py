"""Looks at the host once and describes it for the plan."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Mapping

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.places import cache_directory
from gha_apptainer.node.process import BASE_PATH, run
from gha_apptainer.node.provision.debian import host_sources
from gha_apptainer.node.provision.plans import ASKED, HostDescription

_SUDO_S = 5.0


def ways() -> Mapping[str, Any]:
    """provision.json: what comes from where."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "provision.json"), encoding="utf-8") as handle:
        found: Dict[str, Any] = json.load(handle)
    return found


def os_release(text: str) -> Mapping[str, str]:
    """The names and values of os-release(5); shell quoting beyond a pair of quotes does not occur in the fields that we read."""
    found = {}
    for line in text.splitlines():
        name, mark, value = line.strip().partition("=")
        if mark and not name.startswith("#"):
            found[name] = value[1:-1] if value[:1] in ("'", '"') and value[-1:] == value[:1] else value
    return found


def describe(environ: Mapping[str, str]) -> HostDescription:
    """This host, as it is now."""
    release = os_release(_os_release_text())
    commands = tuple(name for name in ASKED if any(os.access(os.path.join(one, name), os.X_OK) for one in BASE_PATH.split(":")))
    return HostDescription(
        os_ids=(release.get("ID", "linux"), *release.get("ID_LIKE", "").split()),
        version=release.get("VERSION_ID", ""),
        pretty=release.get("PRETTY_NAME", "this Linux"),
        machine=os.uname().machine,
        uid=os.geteuid(),
        sudo="sudo" in commands and _sudo_works(),
        commands=commands,
        archives=tuple(dict.fromkeys(source.origin for source in host_sources(environ))),
        cache=cache_directory(environ),
    )


def _os_release_text() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as handle:
                return handle.read()
        except OSError:
            continue
    return ""


def _sudo_works() -> bool:
    try:
        return run(("sudo", "-n", "true"), timeout=_SUDO_S).code == 0
    except GhaError:
        return False
