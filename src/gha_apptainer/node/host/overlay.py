"""Whether the kernel's overlay really works on a file system: deleted, made anew, copied up, as a package manager would."""
from __future__ import annotations

import json
import os
import tempfile

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.node import files
from gha_apptainer.node.host import trying


def overlay_probe(upper_parent: str, lower: str, host: HostFacts) -> str:
    """Why an overlay with `userxattr` does not work with its upper directory below `upper_parent`; empty if it works.

    `lower` is a directory of the image, empty for one that a FUSE program will serve. The answer is kept per file system and boot in
    the state directory, because the try costs more than a container's start.
    """
    key = "%s %d %d" % (host.boot_id, os.stat(upper_parent).st_dev, os.stat(lower).st_dev if lower else 0)
    path = os.path.join(host.state_dir, "overlay.json")
    known = _known(path)
    if key not in known:
        known = {name: reason for name, reason in known.items() if name.startswith(host.boot_id)}
        known[key] = _try(upper_parent, lower)
        try:
            files.write_whole(path, json.dumps(known).encode())
        except (OSError, GhaError):
            pass  # it is only tried again next time
    return known[key]


def _known(path: str) -> "dict[str, str]":
    try:
        found = json.loads(files.read_whole(path, limit=1 << 20))
    except (OSError, ValueError, GhaError):
        return {}
    if isinstance(found, dict) and all(isinstance(word, str) for word in found.values()):
        return found
    return {}


def _try(upper_parent: str, lower: str) -> str:
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=upper_parent) as folder:
        for name in ("upper", "work", "merged", "image"):
            os.mkdir(os.path.join(folder, name))
        image = os.path.join(folder, "image")
        os.mkdir(os.path.join(image, "old"))
        for name in ("old/file", "kept"):
            with open(os.path.join(image, name), "w") as handle:
                handle.write(name)
        reason = trying.attempt(lambda: _use(folder, image))
        files.remove_tree(os.path.join(folder, "work"))
        return reason or _lower_reason(lower)


def _use(folder: str, image: str) -> None:
    """In a process of its own: mount, then do to the merged tree what package managers do."""
    trying.own_namespace(trying.NEW_MOUNT)
    merged = os.path.join(folder, "merged")
    data = "lowerdir=%s,upperdir=%s/upper,workdir=%s/work,userxattr" % (image, folder, folder)
    trying.mount("overlay", merged, "overlay", 0, data)
    with open(os.path.join(merged, "kept"), "a") as handle:
        handle.write("more")
    os.unlink(os.path.join(merged, "old", "file"))
    os.rmdir(os.path.join(merged, "old"))
    os.mkdir(os.path.join(merged, "old"))
    if os.listdir(os.path.join(merged, "old")):
        raise trying.CannotTry("a directory that was deleted and made anew shows its old content")
    with open(os.path.join(merged, "kept")) as reader:
        if reader.read() != "keptmore":
            raise trying.CannotTry("a changed file does not read back")


def _lower_reason(lower: str) -> str:
    """An image on another overlay cannot be told apart from its upper layer by some kernels; everything else may be a lower."""
    if not lower:
        return ""
    return trying.attempt(lambda: _mount_lower(lower))


def _mount_lower(lower: str) -> None:
    trying.own_namespace(trying.NEW_MOUNT)
    where = "/tmp" if os.path.isdir("/tmp") else "/"
    trying.mount("tmpfs", where, "tmpfs")
    os.mkdir(where + "/merged")
    escaped = lower.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
    os.mkdir(where + "/other")
    if not os.path.isdir(lower):  # below the /tmp that we covered: it was on a plain file system then
        return
    trying.mount("overlay", where + "/merged", "overlay", 0, "lowerdir=%s:%s/other,userxattr" % (escaped, where))
    os.listdir(where + "/merged")
