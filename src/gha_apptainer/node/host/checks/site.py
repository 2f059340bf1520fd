"""What a site offers beyond the machine: CVMFS, GPUs, proxies, settings."""

from __future__ import annotations

import os
from typing import Callable, List

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node.host import trying
from gha_apptainer.node.host.checks.answering import Patient, Said, fail, ok, skip, warn
from gha_apptainer.node.host.surroundings import SITE_SETTINGS, load_settings

_LIMIT = 2.5
_REPOSITORY = "/cvmfs/cvmfs-config.cern.ch"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def settings(patient: Patient) -> Said:
    """The site's settings are read."""
    named = patient.environ.get("GHA_APPTAINER_SETTINGS", "")
    try:
        load_settings(patient.environ)
    except GhaError as error:
        return fail(" ".join(error.lines()), "correct the file, or write it anew with: gha-apptainer config compile")
    if named or os.path.exists(SITE_SETTINGS):
        return ok("settings from %s" % (named or SITE_SETTINGS))
    return ok("no settings of a site (%s); our defaults" % SITE_SETTINGS)


def cvmfs(patient: Patient) -> Said:
    """The directories with unpacked images, and the configuration repository, are read with a time limit: a look wakes autofs."""
    if not patient.facts.cvmfs:
        return skip("there is no /cvmfs here")
    repositories = sorted({"/".join(path.split("/")[:3]) for path in patient.settings.cvmfs_images} | {_REPOSITORY})
    works = [_reader(path) for path in repositories]
    bad: List[str] = []
    good: List[str] = []
    for path, answer in zip(repositories, trying.answers(works, _LIMIT)):
        if answer.reason:
            bad.append("%s: %s" % (path, answer.reason))
        else:
            good.append("%s%s" % (path, " (revision %s)" % answer.text if answer.text else ""))
    if not good:
        return warn(
            "CVMFS serves none of what was asked: %s" % "; ".join(bad), "have the repositories configured, or name aliases in the settings"
        )
    if bad:
        return warn(
            "CVMFS serves %s, but not %s" % (", ".join(good), "; ".join(bad)), "steps that need these repositories will fail by name"
        )
    return ok("CVMFS serves %s" % ", ".join(good))


def _reader(path: str) -> Callable[[], str]:
    """Work that lists a repository and gives its revision, as far as the file system tells it (an attribute of the cvmfs client)."""

    def read() -> str:
        os.listdir(path)
        try:
            return os.getxattr(path, "user.revision").decode("ascii", "replace")
        except OSError:
            return ""

    return read


def nvidia(patient: Patient) -> Said:
    """Looks for an NVIDIA device, opens it, and looks for the driver's library."""
    reason = patient.facts.nvidia_reason
    if reason.startswith("no "):
        return skip(reason)
    if reason:
        return warn(reason, "install the driver's user libraries, and run ldconfig; `gpu: nvidia` is refused until then")
    devices = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit())
    closed = [name for name in devices if not os.access("/dev/" + name, os.R_OK | os.W_OK)]
    visible = patient.environ.get("CUDA_VISIBLE_DEVICES")
    text = "%d NVIDIA GPUs%s" % (len(devices), "" if visible is None else ", of which the allocation shows %s" % (visible or "none"))
    if devices and len(closed) == len(devices):
        return warn(text + "; none may be opened", "ask the batch system for a GPU: it opens the devices of the allocation")
    return ok(text)


def rocm(patient: Patient) -> Said:
    """Looks for an AMD device and whether it may be opened."""
    if patient.facts.rocm_reason:
        return skip(patient.facts.rocm_reason)
    if not os.access("/dev/kfd", os.R_OK | os.W_OK):
        return warn("/dev/kfd may not be opened", "ask the batch system for a GPU, or for membership in the groups video and render")
    return ok("an AMD GPU may be used")


def proxies(patient: Patient) -> Said:
    """Names the proxy variables that are set, never their values, which may hold a password."""
    found = [name for name in _PROXIES if patient.environ.get(name)]
    return ok("proxies from %s" % ", ".join(found) if found else "no proxy is set")
