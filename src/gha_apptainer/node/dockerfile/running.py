"""RUN: one container over the stage's tree, whose writable layer is kept when its command has ended with 0."""

from __future__ import annotations

import hashlib
import os
from typing import Callable, List, Mapping, Optional, Tuple

from gha_apptainer.domain.containers import NETWORK_HOST, NETWORK_NONE, TMPFS, ContainerSpec, ExecRequest, ExitStatus, Mount, Owner, Stdio
from gha_apptainer.domain.errors import DiskFull, ImageFailed, InputError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import SANDBOX
from gha_apptainer.domain.values import dataclass, replace
from gha_apptainer.node import files, process
from gha_apptainer.node.dockerfile.actions import Run, RunMount
from gha_apptainer.node.dockerfile.bases import settings_for, shared_base
from gha_apptainer.node.dockerfile.copying import Manner, place
from gha_apptainer.node.dockerfile.selecting import Root, Taken, digest_of, select
from gha_apptainer.node.dockerfile.stages import Step
from gha_apptainer.node.dockerfile.surroundings import Surroundings, key_of
from gha_apptainer.node.dockerfile.trees import Tree, flatten
from gha_apptainer.node.engine import deciding
from gha_apptainer.node.engine import trees as rooms
from gha_apptainer.node.engine.containers import ApptainerEngine
from gha_apptainer.node.images.filesystems import LOCAL
from gha_apptainer.node.images.holder import myself
from gha_apptainer.node.images.leases import Lease, acquire_or_find, try_acquire

GRACE = 10.0
"""Seconds between a signal to the build and the end of its command by force."""
SCRIPT = "/.gha-apptainer-script"
"""Where a here-document with an interpreter of its own lies while it runs."""
_FULL = ("no space left on device", "disk quota exceeded")
_KEPT = 1 << 16  # bytes reserved for what a silent command says, so that it can say that the disk is full
_TAIL = 4000  # bytes of a silent command's output that go into its error
TreeOf = Callable[[str], Tree]


@dataclass(frozen=True)
class Prepared:
    """A mount whose source is known. `path` is the directory or file; "" for what has none."""

    wish: RunMount
    path: str = ""


class _Known(deciding.Looks):
    """What a build has found out once for all its containers."""

    def __init__(self, whole_reason: str) -> None:
        self._whole_reason = whole_reason

    def nature(self, path: str) -> str:  # noqa: ARG002
        """Where builds work is local storage."""
        return LOCAL

    def overlay_reason(self, upper_parent: str, lower: str, host: HostFacts) -> str:  # noqa: ARG002
        """The same for every layer of the build."""
        return self._whole_reason


class Runner:
    """Runs commands of one build. `output` is a descriptor for what they print, -1 keeps it for errors."""

    def __init__(self, around: Surroundings, secrets: Mapping[str, bytes], output: int, scope: str) -> None:
        self._around, self._secrets, self._output, self._scope = around, secrets, output, scope
        host = around.host
        self._engine = ApptainerEngine(
            type(host)(**{**host.__dict__, "fuse_overlayfs": ""}),  # a layer of the kernel's overlay, or a whole tree: nothing else is kept
            settings_for(around.settings, around.work.paths[0]),
            around.tell,
            _Known(around.whole_reason),
        )
        self._flat: List[Tuple[str, str]] = []

    def prepare(self, action: Run, context: Root, tree_of: TreeOf) -> Tuple[Tuple[Prepared, ...], str]:
        """The mounts with their sources, and a digest of the content of those that count."""
        found: List[Prepared] = []
        digests: List[str] = []
        for wish in action.mounts:
            if wish.kind == "bind":
                root = context if not wish.origin else Root(self._flattened(tree_of(wish.origin)), wish.origin)
                taken = select(root, wish.source or "/")
                if len(taken) != 1:
                    raise InputError("--mount source=%s means several files" % wish.source)
                digests.append(digest_of(root, taken, ids=not self._around.single))
                copied = not wish.read_only or root.ignored is not None
                found.append(Prepared(wish, self._copied(root, taken[0]) if copied else taken[0].path))
            elif wish.kind == "secret":
                if wish.id in self._secrets:
                    found.append(Prepared(wish))
                elif wish.required:
                    raise InputError("the secret %s is not given" % wish.id, remedy="--secret id=%s,src=FILE" % wish.id)
            else:
                found.append(Prepared(wish))
        return tuple(found), key_of(*digests)

    def _copied(self, root: Root, taken: Taken) -> str:
        """A private copy of what is mounted: what a command writes there is gone afterwards, and ignored files are not in it."""
        folder = self._around.directory("bind")
        name = "tree/" if taken.directory else "file"
        rooms.in_namespace(self._around.host, lambda single: place(folder, ((root, taken),), name, Manner(None, "", single)))
        return os.path.join(folder, name.rstrip("/"))

    def _flattened(self, tree: Tree) -> str:
        for key, path in self._flat:
            if key == tree.key:
                return path
        path = os.path.join(self._around.directory("flat"), "tree")
        layers = tuple(self._around.cache.tree(layer) for layer in tree.layers)
        base = shared_base(self._around, tree)
        rooms.in_namespace(self._around.host, lambda _single: flatten(base, layers, path, link=True))
        self._flat.append((tree.key, path))
        return path

    def run(self, tree: Tree, action: Run, mounts: Tuple[Prepared, ...], target: str, step: Step) -> None:
        """Run it; its layer lies at `target` then. Raises ImageFailed naming file, line, command and exit code."""
        around = self._around
        folder = around.directory("run")
        leases: List[Lease] = []
        env = dict((*action.env, *action.unseen))
        placed: List[Mount] = []
        try:
            for number, one in enumerate(mounts):
                placed += self._mounted(one, os.path.join(folder, str(number)), env, leases)
            argv = action.argv
            if action.script:
                files.write_whole(os.path.join(folder, "script"), files.encode(action.script), mode=0o755)
                placed.append(Mount(os.path.join(folder, "script"), SCRIPT, read_only=True))
                argv = (SCRIPT,)
            image = replace(tree.image, rootfs=tree.base, form=SANDBOX)
            spec = ContainerSpec(
                image=image,
                owner=Owner(around.host.hostname, around.host.boot_id, self._scope, os.getpid(), process.start_time(os.getpid())),
                main=ExecRequest(argv, tuple(env.items()), action.cwd, action.user, create_cwd=True),
                mounts=tuple(placed),
                hostname="build",
                network=NETWORK_NONE if action.network == "none" else NETWORK_HOST,
                remove=True,
                layers=tuple(around.cache.tree(layer) for layer in tree.layers),
                keep=target,
            )
            self._finished(self._run(spec, folder), os.path.join(folder, "output"), target, step)
        finally:
            for lease in leases:
                lease.release()
            files.remove_tree(folder)

    def _run(self, spec: ContainerSpec, folder: str) -> ExitStatus:
        if self._output >= 0:
            return self._engine.run(spec, "", Stdio(-1, self._output, self._output), grace=GRACE)
        handle = os.open(os.path.join(folder, "output"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                os.posix_fallocate(handle, 0, _KEPT)
            except OSError:
                pass  # a file system that cannot reserve; what the command says may then be lost with a full disk
            try:
                return self._engine.run(spec, "", Stdio(-1, handle, handle), grace=GRACE)
            finally:
                os.ftruncate(handle, os.lseek(handle, 0, os.SEEK_CUR))  # the command wrote through the same open file
        finally:
            os.close(handle)

    def _finished(self, status: ExitStatus, output: str, target: str, step: Step) -> None:
        if not status.exit_code and not status.reason:
            if not os.path.isdir(target):
                what = "%s:%d: %s: its files are not there" % (step.file, step.line, step)
                raise ImageFailed(what, cause="the container's monitor was lost")
            return
        tail = ""
        if self._output < 0:
            try:
                tail = files.decode(files.read_whole(output))[-_TAIL:].strip()
            except OSError:
                pass
        why = status.reason
        if not why and (status.oom or status.signal):
            why = "it was killed: out of memory" if status.oom else "killed by signal %d" % status.signal
        what = "%s:%d: %s: ended with exit code %d" % (step.file, step.line, step, status.exit_code)
        cause = "; ".join(part for part in (why, tail and "it said: " + tail) if part)
        if any(word in tail.lower() for word in _FULL):
            raise DiskFull(
                what, cause=cause, remedy="free space in %s (gha-apptainer image gc), or set another store" % self._around.store.root
            )
        raise ImageFailed(what, cause=cause, remedy="" if status.reason else "correct the instruction, or what it uses")

    def _mounted(self, one: Prepared, place_: str, env: dict[str, str], leases: List[Lease]) -> List[Mount]:
        wish = one.wish
        if wish.kind == "bind":
            return [Mount(one.path, wish.target, read_only=wish.read_only)]
        if wish.kind == "tmpfs":
            return [Mount("", wish.target, kind=TMPFS, size=wish.size)]
        if wish.kind == "cache":
            return [Mount(self._cache(wish, place_, leases), wish.target, read_only=wish.read_only)]
        secret = self._secrets[wish.id]
        if wish.variable:
            env[wish.variable] = files.decode(secret)
        if not wish.target:
            return []
        files.write_whole(place_, secret, mode=0o400 if wish.mode < 0 else wish.mode)
        self._own(place_, wish)
        return [Mount(place_, wish.target, read_only=True)]

    def _own(self, path: str, wish: RunMount) -> None:
        if not self._around.single:
            os.chown(path, *wish.owner)

    def _cache(self, wish: RunMount, place_: str, leases: List[Lease]) -> str:
        """The directory of a cache mount, kept in the store; a private one that somebody has is made anew, a locked one is waited for."""
        around = self._around
        name = hashlib.sha256(files.encode("%s\0%s\0%d:%d" % (wish.id, around.kind, *wish.owner))).hexdigest()
        kept = around.store.path("caches", name, "tree")
        if wish.sharing != "shared":
            lease: Optional[Lease] = try_acquire(around.store.lease("cache-" + name), myself())
            if lease is None and wish.sharing == "locked":
                lease = wait_for(around, name, wish)
            if lease is None:
                kept = place_
            else:
                leases.append(lease)
        if not os.path.isdir(kept):
            os.makedirs(kept, mode=0o755, exist_ok=True)
            os.chmod(kept, 0o755 if wish.mode < 0 else wish.mode)
            self._own(kept, wish)
        if kept != place_:
            files.write_whole(os.path.join(os.path.dirname(kept), "used"), b"")
        return kept


def wait_for(around: Surroundings, name: str, wish: RunMount) -> Lease:
    """A cache that only one command may have at a time."""

    def never() -> Optional[Lease]:
        return None

    return acquire_or_find(around.store.lease("cache-" + name), never, what="cache %s" % wish.id, tell=around.tell, does="uses")
