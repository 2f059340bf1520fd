"""Where our state lies, and the site's settings."""

from __future__ import annotations

import os

from gha_apptainer.domain.documents import from_json
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.settings import ROUTES, NodeSettings
from gha_apptainer.node import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

SITE_SETTINGS = "/etc/gha-apptainer/node.json"


def state_dir(environ: Mapping[str, str]) -> str:
    """The private directory of all records of this user on this host, made if missing: GHA_APPTAINER_STATE, else /tmp/gha-apptainer-UID.

    Raises Untrusted where it is not ours alone, InputError where GHA_APPTAINER_STATE is no absolute path.
    """
    named = environ.get("GHA_APPTAINER_STATE", "")
    if named and not named.startswith("/"):
        raise InputError("GHA_APPTAINER_STATE is %r" % named, remedy="name an absolute path on a disk of this machine")
    return files.private_directory(named or "/tmp/gha-apptainer-%d" % os.geteuid())


def read_text(path: str) -> str:
    """A small file of the kernel's, empty where it is missing or closed to us."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as handle:
            return handle.read(1 << 20)
    except OSError:
        return ""


def load_settings(environ: Mapping[str, str]) -> NodeSettings:
    """The file that GHA_APPTAINER_SETTINGS names (it must be there), else the site's, else our defaults. Raises Untrusted or InputError."""
    named = environ.get("GHA_APPTAINER_SETTINGS", "")
    path = named or SITE_SETTINGS
    try:
        text = files.decode(files.read_whole(path, limit=8 << 20))
    except OSError as error:
        if not named and isinstance(error, FileNotFoundError):
            return NodeSettings()
        raise InputError(
            "cannot read the settings %s: %s" % (path, error.strerror),
            remedy="GHA_APPTAINER_SETTINGS must name a file that `gha-apptainer config compile` wrote",
        ) from error
    settings = from_json(NodeSettings, text)
    unknown = [route for route in settings.routes if route not in ROUTES]
    if unknown:
        raise InputError("%s: unknown image route %s" % (path, ", ".join(unknown)), remedy="known routes: " + ", ".join(ROUTES))
    return settings
