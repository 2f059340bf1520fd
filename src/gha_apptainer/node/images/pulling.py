"""Make one image and publish it: in a private work directory, with a private cache, by `apptainer build`, then one rename."""

from __future__ import annotations

import os
import stat
import time
from types import TracebackType
from typing import Callable, Optional, Sequence, Type

from gha_apptainer.domain.documents import to_json
from gha_apptainer.domain.errors import DiskFull, EngineFailed, GhaError, HostUnfit, ImageFailed, disk_full, is_disk_full
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import SANDBOX, OciConfig
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import apptainer, process
from gha_apptainer.node.files import encode, remove_tree, tree_size, write_whole
from gha_apptainer.node.http import USUAL, Retry
from gha_apptainer.node.images.holder import myself
from gha_apptainer.node.images.leases import Ticker
from gha_apptainer.node.images.progress import Progress
from gha_apptainer.node.images.sif import read_sif, sif_config
from gha_apptainer.node.images.store import ROOTFS_NAMES, Store, StoredImage

BUILD_LIMIT = 2 * 3600.0
"""How long one `apptainer build` may take, in seconds: large images on slow networks are real."""

_FULL = ("no space left on device", "disk quota exceeded")
_FINAL = ("unauthorized", "denied", "manifest unknown", "not found", "certificate", "no such host", "400 bad request", "exec format")
_PASSING = (
    "too many requests", "toomanyrequests", "500 internal", "502 bad", "503 service", "504 gateway", "unexpected eof", "connection reset",
    "connection refused", "i/o timeout", "tls handshake timeout", "broken pipe", "deadline exceeded", "unexpected end of json",
)  # fmt: skip


class Work:
    """A private directory for one pull, 0700, with a sign of life; removed at the end, or by a sweep once its owner is dead."""

    def __init__(self, *parents: str) -> None:
        self._parents = parents
        self.paths: tuple[str, ...] = ()
        self._owner = myself()
        self._last = 0.0

    def __enter__(self) -> Work:
        name = "%s-%d-%s" % (self._owner.host[:40].replace("/", "_"), os.getpid(), self._owner.token)
        made = []
        try:
            for parent in self._parents:
                path = os.path.join(parent, name)
                if path not in made:
                    os.makedirs(path, mode=0o700)
                made.append(path)
                self.paths = tuple(made)
            self.live()
        except OSError as error:
            self.__exit__(None, None, None)
            if is_disk_full(error):
                raise disk_full(error, self._parents[0]) from error
            raise ImageFailed("cannot make a work directory in %s: %s" % (self._parents[0], error.strerror)) from error
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def live(self) -> None:
        """A sign of life for sweeps on other hosts, at most every minute."""
        if time.monotonic() - self._last > 60 or not self._last:
            self._last = time.monotonic()
            for path in set(self.paths):
                write_whole(os.path.join(path, "owner"), encode(to_json(self._owner)))

    def used(self) -> int:
        """Bytes in it now."""
        return sum(tree_size(path)[0] for path in set(self.paths))

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        for path in set(self.paths):
            try:
                remove_tree(path)
            except (OSError, EngineFailed):
                continue  # a later sweep has another try; the pull itself is not worse for it


@dataclass(frozen=True)
class Build:
    """One `apptainer build`: `source` is docker://…@digest, a SIF or a directory; `what` names the image in errors."""

    what: str
    source: str
    form: str
    plain_http: bool = False
    authfile: str = ""
    transfer: int = 0


def build(
    one: Build,
    target: str,
    work: Work,
    host: HostFacts,
    *,
    tell: Callable[[str], None],
    ticks: Sequence[Callable[[], None]] = (),
    retry: Retry = USUAL,
) -> None:
    """Run it, with progress, up to three times where the reason may pass.

    Raises ImageFailed, DiskFull or HostUnfit; nothing is left of the target then.
    """
    if not host.apptainer:
        raise HostUnfit(
            "%s: no Apptainer to unpack it with: %s" % (one.what, host.apptainer_reason or "none was found"),
            remedy="gha-apptainer doctor",
        )
    progress = Progress(tell, one.what, 0)  # bytes on disk are no measure of those still to come

    def show() -> None:
        if progress.due():
            progress.at(work.used(), "on disk")

    for attempt in range(retry.tries):
        try:
            with Ticker((*ticks, work.live, show)):
                _build_once(one, target, work, host)
            return
        except _MayPass as error:
            _remove(target)
            if attempt + 1 >= retry.tries:
                raise error.failure from error
            pause = retry.pause(attempt)
            tell("%s; trying again in %.0f s (%d of %d)" % (error.failure.what, pause, attempt + 2, retry.tries))
            time.sleep(pause)
        except BaseException:
            _remove(target)
            raise


def _remove(path: str) -> None:
    try:
        remove_tree(path)
    except (OSError, EngineFailed):
        return  # it lies in the work directory and goes with it


class _MayPass(Exception):
    """A failure that may pass; `failure` is what to raise if it does not."""

    def __init__(self, failure: ImageFailed) -> None:
        super().__init__(failure.what)
        self.failure = failure


def _build_once(one: Build, target: str, work: Work, host: HostFacts) -> None:
    temporary = os.path.join(work.paths[-1], "tmp")
    os.makedirs(temporary, mode=0o700, exist_ok=True)
    root = host.uid == 0
    argv = apptainer.build_argv(
        host.apptainer, one.source, target,
        sandbox=one.form == SANDBOX, plain_http=one.plain_http, authfile=one.authfile, fix_perms=not root and one.form != SANDBOX,
    )  # fmt: skip
    argv = apptainer.guarded_argv(argv, os.getpid(), host.uid_ranges if root else (), host.gid_ranges if root else ())
    env = apptainer.build_env(host.apptainer, work.paths[-1], temporary, os.environ)
    done = process.run(argv, env=env, timeout=BUILD_LIMIT)
    if done.code == 0 and os.path.lexists(target):
        return
    text = done.stderr.decode("utf-8", "replace").strip()
    low = text.lower()
    if any(word in low for word in _FULL):
        raise DiskFull(
            "cannot unpack %s: %s" % (one.what, _last(text)),
            cause="%s or %s is full, or a quota is used up" % (os.path.dirname(target), temporary),
            remedy="free space there (gha-apptainer image gc), or set another store",
        )
    why = _last(text) or "apptainer build ended with %d" % done.code
    failure = ImageFailed("cannot unpack %s: %s" % (one.what, why), cause=_cause(low))
    if any(word in low for word in _PASSING) and not any(word in low for word in _FINAL):
        raise _MayPass(failure)
    raise failure


def _last(text: str) -> str:
    """The line that matters of Apptainer's words: its last FATAL or ERROR, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(("FATAL", "ERROR")):
            return line.partition(":")[2].strip()[-600:]
    return lines[-1][-600:] if lines else ""


def _cause(low: str) -> str:
    if "digest" in low and ("mismatch" in low or "did not match" in low or "error verifying" in low):
        return "the registry sent damaged data: a broken store, or a proxy that alters what it passes"
    if "operation not permitted" in low or "permission denied" in low:
        return "the image needs rights that this user does not have here"
    return ""


def publish(store: Store, made: str, stored: StoredImage, config_from_sif: bool = False) -> StoredImage:
    """Measure what was made in the directory `made`, complete the document, and publish it; gives what the store now holds."""
    rootfs = os.path.join(made, ROOTFS_NAMES[stored.form])
    config: OciConfig = stored.config
    inodes = 0
    if stored.form == SANDBOX:
        if os.geteuid() != 0:
            give_owner_rights(rootfs)
        size, inodes = tree_size(rootfs)
    else:
        sif = read_sif(rootfs)
        os.chmod(rootfs, 0o644)
        size = os.stat(rootfs).st_size
        if config_from_sif:
            config = sif_config(sif) or config
    done = StoredImage(**{**stored.__dict__, "size": size, "inodes": inodes, "config": config})
    store.publish(made, done)
    found = store.find(done.digest)
    if found is None:
        raise GhaError("%s was published and is not there" % store.entry(done.digest))
    return found


def give_owner_rights(rootfs: str) -> None:
    """Let the owner of a tree read and write all of it: an ordinary user has no other way to read, copy or remove what an image closes.

    Apptainer's own --fix-perms does so too, but takes the sticky and setuid bits with it.
    """
    todo = [rootfs]
    while todo:
        directory = todo.pop()
        mode = stat.S_IMODE(os.lstat(directory).st_mode)
        if mode & 0o700 != 0o700:
            os.chmod(directory, mode | 0o700)
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                    if mode & 0o600 != 0o600:
                        os.chmod(entry.path, mode | 0o600)
