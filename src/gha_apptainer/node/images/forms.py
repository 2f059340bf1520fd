"""Which form an image takes in the store: it follows the measured storage and what this host can mount."""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import DiskFull
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import SANDBOX, SIF
from gha_apptainer.domain.places import store_path
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.images.filesystems import LOCAL, MEMORY, NETWORK, Space, measure
from gha_apptainer.node.images.progress import megabytes

UNPACKED = 3.5
"""How many times larger an image is unpacked than its compressed layers: the careful side of what is seen."""
BYTES_PER_FILE = 8000
"""Unpacked bytes per inode of usual distribution images, the careful side."""


@dataclass(frozen=True)
class Placement:
    """Where a new image goes and how: the store's root, the form, a directory for temporary files, and the reason for people."""

    store: str
    form: str
    temporary: str
    why: str


def placement(settings: NodeSettings, host: HostFacts, transfer: int = 0) -> Placement:
    """The place for an image of `transfer` compressed bytes (0: not known yet).

    Sandboxes lie on node-local disk that is not memory; shared storage and memory get one SIF file. A host that cannot use
    FUSE cannot run a SIF without unpacking it at each start, so there it is a sandbox, node-local if the store is not. Raises
    DiskFull where the image cannot fit.
    """
    wanted = measure(store_path(settings, host))
    local = measure(os.path.join(host.state_dir, "store"))
    place, form, why = _choose(wanted, local, host.fuse_reason)
    if form == SANDBOX and not host.fuse_reason and not _fits(place, transfer):
        form, why = SIF, "%s is short of space or inodes, so one compressed file" % place.path
    needed = int(transfer * (UNPACKED + 1 if form == SANDBOX else 1.3))
    if transfer and place.free_bytes < needed:
        raise DiskFull(
            "%s has %s free, the image needs about %s" % (place.path, megabytes(place.free_bytes), megabytes(needed)),
            remedy="gha-apptainer image gc, or set another store",
        )
    return Placement(place.path, form, _temporary(place, local, transfer), why)


def _choose(wanted: Space, local: Space, fuse_reason: str) -> tuple[Space, str, str]:
    if wanted.nature == LOCAL:
        return wanted, SANDBOX, "%s is node-local disk (%s)" % (wanted.path, wanted.type)
    if not fuse_reason:
        kind = "memory" if wanted.nature == MEMORY else "shared"
        return wanted, SIF, "%s is %s (%s), so one compressed file" % (wanted.path, kind, wanted.type)
    if wanted.nature == NETWORK and local.nature != NETWORK:
        return local, SANDBOX, "FUSE cannot be used here (%s), so unpacked on this node, not in %s" % (fuse_reason, wanted.path)
    return wanted, SANDBOX, "FUSE cannot be used here (%s), so unpacked although %s is %s" % (fuse_reason, wanted.path, wanted.nature)


def _fits(place: Space, transfer: int) -> bool:
    unpacked = transfer * UNPACKED
    return place.free_bytes >= unpacked + transfer and (place.free_inodes < 0 or place.free_inodes >= unpacked / BYTES_PER_FILE)


def _temporary(place: Space, local: Space, transfer: int) -> str:
    """Unpacked files on their way to a SIF stay on node-local disk where they fit: ten thousand files are slow on shared storage."""
    if place.nature == LOCAL or local.nature != LOCAL or not _fits(local, transfer):
        return os.path.join(place.path, "work")
    return os.path.join(local.path, "work")
