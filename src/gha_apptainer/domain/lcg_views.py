"""Software stacks on CVMFS, LCG's and Key4hep's: from a release and a platform to a view, its setup script and the image that fits.

The spellings are those of https://github.com/AIDASoft/run-lcg-view. A platform is a BINARY_TAG: machine-system-compiler-kind.
"""

from __future__ import annotations

import re

from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

RELEASES = "/cvmfs/sft.cern.ch/lcg/views"
NIGHTLIES = "/cvmfs/sft-nightlies.cern.ch/lcg/views"
IMAGE = "ghcr.io/aidasoft/%s:latest"
DEFAULT_SETUP = "setup.sh"

_PLATFORM = r"([A-Za-z0-9_]+)((?:\+[A-Za-z0-9_]+)*)-([A-Za-z0-9]+)-([A-Za-z0-9]+)-([A-Za-z0-9+]+)"
_RELEASE = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(?:/[A-Za-z0-9_.+-]+)*"
_EXAMPLE = "for example release-platform: LCG_106/x86_64-el9-gcc13-opt"


@dataclass(frozen=True)
class View:
    """A view: its directory, the setup script's path, and the image of its operating system ("" where the view does not say)."""

    path: str
    setup: str
    image: str

    @property
    def repository(self) -> str:
        """The CVMFS repository that holds it; "" where it lies elsewhere."""
        return repository_of(self.path)


def repository_of(path: str) -> str:
    """The CVMFS repository in a path below /cvmfs, else ""."""
    parts = path.split("/")
    return parts[2] if len(parts) > 2 and parts[:2] == ["", "cvmfs"] else ""


def view(
    *, release_platform: str = "", release: str = "", platform: str = "", view_path: str = "", setup_script: str = "", machine: str
) -> View:
    """The view that the inputs name; `machine` is this machine's, as `uname -m` says.

    One of three forms: `release_platform`, or `release` with `platform`, or `view_path` (with `platform` only to say the system). Raises
    InputError naming the inputs, Refused for another machine's platform.
    """
    if view_path:
        return _at_path(view_path, release_platform, release, platform, setup_script, machine)
    if release_platform:
        if release or platform:
            raise InputError(
                "inputs release-platform and %s say the same thing twice" % (" and ".join(_given(release=release, platform=platform))),
                remedy="give release-platform alone, or release and platform",
            )
        release, slash, platform = release_platform.rpartition("/")
        if not slash or not release or not platform:
            raise InputError("input release-platform: %r is no RELEASE/PLATFORM" % release_platform, remedy=_EXAMPLE)
        named = "release-platform"
    else:
        for name, other, value in (("platform", "release", platform), ("release", "platform", release)):
            if not value:
                raise InputError("input %s is missing: %s was given without it" % (name, other), remedy="give both, or " + _EXAMPLE)
        named = "platform"
    if not re.fullmatch(_RELEASE, release) or ".." in release:
        raise InputError("input %s: %r is no release" % ("release" if named == "platform" else named, release), remedy=_EXAMPLE)
    system = _system(named, platform, machine)
    if "dev" in release:
        base = "%s/%s" % (NIGHTLIES, release if "/" in release else release + "/latest")
    else:
        base = "%s/%s" % (RELEASES, release)
    path = "%s/%s" % (base, platform)
    return View(path, _setup(path, setup_script), IMAGE % system)


def _given(**values: str) -> Tuple[str, ...]:
    return tuple(name for name, value in values.items() if value)


def _at_path(path: str, release_platform: str, release: str, platform: str, setup_script: str, machine: str) -> View:
    if release_platform or release:
        raise InputError(
            "input view-path cannot be given together with %s" % ("release-platform" if release_platform else "release"),
            remedy="view-path alone names a view anywhere; the others one below /cvmfs/sft.cern.ch",
        )
    if not path.startswith("/"):
        raise InputError("input view-path: %r is no absolute path" % path, remedy="for example /cvmfs/sw.hsf.org/key4hep")
    path = path.rstrip("/")
    last = path.rpartition("/")[2]
    image = ""
    if platform:
        image = IMAGE % _system("platform", platform, machine)
    elif re.fullmatch(_PLATFORM, last):
        image = IMAGE % _system("view-path", last, machine)
    return View(path, _setup(path, setup_script), image)


def _setup(path: str, setup_script: str) -> str:
    chosen = setup_script or DEFAULT_SETUP
    return chosen if chosen.startswith("/") else "%s/%s" % (path, chosen)


def _system(named: str, platform: str, machine: str) -> str:
    """The operating system of a platform. Raises InputError, or Refused where this machine cannot run it."""
    found = re.fullmatch(_PLATFORM, platform)
    if found is None:
        raise InputError(
            "input %s: %r is no platform" % (named, platform),
            cause="a platform has four parts: machine, system, compiler, kind",
            remedy=_EXAMPLE,
        )
    wanted = re.sub(r"_v[1-4]$", "", found[1])
    if {"arm64": "aarch64"}.get(wanted, wanted) != machine:
        raise Refused(
            "input %s: %s is for %s, this machine is %s" % (named, platform, found[1], machine),
            remedy="run the job on a %s machine" % found[1],
        )
    return found[3].lower()
