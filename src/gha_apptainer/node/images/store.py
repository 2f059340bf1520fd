"""The image store: `images/<64 hexadecimal digits>/`, one directory an image, published by rename.

    images/HEX/image.json     what it is (StoredImage); HEX is the digest of the platform's manifest, or the config's for a CVMFS copy
    images/HEX/rootfs         sandbox, or image.sif
    images/HEX/used           its time is the last use
    refs/KEY.json             what a reference was last resolved to
    leases/KEY                who fetches something now
    uses/HEX/NAME             which containers hold it, on any node
    layers/ID/                layers of builds, named by layers/KEY.ref (build_layers.py)
    caches/HEX/               what RUN --mount=type=cache keeps
    work/                     what is being made; trash/: what is being removed

Nothing in it is believed: owner and mode of an entry, the document's form and digest, a SIF's size and header and, where nobody
used it for a day, a sandbox's count of files (a cleaner of /tmp may have bitten) are checked at each use. A damaged entry is
moved away and fetched again. Sandboxes are closed to other users, because images hold setuid files.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import GhaError, ImageFailed, Untrusted, disk_full, is_disk_full
from gha_apptainer.domain.image_refs import ImageRef
from gha_apptainer.domain.images import SANDBOX, SIF, Digest, Image, OciConfig
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.files import decode, encode, read_whole, remove_tree, tree_size, write_whole
from gha_apptainer.node.images.holder import Holder, myself, read_holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Iterator, Optional, Tuple

ROOTFS_NAMES = {SANDBOX: "rootfs", SIF: "image.sif"}
RECOUNT_AFTER = 86400.0
"""Seconds without use after which a sandbox's files are counted again."""
WORK_EXPIRY = 3600.0
"""Seconds without a sign of life after which unfinished work of another host is removed."""
_NAME_LIMIT = 160
"""Characters of a reference that become a file's name as they are; 255 is the most that file systems take, and each / takes three."""
_PARTS = ("images", "refs", "leases", "uses", "layers", "caches", "work", "trash")


@dataclass(frozen=True)
class StoredImage:
    """What the store knows of one image. `digest` is its key; `index` the digest that led to it, empty if none did.

    `size` is bytes of the SIF or of the tree, `inodes` files of a tree; `route` is registry or cvmfs; `created` is when it was made.
    """

    DOCUMENT_VERSION: ClassVar[int] = 1
    digest: str
    kind: str
    platform: str
    form: str
    size: int
    inodes: int
    config: OciConfig
    config_digest: str
    reference: str
    route: str
    created: float
    index: str = ""
    version: int = 1


@dataclass(frozen=True)
class KnownRef:
    """What a reference meant when it was last resolved, for one platform."""

    DOCUMENT_VERSION: ClassVar[int] = 1
    reference: str
    platform: str
    digest: str
    resolved: float
    version: int = 1


def hexdigits(digest: str) -> str:
    """The 64 digits of a sha256 digest; raises Untrusted for anything else, so that no path can be smuggled in."""
    head, _, digits = digest.partition(":")
    if head != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise Untrusted("not a sha256 digest: %r" % digest)
    return digits


class Store:
    """One image store. Opening it touches nothing; `prepare` makes its directories."""

    def __init__(self, root: str) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make what is missing of the store's own directories. Raises ImageFailed or DiskFull naming the path."""
        for part in ("", *_PARTS):
            path = os.path.join(self.root, part)
            try:
                os.makedirs(path, mode=0o755, exist_ok=True)
            except OSError as error:
                if is_disk_full(error):
                    raise disk_full(error, path) from error
                raise ImageFailed("cannot make the image store %s: %s" % (path, error.strerror), remedy="set another store") from error
        if not os.access(os.path.join(self.root, "images"), os.W_OK):
            raise ImageFailed("the image store %s is read-only for this user" % self.root, remedy="set another store")

    def path(self, *parts: str) -> str:
        """A path below the store."""
        return os.path.join(self.root, *parts)

    def entry(self, digest: str) -> str:
        """The directory of an image."""
        return self.path("images", hexdigits(digest))

    def lease(self, key: str) -> str:
        """The lease file for the work named by `key`."""
        return self.path("leases", key)

    # what a reference meant

    def ref_key(self, ref: ImageRef, platform: str) -> str:
        """The name under which a reference's meaning is kept: a pinned one by its digest alone."""
        text = "%s://%s@%s" % (ref.transport, ref.name, ref.digest) if ref.digest else str(ref)
        key = "%s %s" % (text, platform)
        if len(key) > _NAME_LIMIT:
            import hashlib  # slow to load, and a usual name does not need it

            key = hashlib.sha256(encode(key)).hexdigest()
        return key.replace("%", "%25").replace("/", "%2F")

    def remember(self, ref: ImageRef, platform: str, digest: str) -> None:
        """Note what `ref` was resolved to."""
        known = KnownRef(str(ref), platform, digest, time.time())
        write_whole(self.path("refs", self.ref_key(ref, platform) + ".json"), encode(to_json(known)), mode=0o644)

    def recall(self, ref: ImageRef, platform: str) -> str:
        """The manifest digest that `ref` was last resolved to; empty if unknown, or noted by somebody who may not."""
        path = self.path("refs", self.ref_key(ref, platform) + ".json")
        try:
            self.check_owner(path)
            known = from_json(KnownRef, decode(read_whole(path, limit=1 << 20)))
            hexdigits(known.digest)
        except (OSError, Untrusted):
            return ""
        if known.platform != platform or (known.reference != str(ref) and not ref.pinned):
            return ""
        return known.digest

    # images

    def find(self, digest: str) -> Optional[StoredImage]:
        """The image with this digest if it is there and whole. Raises Untrusted or ImageFailed saying what is wrong with it."""
        entry = self.entry(digest)
        try:
            os.lstat(entry)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ImageFailed("cannot read %s: %s" % (entry, error.strerror)) from error
        self.check_owner(entry)
        try:
            found = from_json(StoredImage, decode(read_whole(os.path.join(entry, "image.json"), limit=16 << 20)))
        except OSError as error:
            raise Untrusted("%s: no image.json (%s)" % (entry, error.strerror), cause="a half-written or purged entry") from error
        if found.digest != digest or found.form not in ROOTFS_NAMES:
            raise Untrusted("%s: its image.json is of another image" % entry, cause="forged or misplaced")
        self._check_rootfs(entry, found)
        return found

    def _check_rootfs(self, entry: str, found: StoredImage) -> None:
        rootfs = os.path.join(entry, ROOTFS_NAMES[found.form])
        try:
            state = os.lstat(rootfs)
        except OSError as error:
            raise Untrusted("%s is gone (%s)" % (rootfs, error.strerror), cause="purged") from error
        if found.form == SIF:
            if not stat.S_ISREG(state.st_mode) or state.st_size != found.size:
                raise Untrusted("%s has %d bytes instead of %d" % (rootfs, state.st_size, found.size), cause="purged or half-written")
            from gha_apptainer.node.images.sif import read_sif  # a directory needs no reader of files

            read_sif(rootfs)
            return
        if not stat.S_ISDIR(state.st_mode):
            raise Untrusted("%s is no directory" % rootfs)
        if time.time() - self.last_use(found.digest) > RECOUNT_AFTER:
            inodes = tree_size(rootfs)[1]
            if inodes != found.inodes:
                raise Untrusted("%s holds %d files instead of %d" % (rootfs, inodes, found.inodes), cause="purged in part")

    def check_owner(self, path: str) -> None:
        """An entry must belong to us, to root or to the store's owner, be no link, and be closed to writing by others."""
        state = os.lstat(path)
        allowed = (os.geteuid(), 0, os.stat(self.root).st_uid)
        if stat.S_ISLNK(state.st_mode) or state.st_uid not in allowed or state.st_mode & 0o022:
            raise Untrusted("%s is a link, belongs to uid %d or may be written by others" % (path, state.st_uid), cause="forged entry")

    def image(self, found: StoredImage, ref: ImageRef) -> Image:
        """A stored image as one that can be run; marks it as used."""
        entry = self.entry(found.digest)
        rootfs = os.path.join(entry, ROOTFS_NAMES[found.form])
        for path in (os.path.join(entry, "used"), *((rootfs,) if found.form == SIF else ())):
            try:
                os.utime(path)  # a purge by age must see the use
            except OSError:
                continue  # not ours, or a read-only store: then its owner's purge rules hold
        return Image(str(ref), Digest(found.digest, found.kind), found.config, rootfs, found.form, "store")

    def last_use(self, digest: str) -> float:
        """When the image was last used, in seconds since the epoch; 0 if it cannot be told."""
        try:
            return os.stat(os.path.join(self.entry(digest), "used")).st_mtime
        except OSError:
            return 0.0

    def digests(self) -> Tuple[str, ...]:
        """The digests of all entries, whole or not."""
        try:
            names = sorted(os.listdir(self.path("images")))
        except OSError:
            return ()
        return tuple("sha256:" + name for name in names if len(name) == 64 and set(name) <= set("0123456789abcdef"))

    def by_index(self, index: str, platform: str) -> str:
        """The image that was once reached through this index digest; empty if none was."""
        for digest in self.digests():
            try:
                found = self.find(digest)
            except GhaError:
                continue
            if found is not None and found.index == index and found.platform == platform:
                return digest
        return ""

    def publish(self, made: str, found: StoredImage) -> bool:
        """Move the finished directory `made` (holding the root filesystem) to its place; False if the same was there first.

        Its bytes are on disk before its name is: after a power cut an entry is whole or absent.
        """
        write_whole(os.path.join(made, "image.json"), encode(to_json(found)), mode=0o644, sync=True)
        write_whole(os.path.join(made, "used"), b"", mode=0o644)
        os.chmod(made, 0o700 if found.form == SANDBOX else 0o755)
        sync_file_system(made)
        entry = self.entry(found.digest)
        for _ in range(3):
            try:
                os.rename(made, entry)
                return True
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    if is_disk_full(error):
                        raise disk_full(error, entry) from error
                    raise ImageFailed("cannot publish %s: %s" % (entry, error.strerror)) from error
            try:
                there = self.find(found.digest)
                if there is not None and there.form == found.form:
                    return False
            except GhaError:
                pass
            self.discard(entry)  # damaged, or of a form that is of no use here
        raise ImageFailed("cannot publish %s: something damaged stays in its place" % entry, remedy="remove it by hand")

    def discard(self, path: str) -> None:
        """Move something out of sight in one step, then remove it."""
        aside = self.path("trash", "%s.%s" % (os.path.basename(path), os.urandom(6).hex()))
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ImageFailed("cannot remove %s: %s" % (path, error.strerror), cause="it belongs to somebody else") from error
        remove_tree(aside)

    def sweep(self, *more: str) -> int:
        """Remove what dead owners left half-made in the store's work directory and in `more`; gives how many."""
        me = myself()
        count = 0
        for directory in (self.path("work"), self.path("trash"), *more):
            for path in _below(directory):
                if directory.endswith("trash") or abandoned(path, me):
                    remove_tree(path)
                    count += 1
        for path in _below(self.path("leases")):
            holder = read_holder(path)
            if holder is not None and holder.known_dead(me):
                from gha_apptainer.node.images.leases import take_away  # only now: leases of the dead are rare

                count += take_away(path, holder, me.token)
        for part in ("refs", "leases", "layers"):
            for path in _below(self.path(part)):
                if path.endswith((".new", ".stale")) and age(path) > WORK_EXPIRY:
                    os.unlink(path)
                    count += 1
        return count


def _below(directory: str) -> Iterator[str]:
    try:
        names = os.listdir(directory)
    except OSError:
        return
    for name in names:
        path = os.path.join(directory, name)
        try:
            if os.lstat(path).st_uid == os.geteuid():
                yield path
        except OSError:
            continue


def abandoned(path: str, me: Holder) -> bool:
    """Whether nobody works in the work directory `path` any more: its owner is dead, or gave no sign of life for long."""
    sign = os.path.join(path, "owner")
    holder = read_holder(sign)
    if holder is not None and holder.known_dead(me):
        return True
    return age(sign if holder is not None else path) > WORK_EXPIRY


def age(path: str) -> float:
    """Seconds since `path` was written, by the clock of the file system that holds it: that one stamped both times."""
    probe = os.path.join(os.path.dirname(path), ".clock.%s.new" % os.urandom(4).hex())
    try:
        written = os.lstat(path).st_mtime
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            return os.stat(probe).st_mtime - written
        finally:
            os.unlink(probe)
    except OSError:
        return 0.0


def sync_file_system(path: str) -> None:
    """syncfs(2) of the file system that holds `path`: thousands of small files at once. Raises DiskFull where space or quota ran out."""
    import ctypes  # slow to load, and only a pull needs it

    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(handle):
            code = ctypes.get_errno()
            error = OSError(code, os.strerror(code))
            if is_disk_full(error):
                raise disk_full(error, path)
            if code != errno.ENOSYS:
                raise ImageFailed("cannot write %s: %s" % (path, error.strerror))
    finally:
        os.close(handle)
