"""Which containers hold an image, on any node: files in the store, renewed by the container's monitor.

    held = uses.use(image, settings, host, name)     # before the container starts; the same name again gives the same hold
    held.renew()                                     # at least every RENEW_USE seconds while the container lives
    held.release()                                   # when it has ended

A collector never removes an image with a hold younger than USE_EXPIRY, by the clock of the file system on which both lie. Images
that are not in the store need no hold, and the three calls do nothing.
"""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import Image
from gha_apptainer.domain.places import store_path
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node.files import encode, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

    from gha_apptainer.node.images.store import Store

RENEW_USE = 300.0
"""How often a holder should renew, in seconds."""
USE_EXPIRY = 3600.0
"""Seconds without renewal after which a hold counts for nothing: its container's node is gone."""


class Use:
    """One hold on one image; `path` is its file, empty where nothing needs holding."""

    def __init__(self, path: str) -> None:
        self.path = path

    def renew(self) -> None:
        """Say that the container still lives. Raises OSError where the store cannot be written just now; try again later."""
        if self.path:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            write_whole(self.path, encode("%d\n" % os.getpid()), mode=0o644)

    def release(self) -> None:
        """Let the image go; doing it twice is fine."""
        if self.path:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                return

    def __enter__(self) -> Use:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def use(image: Image, settings: NodeSettings, host: HostFacts, name: str) -> Use:
    """Hold `image` for the container `name` (unique on this host). Raises OSError where the store cannot be written."""
    if not name or "/" in name or name.startswith("."):
        raise InputError("not a name for a hold on an image: %r" % name)
    held = Use(_file(image, settings, host, name))
    held.renew()
    return held


def _file(image: Image, settings: NodeSettings, host: HostFacts, name: str) -> str:
    """The file of a hold; empty where the image lies in no store. A host may use two: the site's, and its own where that cannot serve."""
    real = os.path.realpath(image.rootfs)
    for place in dict.fromkeys((store_path(settings, host), os.path.join(host.state_dir, "store"))):
        if not real.startswith(os.path.realpath(place) + "/"):
            continue
        from gha_apptainer.node.images.store import Store, hexdigits  # only now: many images lie elsewhere

        store = Store(place)
        if not real.startswith(os.path.realpath(store.path("images")) + "/"):
            return ""
        directory = store.path("uses", hexdigits(image.digest.text))
        if not os.access(store.path("uses"), os.W_OK):
            return ""  # a read-only store: its owner knows our uses only by the time of the last one
        return os.path.join(directory, "%s.%s.%s" % (host.hostname, host.boot_id[:8], name))
    return ""


def holders(store: Store, digest: str) -> Tuple[str, ...]:
    """The live holds on an image; forgotten ones are removed."""
    from gha_apptainer.node.images.store import age, hexdigits

    directory = store.path("uses", hexdigits(digest))
    found = []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return ()
    for name in names:
        path = os.path.join(directory, name)
        if name.startswith(".clock."):
            continue
        if age(path) < USE_EXPIRY:
            if not name.endswith(".new"):
                found.append(name)
            continue
        try:
            os.unlink(path)
        except OSError:
            continue
    return tuple(found)
