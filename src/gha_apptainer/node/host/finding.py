"""Where Apptainer is: the first that passes the probes, in the order that a site may rely on."""
from __future__ import annotations

import os
import re
import shutil
import stat
from dataclasses import dataclass
from typing import Iterator, Mapping, Tuple

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.places import private_apptainer
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import process
from gha_apptainer.node.host import trying

CVMFS_APPTAINER = "/cvmfs/oasis.opensciencegrid.org/mis/apptainer/bin/apptainer"
MINIMUM = (1, 3)
_LIMIT = 20.0  # seconds for one start of a candidate; the first from CVMFS is slow


@dataclass(frozen=True)
class Found:
    """An Apptainer and what was learnt of it; `reason` says why it cannot be used, empty if it can."""

    path: str
    version: str = ""
    setuid: bool = False
    reason: str = ""
    origin: str = ""


def candidates(settings: NodeSettings, environ: Mapping[str, str]) -> Iterator[Tuple[str, str]]:
    """(origin, path) of every place to look, best first; a path need not exist."""
    if environ.get("GHA_APPTAINER"):
        yield "GHA_APPTAINER", environ["GHA_APPTAINER"]
    if settings.apptainer:
        yield "the site's settings", settings.apptainer
    on_path = shutil.which("apptainer", path=environ.get("PATH", process.BASE_PATH))
    if on_path:
        yield "PATH", on_path
    yield "CVMFS", CVMFS_APPTAINER
    private = private_apptainer(environ, os.uname().machine)
    if private:
        yield "the private install", private


def find(settings: NodeSettings, environ: Mapping[str, str]) -> Found:
    """The first candidate that works, else the first that exists with its reason, else a Found without a path."""
    failed = Found("", reason="no Apptainer was found")
    for origin, path in candidates(settings, environ):
        if path.startswith("/cvmfs/") and not _answers(path):
            continue
        if not os.access(path, os.X_OK):
            if origin == "GHA_APPTAINER":
                return Found(path, reason="GHA_APPTAINER names no program: %s" % path, origin=origin)
            continue
        found = examine(path, origin)
        if not found.reason:
            return found
        failed = found if not failed.path else failed
    return failed


def _answers(path: str) -> bool:
    """Whether CVMFS serves a path in time; autofs may hang for ever."""
    return os.path.isdir("/cvmfs") and trying.attempt(lambda: os.close(os.open(path, os.O_RDONLY)), 10.0) == ""


def examine(path: str, origin: str = "") -> Found:
    """Start a candidate and judge it: version, setuid mode."""
    real = os.path.realpath(path)
    try:
        done = process.run((real, "--version"), timeout=_LIMIT).check()
    except GhaError as error:
        return Found(real, reason="%s does not start: %s" % (real, error.what), origin=origin)
    match = re.search(r"(\d+)\.(\d+)\S*", done.stdout.decode("utf-8", "replace"))
    version = match.group(0) if match else ""
    if match is None or (int(match.group(1)), int(match.group(2))) < MINIMUM:
        return Found(real, version, reason="%s is version %s, %d.%d or newer is needed" % (real, version or "unknown", *MINIMUM), origin=origin)
    return Found(real, version, _setuid(real), origin=origin)


def _setuid(path: str) -> bool:
    top = os.path.dirname(os.path.dirname(path))
    for inner in ("libexec/apptainer/bin/starter-suid", "lib/apptainer/bin/starter-suid"):
        try:
            if os.stat(os.path.join(top, inner)).st_mode & stat.S_ISUID:
                return True
        except OSError:
            continue
    return False


def helper(name: str, apptainer: str, environ: Mapping[str, str]) -> str:
    """A program that Apptainer ships or needs: beside it, in its libexec, then on PATH. Empty if it is nowhere."""
    if apptainer:
        top = os.path.dirname(os.path.dirname(apptainer))
        for folder in ("bin", "libexec/apptainer/bin", "libexec/apptainer/cni"):
            path = os.path.join(top, folder, name)
            if os.access(path, os.X_OK):
                return path
    return shutil.which(name, path=environ.get("PATH", "") + ":" + process.BASE_PATH) or ""
