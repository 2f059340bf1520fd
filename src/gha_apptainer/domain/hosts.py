"""What one machine can do, probed once by `node.host` and then passed as a value to every planner."""

from __future__ import annotations

from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple


@dataclass(frozen=True)
class IdRange:
    """`count` ids that are mapped in the user namespace we run in, from `first` on."""

    first: int
    count: int


@dataclass(frozen=True)
class HostFacts:
    """Capabilities of this machine and user; empty path = not found, empty reason = it works.

    `userns_reason` says why user namespaces cannot be used; `apptainer_reason` why no Apptainer passed the probes;
    `fuse_reason` why FUSE cannot be used; `proc_reason` why a container cannot have a fresh /proc of its own (a masked one around us).
    `config_option` tells whether `apptainer --config FILE` is accepted.
    `uid_ranges`/`gid_ranges` are the ids mapped around us (root may use all of them).
    """

    hostname: str
    boot_id: str
    machine: str
    kernel: str
    uid: int
    gid: int
    state_dir: str
    userns_reason: str = ""
    apptainer: str = ""
    apptainer_version: str = ""
    apptainer_reason: str = ""
    apptainer_setuid: bool = False
    config_option: bool = True
    fuse_reason: str = ""
    proc_reason: str = ""
    squashfuse: str = ""
    fuse_overlayfs: str = ""
    mksquashfs: str = ""
    unsquashfs: str = ""
    fuse2fs: str = ""
    mke2fs: str = ""
    e2fsck: str = ""
    uid_ranges: Tuple[IdRange, ...] = ()
    gid_ranges: Tuple[IdRange, ...] = ()
    nvidia_reason: str = "no NVIDIA device here"
    rocm_reason: str = "no ROCm device here"
    cvmfs: bool = False
