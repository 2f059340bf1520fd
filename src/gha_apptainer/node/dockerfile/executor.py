"""The executor: an action on a tree becomes a layer, taken from the cache where the same was done before.

Every layer is made in the build's own work directory and published by rename; a build that is killed leaves nothing but that directory,
which the next sweep removes. Two builds that want the same layer wait for each other, or make it twice where one cannot be seen.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.values import dataclass, field
from gha_apptainer.node import files, http
from gha_apptainer.node.dockerfile.actions import Action, Copy, MakeDirectory, Run
from gha_apptainer.node.dockerfile.copying import Manner, archive_kind, make_directory, owner_ids, place, unpack
from gha_apptainer.node.dockerfile.evaluation import is_address
from gha_apptainer.node.dockerfile.ignoring import Patterns, patterns
from gha_apptainer.node.dockerfile.running import Runner
from gha_apptainer.node.dockerfile.selecting import Root, Taken, digest_of, select
from gha_apptainer.node.dockerfile.stages import Step
from gha_apptainer.node.dockerfile.surroundings import Surroundings, key_of
from gha_apptainer.node.dockerfile.trees import Tree
from gha_apptainer.node.engine import layers as roots
from gha_apptainer.node.engine import trees as rooms
from gha_apptainer.node.images.build_layers import StoredLayer
from gha_apptainer.node.images.leases import Lease, Renewer, acquire_or_find
from gha_apptainer.node.images.pulling import give_owner_rights

CONTEXT = "the build context"
TreeOf = Callable[[str], Tree]


@dataclass(frozen=True)
class Done:
    """A tree after a step, whether it came from the cache, and how long it took, in seconds."""

    tree: Tree
    cached: bool
    seconds: float


class Executor:
    """Does the actions of one build. `tree_of` gives the tree of a stage or image that a step names."""

    def __init__(
        self, around: Surroundings, context: str, ignored: Optional[Patterns], tree_of: TreeOf, runner: Runner, *, use_cache: bool
    ) -> None:
        self._around, self._tree_of, self._runner, self._use_cache = around, tree_of, runner, use_cache
        self._context = Root(context, CONTEXT, ignored)

    def do(self, tree: Tree, action: Action, step: Step) -> Done:
        """The tree with one more layer. Raises InputError or Refused naming file and line, ImageFailed for a command that failed."""
        began = time.monotonic()
        around, cache = self._around, self._around.cache
        prepared = self._prepared(action, step)
        key = key_of(tree.key, type(action).__name__, _counted(action), prepared.digest)

        def find() -> Optional[StoredLayer]:
            return cache.find(key) if self._use_cache else None

        got = acquire_or_find(cache.lease(key), find, what=str(step)[:80], tell=around.tell, does="builds")
        cached = not isinstance(got, Lease)
        if isinstance(got, Lease):
            with got, Renewer([got.renew, around.renew]):
                made = around.directory("layer")
                self._make(tree, action, prepared, made, step)
                layer = self._published(made, key, step)
        else:
            layer = got
        around.leaning(layer)
        above = (layer,) if layer.whole else (layer, *tree.layers)
        base = cache.tree(layer) if layer.whole else tree.base
        after = Tree(base, key_of(tree.key, layer.digest), tree.root, tree.image, () if layer.whole else above)
        return Done(after, cached, time.monotonic() - began)

    def _published(self, made: str, key: str, step: Step) -> StoredLayer:
        if os.geteuid() != 0:
            give_owner_rights(os.path.join(made, "tree"))
        return self._around.cache.publish(made, key, str(step), whole=bool(self._around.whole_reason), ids=not self._around.single)

    def _make(self, tree: Tree, action: Action, prepared: _Prepared, made: str, step: Step) -> None:
        target = os.path.join(made, "tree")
        if isinstance(action, Run):
            self._runner.run(tree, action, prepared.mounts, target, step)
            return
        try:
            self._change(tree, lambda root, single: self._act(root, action, prepared, single), target)
        except GhaError as error:
            raise located(error, step) from error
        if prepared.taken and _digest(prepared.taken) != prepared.digest:  # it would be found again under the wrong name
            raise step.wrong("files of the context changed while they were copied", "build again when nobody writes to them")

    def _change(self, tree: Tree, act: Callable[[str, bool], Any], target: str) -> None:
        """Let `act` change the tree's files; the layer lies at `target` then."""
        around = self._around
        place_ = around.directory("root")
        plan = rooms.plan_for(tree.base, paths(around, tree), around.whole_reason)
        rooms.change(around.host, plan, place_, act, lambda _text: None)
        os.rename(os.path.join(place_, "merged" if around.whole_reason else "upper"), target)
        files.remove_tree(place_)

    def _act(self, root: str, action: Action, prepared: _Prepared, single: bool) -> None:
        """In a child, on the mounted root."""
        if isinstance(action, MakeDirectory):
            make_directory(root, action.path, Manner(None, "", single))
            return
        assert isinstance(action, Copy)
        owner: Optional[Tuple[int, int]] = owner_ids(root, action.owner) if action.owner else None if action.origin else (0, 0)
        manner = Manner(owner, action.mode, single)
        if prepared.tree is not None:
            place(root, _selected(_excluding(self._shown(prepared.tree), action), action), action.target, manner)
            return
        plain: List[Tuple[Root, Taken]] = []
        for found, taken in prepared.taken:
            kind = prepared.archives.get(taken.path, "")
            if kind:
                unpack(root, taken.path, kind, action.target, Manner(owner if action.owner else None, action.mode, single))
            else:
                plain.append((found, taken))
        if plain:
            place(root, tuple(plain), action.target, manner)

    def _shown(self, tree: Tree) -> Root:
        """In a child: another tree, to be read."""
        place_ = os.path.join(self._around.work.paths[0], "shown-%s" % os.urandom(6).hex())
        os.mkdir(place_)
        return Root(roots.show(tree.base, paths(self._around, tree), place_), "that stage or image")

    # what an action needs before it can be looked up

    def _prepared(self, action: Action, step: Step) -> _Prepared:
        try:
            if isinstance(action, Copy):
                return self._prepared_copy(action, step)
            if isinstance(action, Run):
                mounts, digest = self._runner.prepare(action, self._context, self._tree_of)
                return _Prepared(digest, mounts=mounts)
        except GhaError as error:
            raise located(error, step) from error
        return _Prepared("")

    def _prepared_copy(self, action: Copy, step: Step) -> _Prepared:
        ids = not self._around.single
        if action.origin:
            tree = self._tree_of(action.origin)

            def look(_single: bool) -> str:
                shown = self._shown(tree)
                found = _selected(_excluding(shown, action), action)
                return digest_of(_excluding(shown, action), tuple(taken for _, taken in found), ids=ids)

            return _Prepared(rooms.in_namespace(self._around.host, look), tree)
        root = _excluding(self._context, action)
        taken: List[Tuple[Root, Taken]] = []
        archives: Dict[str, str] = {}
        for source in action.sources:
            if action.add and is_address(source):
                one = self._downloaded(source, action, step)
                taken.append((Root(os.path.dirname(one.path), source), one))
                found: Tuple[Taken, ...] = (one,)
            else:
                found = select(root, source, parents=action.parents)
                taken += [(root, one) for one in found]
            wanted = action.unpack if action.unpack is not None else not is_address(source)
            if action.add and wanted:
                kinds = {one.path: archive_kind(one.path) for one in found if not one.directory and os.path.isfile(one.path)}
                archives.update({path: kind for path, kind in kinds.items() if kind})
        if len(taken) > 1 and not action.target.endswith("/") and not all(one.path in archives for _, one in taken):
            raise step.wrong("several sources need a target that is a directory", "end it with /: %s/" % action.target)
        if action.files:
            folder = self._around.directory("here")
            for name, content in action.files:
                path = os.path.join(folder, os.path.basename(name))
                files.write_whole(path, files.encode(content), mode=0o644)
                os.utime(path, (0, 0))
                taken.append((Root(folder, "here-documents"), Taken(path, os.path.basename(name), os.path.basename(name), False)))
        return _Prepared(_digest(taken), taken=tuple(taken), archives=archives)

    def _downloaded(self, address: str, action: Copy, step: Step) -> Taken:
        """A file that ADD fetches, with the time that its server tells."""
        name = "fetched"
        if action.target.endswith("/"):
            name = os.path.basename(address.split("?", maxsplit=1)[0].split("#", maxsplit=1)[0].rstrip("/"))
        if not name or "/" not in address.partition("://")[2]:
            raise step.wrong("%s has no file name" % address, "name the file in the target")
        folder = self._around.directory("fetched")
        path = os.path.join(folder, name)
        try:
            answer = http.download(address, path, sha256=action.checksum.partition(":")[2], tell=self._around.tell)
        except GhaError as error:
            error.what = "%s: %s" % (address, error.what)
            raise
        if answer.status != 200:
            raise step.wrong("%s answers %d" % (address, answer.status), "check the address")
        os.chmod(path, 0o600)
        changed = http.changed_at(answer)
        os.utime(path, (changed, changed))
        return Taken(path, name, name, False)


@dataclass(frozen=True)
class _Prepared:
    """What an action takes: `digest` is of its content. `tree` is another stage's; `archives` are kinds by path."""

    digest: str
    tree: Optional[Tree] = None
    taken: Tuple[Tuple[Root, Taken], ...] = ()
    archives: Mapping[str, str] = field(default_factory=dict)
    mounts: Tuple[Any, ...] = ()


def located(error: GhaError, step: Step) -> GhaError:
    """The error with file, line and instruction before its text, unless they stand there."""
    if not error.what.startswith(step.file + ":"):
        error.what = "%s:%d: %s: %s" % (step.file, step.line, step.keyword, error.what)
    return error


def paths(around: Surroundings, tree: Tree) -> Tuple[str, ...]:
    """The directories of a tree's layers."""
    return tuple(around.cache.tree(layer) for layer in tree.layers)


def _counted(action: Action) -> object:
    """What of an action counts for the cache. A checksum proves content, it does not change it."""
    values = dict(action.__dict__)
    values.pop("unseen", None)
    values.pop("checksum", None)
    if isinstance(action, Run):
        values["mounts"] = [one for one in action.mounts if one.kind != "secret"]
    return values


def _digest(taken: Sequence[Tuple[Root, Taken]]) -> str:
    """The digest of all that was taken from the context, from addresses and from here-documents."""
    return key_of(*(digest_of(root, (one,), ids=False) for root, one in taken))


def _excluding(root: Root, action: Copy) -> Root:
    if not action.exclude:
        return root
    return Root(root.path, root.title, root.ignored, patterns(tuple(enumerate(action.exclude, 1)), "--exclude"))


def _selected(root: Root, action: Copy) -> Tuple[Tuple[Root, Taken], ...]:
    return tuple((root, taken) for source in action.sources for taken in select(root, source, parents=action.parents))
