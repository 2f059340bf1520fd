"""Whether an image has bash, seen before it is started: a container that starts for nothing costs as much as the step's."""

from __future__ import annotations

import os

from gha_apptainer.domain.containers import Mount
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.images import SANDBOX, Image
from gha_apptainer.node.engine.rootpaths import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence


def lacks_bash(image: Image, mounts: Sequence[Mount], path: str) -> bool:
    """Whether bash is certainly in no directory of `path` (a PATH inside the container) while sh is. False where only a start can tell.

    A SIF cannot be looked into cheaply, a tree on CVMFS could hang us, and what mounts bring is not in the tree.
    """
    if image.form != SANDBOX or image.route == "cvmfs" or image.rootfs.startswith("/cvmfs/"):
        return False
    try:
        return _has("bash", image.rootfs, mounts, path) is False and _has("sh", image.rootfs, mounts, path) is True
    except (OSError, ValueError, GhaError):
        return False


def _has(name: str, root: str, mounts: Sequence[Mount], path: str) -> Optional[bool]:
    """Whether the first `name` that PATH finds lies in the tree; None where a mount or the working directory could bring one before."""
    for folder in path.split(":"):
        if not folder.startswith("/"):
            return None
        inside = os.path.join(folder, name)
        outside = resolve(root, inside)
        if _mounted(inside, mounts) or _mounted(outside[len(root.rstrip("/")) :], mounts):
            return None
        if os.path.lexists(outside):
            return True
    return False


def _mounted(path: str, mounts: Sequence[Mount]) -> bool:
    plain = os.path.normpath(path)
    return any(plain == one.target or plain.startswith(one.target.rstrip("/") + "/") for one in mounts)
