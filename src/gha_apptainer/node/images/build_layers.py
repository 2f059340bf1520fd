"""Layers of builds in the store: what one instruction changed, found again by what it was asked to do and on top of what.

    layers/ID/layer.json      what it is (StoredLayer); ID is random, because the same instruction may give another result another day
    layers/ID/tree/           the overlay's upper directory, or a whole tree where the kernel's overlay does not work
    layers/ID/used            its time is the last use
    layers/ID/synced          its bytes are known to be on disk; without it a layer is good only until the next boot
    layers/KEY.ref            the ID that an instruction made last; KEY is the digest of all that can change its result

A layer never changes once it is published, and nobody removes it while a build holds it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from typing import ClassVar, Iterator, List, Optional, Tuple

from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import GhaError, ImageFailed, Untrusted, disk_full, is_disk_full
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.files import decode, encode, read_whole, tree_size, write_whole
from gha_apptainer.node.images.store import RECOUNT_AFTER, Store, hexdigits
from gha_apptainer.node.images.uses import Use, holders

OPAQUE = "user.overlay.opaque"
"""On a directory of a layer: what lies below it is hidden. https://docs.kernel.org/filesystems/overlayfs.html, with userxattr."""


@dataclass(frozen=True)
class StoredLayer:
    """One layer. `digest` is of its content; `whole` that it is a whole tree and not a difference; `what` the instruction, for people."""

    DOCUMENT_VERSION: ClassVar[int] = 1
    id: str
    digest: str
    whole: bool
    size: int
    inodes: int
    what: str
    boot: str
    created: float
    version: int = 1


class LayerCache:
    """The layers of one store."""

    def __init__(self, store: Store, boot: str) -> None:
        self._store, self._boot = store, boot

    def tree(self, layer: StoredLayer) -> str:
        """Where its files lie."""
        return self._entry(layer.id, "tree")

    def lease(self, key: str) -> str:
        """The lease file of the work that makes the layer of a key."""
        return self._store.lease("layer-" + hexdigits(key))

    def find(self, key: str) -> Optional[StoredLayer]:
        """The layer that was made last for a key, if it is there and whole; marks it as used. A damaged one is as good as none."""
        pointer = self._store.path("layers", hexdigits(key) + ".ref")
        try:
            self._store.check_owner(pointer)
            found = self.read(decode(read_whole(pointer, limit=100)))
            os.utime(self._entry(found.id, "used"))
            os.utime(pointer)
        except (OSError, GhaError):
            return None
        return found

    def read(self, id: str) -> StoredLayer:
        """A layer by its id, checked. Raises Untrusted or OSError."""
        entry = self._entry(id)
        self._store.check_owner(entry)
        found = from_json(StoredLayer, decode(read_whole(os.path.join(entry, "layer.json"), limit=1 << 20)))
        if found.id != id or not os.path.isdir(os.path.join(entry, "tree")):
            raise Untrusted("%s is no layer" % entry)
        if found.boot != self._boot and not os.path.exists(os.path.join(entry, "synced")):
            raise Untrusted("%s was not on disk yet when the machine stopped" % entry)
        if time.time() - self.last_use(id) > RECOUNT_AFTER and tree_size(os.path.join(entry, "tree"))[1] != found.inodes:
            raise Untrusted("%s is not whole" % entry, cause="purged in part")
        return found

    def publish(self, made: str, key: str, what: str, *, whole: bool, ids: bool) -> StoredLayer:
        """Move the directory `made`, which holds `tree`, to its place and let the key name it. `ids` tells that its owners count.

        Raises DiskFull or ImageFailed.
        """
        digest, size, inodes = content_digest(os.path.join(made, "tree"), ids=ids)
        layer = StoredLayer("sha256:" + os.urandom(32).hex(), digest, whole, size, inodes, what[:500], self._boot, time.time())
        try:
            write_whole(os.path.join(made, "layer.json"), encode(to_json(layer)))
            write_whole(os.path.join(made, "used"), b"")
            os.chmod(made, 0o700)
            os.rename(made, self._entry(layer.id))
            write_whole(self._store.path("layers", hexdigits(key) + ".ref"), encode(layer.id))
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(error, self._store.root) from error
            raise ImageFailed("cannot keep a layer in %s: %s" % (self._store.root, error.strerror)) from error
        return layer

    def synced(self, layers: Tuple[StoredLayer, ...]) -> None:
        """Note that the bytes of these layers are on disk."""
        for layer in layers:
            write_whole(self._entry(layer.id, "synced"), b"")

    def hold(self, layer: StoredLayer, name: str) -> Use:
        """Hold a layer while a build leans on it."""
        held = Use(self._store.path("uses", hexdigits(layer.id), name))
        held.renew()
        return held

    # for the collector

    def ids(self) -> Tuple[str, ...]:
        """All layers, whole or not."""
        try:
            names = os.listdir(self._store.path("layers"))
        except OSError:
            return ()
        return tuple("sha256:" + name for name in sorted(names) if len(name) == 64)

    def last_use(self, id: str) -> float:
        """When it was last used, in seconds since the epoch; 0 if that cannot be told."""
        try:
            return os.stat(self._entry(id, "used")).st_mtime
        except OSError:
            return 0.0

    def holders(self, id: str) -> Tuple[str, ...]:
        """The builds that lean on it now."""
        return holders(self._store, id)

    def remove(self, id: str) -> None:
        """Remove one; names that lead to it are removed with the next `forget`."""
        self._store.discard(self._entry(id))

    def forget(self) -> int:
        """Remove names that lead nowhere; gives how many."""
        count = 0
        for name in _listed(self._store.path("layers")):
            if not name.endswith(".ref"):
                continue
            path = self._store.path("layers", name)
            try:
                if not os.path.isdir(self._entry(decode(read_whole(path, limit=100)))):
                    os.unlink(path)
                    count += 1
            except (OSError, GhaError):
                continue
        return count

    def _entry(self, id: str, *parts: str) -> str:
        return self._store.path("layers", hexdigits(id), *parts)


def _listed(directory: str) -> List[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def whiteout(state: os.stat_result) -> bool:
    """Whether an entry of a layer says that what lies below it is removed."""
    return stat.S_ISCHR(state.st_mode) and state.st_rdev == 0


def opaque(path: str) -> bool:
    """Whether a directory of a layer hides all that lies below it."""
    try:
        return os.getxattr(path, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def content_digest(tree: str, *, ids: bool) -> Tuple[str, int, int]:
    """Digest, bytes and number of files of a tree: names, kinds, modes, contents, links, with `ids` owners, never times."""
    digest = hashlib.sha256()
    size = inodes = 0
    for name, path, state in walk(tree):
        inodes += 1
        size += state.st_blocks * 512
        digest.update(encode("%s\0%s\0" % (name, described(path, state, ids=ids))))
    return "sha256:" + digest.hexdigest(), size, inodes


def described(path: str, state: os.stat_result, *, ids: bool) -> str:
    """Everything of one file that counts for its content, as one text."""
    kind = stat.S_IFMT(state.st_mode)
    mode = "" if kind == stat.S_IFLNK else "%o" % stat.S_IMODE(state.st_mode)
    what = ""
    if kind == stat.S_IFREG:
        what = _sha256(path)
    elif kind == stat.S_IFLNK:
        what = os.readlink(path)
    elif kind == stat.S_IFDIR:
        what = "opaque" if opaque(path) else ""
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        what = str(state.st_rdev)
    return "%o %s %s %s" % (kind, mode, "%d:%d" % (state.st_uid, state.st_gid) if ids else "", what)


def _sha256(path: str) -> str:
    found = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb", buffering=0) as reader:
        for part in iter(lambda: reader.read(1 << 20), b""):
            found.update(part)
    return found.hexdigest()


def walk(tree: str) -> Iterator[Tuple[str, str, os.stat_result]]:
    """All entries below a directory in the order of their names, each with its path from the top; links are not followed."""
    todo = [""]
    while todo:
        inside = todo.pop()
        with os.scandir(os.path.join(tree, inside)) as listing:
            entries = sorted(listing, key=lambda one: one.name)
        directories = []
        for entry in entries:
            name = inside + entry.name
            state = entry.stat(follow_symlinks=False)
            yield name, entry.path, state
            if stat.S_ISDIR(state.st_mode):
                directories.append(name + "/")
        todo += reversed(directories)
