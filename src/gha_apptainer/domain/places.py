"""Where things of ours lie that are made once and kept."""

from __future__ import annotations

import os.path

from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

PRIVATE_APPTAINER = "apptainer-1"
"""Name of the private installation; the number changes when the way it is made does."""


def cache_directory(environ: Mapping[str, str]) -> str:
    """The user's cache directory of ours, by https://specifications.freedesktop.org/basedir-spec/; empty if neither variable helps."""
    chosen = environ.get("XDG_CACHE_HOME", "")
    if not chosen.startswith("/"):  # relative paths are to be ignored, says the specification
        home = environ.get("HOME", "")
        chosen = home.rstrip("/") + "/.cache" if home.startswith("/") else ""
    return chosen.rstrip("/") + "/gha-apptainer" if chosen else ""


def private_apptainer(environ: Mapping[str, str], machine: str) -> str:
    """Where the private Apptainer for `machine` (as `uname -m` says) is, or would be; empty without a cache directory.

    The machine is part of the name because a home is often shared by machines of several kinds.
    """
    cache = cache_directory(environ)
    return "%s/%s-%s/bin/apptainer" % (cache, PRIVATE_APPTAINER, machine) if cache else ""


def store_path(settings: NodeSettings, host: HostFacts) -> str:
    """Where images are kept: the site's setting, else the user's node-local state directory."""
    return settings.store or os.path.join(host.state_dir, "store")
