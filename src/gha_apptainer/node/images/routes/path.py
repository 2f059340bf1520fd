"""Route path: the reference itself is a SIF or an unpacked directory."""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import GhaError, ImageFailed, TimedOut
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import RouteStep
from gha_apptainer.domain.images import SANDBOX, SIF, Digest, Image, OciConfig
from gha_apptainer.node.files import decode, encode, read_whole, write_whole
from gha_apptainer.node.images.in_image import config_of_directory
from gha_apptainer.node.images.platforms import platform_for
from gha_apptainer.node.images.routes import Errand, Look, Question

CVMFS = "/cvmfs/"
_FLAT = r"/\.flat/([0-9a-f]{2})/(\1[0-9a-f]{62})$"


class PathRoute:
    """A path that somebody named."""

    def look(self, question: Question) -> Look:
        """Whether something is there; what is there decides the cost."""
        return look_at(question.ref.path)

    def take(self, errand: Errand, step: RouteStep) -> Image:
        """The image at the path, its configuration read from it."""
        return image_at(step.path, str(errand.question.ref), "path", errand.question.host)


def look_at(path: str) -> Look:
    """What lies at `path`, without reading more than its first page."""
    found = os.path.abspath(path)
    silent = _silent(found)
    if silent:
        return Look(False, silent)
    if os.path.isdir(found):
        return Look(True, "an unpacked image at %s" % found, "none", found)
    if not os.path.exists(found):
        return Look(False, "%s does not exist" % found)
    from gha_apptainer.node.images.sif import read_sif  # a directory needs no reader of files

    try:
        read_sif(found)
    except ImageFailed as error:
        return Look(False, error.what)
    return Look(True, "a SIF at %s" % found, "its digest is computed on first use", found)


def _silent(path: str) -> str:
    """Why a path on CVMFS must not be touched: a dead mount would hold us for ever. "" where it answers, and for paths elsewhere."""
    if not path.startswith(CVMFS):
        return ""
    from gha_apptainer.node.images import cvmfs_layout

    try:
        cvmfs_layout.look_at((cvmfs_layout.Candidate(path),))
    except TimedOut as error:
        return "%s: %s" % (path, error.what)
    return ""


def image_at(path: str, reference: str, route: str, host: HostFacts) -> Image:
    """The SIF or directory at `path` as an image. Raises ImageFailed where it cannot be read."""
    real = os.path.realpath(path)
    if os.path.isdir(real):
        check_readable(real)
        return Image(reference, digest_of_directory(real), config_of_directory(real), real, SANDBOX, route)
    from gha_apptainer.node.images.sif import read_sif, sif_config

    sif = read_sif(real)
    if sif.architecture and sif.architecture != platform_for(host.machine).architecture:
        raise ImageFailed("%s is for %s, this machine is %s" % (real, sif.architecture, host.machine), remedy="use an image built for it")
    return Image(reference, digest_of_file(real, host), sif_config(sif) or OciConfig(), real, SIF, route)


def digest_of_directory(path: str) -> Digest:
    """None for a plain tree; the config digest where CVMFS's own layout names the directory by it."""
    if "/.flat/" not in path:
        return Digest()
    import re

    found = re.search(_FLAT, path)
    return Digest("sha256:" + found.group(2), "config") if found else Digest()


def check_readable(path: str) -> None:
    """Raise ImageFailed, with a hint, where this user may not even list the tree's root."""
    try:
        if not os.listdir(path):
            raise ImageFailed("the image directory %s is empty" % path, cause="not unpacked, or not mounted")
    except OSError as error:
        raise ImageFailed(
            "cannot read the image directory %s: %s" % (path, error.strerror),
            cause="whoever unpacked it kept owner-only modes" if isinstance(error, PermissionError) else "",
            remedy="ask its publisher to unpack it readable for all, or use another route (pull: always)",
        ) from error


def digest_of_file(path: str, host: HostFacts) -> Digest:
    """The sha256 of a file, remembered by its identity, size and times, because a SIF of a gigabyte takes two seconds."""
    import hashlib  # slow to load, and an unpacked directory does not need it
    import re

    state = os.stat(path)
    identity = "%s %d %d %d %d %d" % (path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    note = os.path.join(host.state_dir, "digests", hashlib.sha256(encode(identity)).hexdigest())
    try:
        known = decode(read_whole(note, limit=100))
        if re.fullmatch("sha256:[0-9a-f]{64}", known):
            os.utime(note)
            return Digest(known, "file")
    except (OSError, GhaError):
        pass
    found = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            for part in iter(lambda: handle.read(1 << 20), b""):
                found.update(part)
    except OSError as error:
        raise ImageFailed("cannot read %s: %s" % (path, error.strerror)) from error
    digest = "sha256:" + found.hexdigest()
    try:
        os.makedirs(os.path.dirname(note), mode=0o700, exist_ok=True)
        write_whole(note, encode(digest))
    except (OSError, GhaError):
        pass  # computed again next time
    return Digest(digest, "file")
