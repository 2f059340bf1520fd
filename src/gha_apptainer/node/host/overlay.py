"""Whether the kernel's overlay really works on a file system: deleted, made anew, copied up, as a package manager would."""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.node import files
from gha_apptainer.node.host.keeping import keep, kept
from gha_apptainer.node.host.surroundings import read_text

_KEPT, _FORM = "overlay.kept", "gha-apptainer overlay 1"


def overlay_probe(upper_parent: str, lower: str, host: HostFacts) -> str:
    """Why an overlay with `userxattr` does not work with its upper directory below `upper_parent`; empty if it works.

    `lower` is a directory of the image, empty for one that a FUSE program will serve. The answer is kept per pair of file systems
    and boot in the state directory, because the try costs a good part of a container's start.
    """
    mounts = read_text("/proc/self/mountinfo")
    lower_kind = file_system(lower, mounts) if lower else "none"
    key = "%s %s %s %s" % (host.boot_id, host.kernel, file_system(upper_parent, mounts), lower_kind)
    path = os.path.join(host.state_dir, _KEPT)
    known = _known(path)
    if key not in known:
        known = {name: reason for name, reason in known.items() if name.startswith(host.boot_id)}
        known[key] = _try(upper_parent, lower)
        try:
            keep(path, _FORM, [word for pair in known.items() for word in pair])
        except (OSError, GhaError):
            pass  # it is only tried again next time
    return known[key]


def file_system(path: str, mounts: str) -> str:
    """Device number, type and options of the file system that `path` lies on, from a /proc/PID/mountinfo text.

    The number alone does not do: after an unmount it is given to another file system.
    """
    device = os.stat(path).st_dev
    wanted = "%d:%d" % (os.major(device), os.minor(device))
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) > 2 and fields[2] == wanted:
            return wanted + " " + " ".join(right.split()[:1] + right.split()[2:])
    return wanted + " unknown"


def _known(path: str) -> dict[str, str]:
    words = kept(path, _FORM) or []
    return dict(zip(words[::2], words[1::2])) if len(words) % 2 == 0 else {}


def _try(upper_parent: str, lower: str) -> str:
    from gha_apptainer.node.host import trying

    folder = os.path.join(upper_parent, ".probe-%d-%s" % (os.getpid(), os.urandom(4).hex()))
    try:
        os.mkdir(folder, 0o700)
        image = os.path.join(folder, "image")
        for name in ("image", "upper", "work", "merged", "image/old"):
            os.mkdir(os.path.join(folder, name))
        for name in ("old/file", "kept"):
            with open(os.path.join(image, name), "w") as handle:
                handle.write(name)
        reason = trying.attempt(lambda: _use(folder, image))
        if reason or not lower:
            return reason
        for name in ("upper", "work"):
            files.remove_tree(os.path.join(folder, name))
            os.mkdir(os.path.join(folder, name))
        return trying.attempt(lambda: _use_lower(folder, lower))
    except OSError as error:
        return "%s: %s" % (upper_parent, error.strerror)
    finally:
        files.remove_tree(folder)


def _mount(folder: str, lower: str) -> str:
    """In a process of its own: an overlay of `lower` whose upper layer lies in `folder`; gives the merged directory."""
    from gha_apptainer.node.host import trying

    trying.own_namespace(trying.NEW_MOUNT)
    os.chdir(folder)  # short names: mount options are one page long
    escaped = lower.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
    trying.mount("overlay", "merged", "overlay", 0, "lowerdir=%s,upperdir=upper,workdir=work,userxattr" % escaped)
    return os.path.join(folder, "merged")


def _use(folder: str, image: str) -> None:
    """Do to the merged tree what package managers do."""
    from gha_apptainer.node.host import trying

    merged = _mount(folder, image)
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


def _use_lower(folder: str, lower: str) -> None:
    """The image's own file system as the lower one: it can be listed, and a file of it can be changed."""
    merged = _mount(folder, lower)
    os.mkdir(os.path.join(merged, ".gha-apptainer-probe"))
    for name in ("etc", "."):
        try:
            entries = list(os.scandir(os.path.join(merged, name)))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size < 1 << 16:
                os.chmod(entry.path, 0o600)  # copies it up
                return
