"""The writable layer of a build: what the command changed, without what the engine put there to run it.

The engine writes names, makes mount points and silences Apptainer's own scripts in every container's root. `marks` notes before that
what it will touch, `keep` undoes it afterwards and moves the layer to where the build wants it.
"""

from __future__ import annotations

import os
import shutil
from typing import List, Tuple

from gha_apptainer.domain.containers import BIND
from gha_apptainer.domain.errors import EngineFailed, disk_full, is_disk_full
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import files
from gha_apptainer.node.engine import rootpaths, setup
from gha_apptainer.node.engine.layers import COPY, RootPlan
from gha_apptainer.node.engine.starting import StartPlan

_SCRIPTS = ".singularity.d"


@dataclass(frozen=True)
class Marks:
    """Paths relative to the root: files that the engine writes, and directories that it makes because they are missing, outer first."""

    written: Tuple[str, ...]
    made: Tuple[str, ...]


def marks(plan: StartPlan, merged: str) -> Marks:
    """What `setup.fill_root` will touch in the mounted root."""
    written: List[str] = []
    made: List[str] = []
    wanted = [(name, True) for name in setup.ROOMS]
    wanted += [(path, False) for path, _ in plan.written]
    wanted += [(setup.APT_FILE, False)]
    for one in plan.placed:
        if not one.target.startswith(tuple(room + "/" for room in setup.KERNEL_ROOMS)):
            wanted.append((one.target, one.kind != BIND or os.path.isdir(one.source)))
    for path, directory in wanted:
        inside = os.path.relpath(rootpaths.resolve(merged, path), merged)
        parts = inside.split("/")
        folders = range(1, len(parts) + 1 if directory else len(parts))
        made += [name for name in ("/".join(parts[:count]) for count in folders) if not os.path.lexists(os.path.join(merged, name))]
        if not directory:
            written.append(inside)
    return Marks(tuple(dict.fromkeys(written)), tuple(dict.fromkeys(made)))


def keep(root: RootPlan, layer: str, found: Marks, target: str) -> None:
    """Take the engine's own things out of an unmounted layer and move it to `target`. Raises EngineFailed or DiskFull."""
    whole = root.mechanism == COPY
    tree = os.path.join(layer, "merged" if whole else "upper")
    try:
        for name in found.written:
            path = os.path.join(tree, name)
            if os.path.lexists(path):
                os.unlink(path)
            if whole and os.path.lexists(os.path.join(root.lower, name)):
                shutil.copy2(os.path.join(root.lower, name), path, follow_symlinks=False)
        for name in reversed(found.made):
            try:
                os.rmdir(os.path.join(tree, name))
            except OSError:
                continue  # the command has put something there
        files.remove_tree(os.path.join(tree, _SCRIPTS))
        os.rename(tree, target)
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, target) from error
        raise EngineFailed("cannot keep the layer of the build: %s: %s" % (error.filename or target, error.strerror)) from error
