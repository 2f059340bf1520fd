"""One build from its order to an image in the store."""

from __future__ import annotations

import os
import time
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from gha_apptainer.domain.documents import plain
from gha_apptainer.domain.errors import GhaError, HostUnfit, InputError, Refused
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import CHOSEN, Login
from gha_apptainer.domain.image_refs import ImageRef, parse
from gha_apptainer.domain.images import PULL_IF_NOT_PRESENT, SANDBOX, Image, OciConfig, check_pull_policy
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass, field, replace
from gha_apptainer.node import files, images
from gha_apptainer.node.dockerfile import bases
from gha_apptainer.node.dockerfile.evaluation import Given, State, evaluate
from gha_apptainer.node.dockerfile.executor import Executor, paths
from gha_apptainer.node.dockerfile.ignoring import Patterns, read_patterns
from gha_apptainer.node.dockerfile.running import Runner
from gha_apptainer.node.dockerfile.stages import SCRATCH, Dockerfile, Stage, Step, read_dockerfile, triggered
from gha_apptainer.node.dockerfile.surroundings import Surroundings, key_of
from gha_apptainer.node.dockerfile.table import PROXIES
from gha_apptainer.node.dockerfile.trees import Tree, flatten
from gha_apptainer.node.engine import trees as rooms
from gha_apptainer.node.host import overlay_probe
from gha_apptainer.node.images.forms import placement
from gha_apptainer.node.images.leases import Lease, Renewer, acquire_or_find
from gha_apptainer.node.images.platforms import Platform, platform_for
from gha_apptainer.node.images.pulling import Work, publish
from gha_apptainer.node.images.store import ROOTFS_NAMES, Store, StoredImage, hexdigits

LoginFor = Callable[[ImageRef], Optional[Login]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class BuildOrder:
    """What is asked for; see `dockerfile.build`."""

    context: str
    dockerfile: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    tags: Tuple[str, ...] = ()
    labels: Tuple[Tuple[str, str], ...] = ()
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    cache: bool = True
    pull: str = PULL_IF_NOT_PRESENT
    output: int = -1
    owner_scope: str = "cli"


@dataclass(frozen=True)
class StepReport:
    """One instruction that touched files."""

    stage: str
    line: int
    instruction: str
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Built:
    """The image, the references that mean it now, and how it came about."""

    image: Image
    tags: Tuple[str, ...]
    steps: Tuple[StepReport, ...]
    seconds: float


def build_image(order: BuildOrder, settings: NodeSettings, host: HostFacts, login: LoginFor, tell: Tell) -> Built:
    """Do it. Everything that can be refused before work begins is."""
    began = time.monotonic()
    check_pull_policy(order.pull)
    platform = platform_for(host.machine)
    dockerfile, path = _read(order, platform)
    ignored = _ignored(order.context, path)
    target = dockerfile.target(order.target)
    tags = tuple(_tag(tag, settings, host) for tag in order.tags)
    reason = host.userns_reason or host.apptainer_reason
    if reason:
        raise HostUnfit("nothing can be built here: " + reason, remedy="gha-apptainer doctor names every finding")
    for name in order.args:
        if name not in dockerfile.declared and name not in PROXIES:
            tell("warning: the build argument %s is not used: %s has no ARG for it" % (name, dockerfile.name))
    store = _store(settings, host)
    store.prepare()
    store.sweep()
    with Work(store.path("work")) as work:
        single = bool(rooms.in_namespace(host, lambda one: one))
        whole = overlay_probe(work.paths[0], "", host)
        if whole:
            tell("every layer will be a whole copy: the kernel's overlay does not work here: %s" % whole)
        around = Surroundings(settings, host, store, work, tell, single=single, whole_reason=whole)
        try:
            image, steps = _Build(order, dockerfile, around, ignored, platform, login).result(target, str(tags[0]) if tags else "")
            for tag in tags:
                store.remember(tag, str(platform), image.digest.text)
                tell("%s is %s" % (tag, image.digest))
        finally:
            around.release()
    reference = str(tags[0]) if tags else image.reference
    return Built(replace(image, reference=reference), tuple(str(tag) for tag in tags), steps, time.monotonic() - began)


class _Build:
    """The stages of one build, each built once."""

    def __init__(
        self,
        order: BuildOrder,
        dockerfile: Dockerfile,
        around: Surroundings,
        ignored: Optional[Patterns],
        platform: Platform,
        login: LoginFor,
    ) -> None:
        self._order, self._dockerfile, self._around, self._platform, self._login = order, dockerfile, around, platform, login
        self._given = Given({**_platform_args(platform), **order.args}, dockerfile.meta)
        self._trees: Dict[int, Tuple[Tree, State]] = {}
        self._images: Dict[str, Tuple[Tree, Image]] = {}
        self._reports: List[StepReport] = []
        self._here = 0
        runner = Runner(around, order.secrets, order.output, order.owner_scope)
        self._executor = Executor(around, os.path.realpath(order.context), ignored, self._tree_of, runner, use_cache=order.cache)

    def result(self, target: Stage, name: str) -> Tuple[Image, Tuple[StepReport, ...]]:
        """The image of a stage; `name` is what the store's list shows."""
        self._build(target)
        tree, state = self._trees[target.number]
        config = replace(state.config, labels=tuple({**dict(state.config.labels), **dict(self._order.labels)}.items()))
        return self._stored(tree, config, name), tuple(self._reports)

    def _tree_of(self, name: str) -> Tree:
        """The tree of an earlier stage, or of an image."""
        stage = self._dockerfile.find(name)
        if stage is not None:
            if stage.number >= self._here:
                raise InputError("stage %s is not before this one" % name)
            self._build(stage)  # a trigger of a base image may name a stage that the file itself does not lean on
            return self._trees[stage.number][0]
        if name.lower() == SCRATCH:
            return bases.scratch(self._around)
        return self._image(name, "")[0]

    def _image(self, name: str, where: str) -> Tuple[Tree, Image]:
        ref = bases.parse_base(name, where)
        if str(ref) not in self._images:
            self._images[str(ref)] = bases.fetched(self._around, ref, self._order.pull, self._login, where)
        return self._images[str(ref)]

    def _build(self, target: Stage) -> None:
        """Build a stage and what it leans on, as far as that is not done."""
        needed = self._dockerfile.needed(target)
        for number, stage in enumerate(needed, 1):
            if stage.number not in self._trees:
                before, self._here = self._here, stage.number
                self._stage(stage, "%s %d/%d" % (stage.title, number, len(needed)) if len(needed) > 1 else stage.title)
                self._here = before

    def _stage(self, stage: Stage, title: str) -> None:
        tree, state, steps = self._begun(stage)
        acting = [step for step in steps if step.keyword in ("RUN", "COPY", "ADD", "WORKDIR")]
        at = 0
        for step in steps:
            state, action = evaluate(step, state)
            if action is None:
                continue
            at += 1
            said = "[%s %d/%d] %s" % (title, at, len(acting), _shown(step))
            if step.keyword == "RUN":
                self._around.tell(said)
            done = self._executor.do(tree, action, step)
            tree = done.tree
            self._reports.append(StepReport(stage.title, step.line, str(step), done.cached, done.seconds))
            how = "cached" if done.cached else "done in %.1f s" % done.seconds
            self._around.tell("[%s %d/%d] %s" % (title, at, len(acting), how) if step.keyword == "RUN" else "%s: %s" % (said, how))
        self._trees[stage.number] = (tree, state)

    def _begun(self, stage: Stage) -> Tuple[Tree, State, Tuple[Step, ...]]:
        """What a stage begins with, and its steps with the triggers of its base before them."""
        step = stage.start
        where = "%s:%d: FROM: " % (step.file, step.line)
        if stage.platform:
            bases.check_platform_of(stage.platform, self._around.host, where)
        if stage.parent >= 0:
            tree, state = self._trees[stage.parent]
            state = replace(state, own_cmd=False)
        elif stage.base.lower() == SCRATCH:
            tree, state = bases.scratch(self._around), State(OciConfig(), given=self._given)
        else:
            tree, image = self._image(stage.base, where)
            state = State(image.config, given=self._given)
        triggers = triggered(state.config.onbuild, step.file, step.line)
        if triggers:
            self._around.tell("%s:%d: %d triggers of %s run first" % (step.file, step.line, len(triggers), stage.base))
        return tree, replace(state, config=replace(state.config, onbuild=())), (*triggers, *stage.steps)

    def _stored(self, tree: Tree, config: OciConfig, name: str) -> Image:
        """The image in the store: one tree, hard links to the layers, under a digest of configuration, base and layers."""
        around = self._around
        store = around.store
        digest = key_of("built", tree.key, plain(config), str(self._platform))

        def find() -> Optional[Image]:
            try:
                found = store.find(digest)
            except GhaError:
                return None
            return None if found is None else replace(store.image(found, parse("built:" + hexdigits(digest)[:12])), route="build")

        got = acquire_or_find(store.lease(hexdigits(digest)), find, what="the image", tell=around.tell, does="writes")
        if not isinstance(got, Lease):
            return got
        with got, Renewer([got.renew, around.renew]):
            made = around.directory("image")
            layers = paths(around, tree)
            base = bases.shared_base(around, tree)
            target = os.path.join(made, ROOTFS_NAMES[SANDBOX])
            rooms.in_namespace(around.host, lambda _single: flatten(base, layers, target, link=True))
            stored = StoredImage(
                digest=digest, kind="build", platform=str(self._platform), form=SANDBOX, size=0, inodes=0, config=config,
                config_digest="", reference=name, route="build", created=time.time(),
            )  # fmt: skip
            publish(store, made, stored)
            around.cache.synced(tuple(around.layers))  # one sync was for all of them
        image = find()
        if image is None:
            raise GhaError("%s was built and is not there" % store.entry(digest))
        return image


def _shown(step: Step) -> str:
    text = str(step)
    return text if len(text) <= 160 else text[:157] + "…"


def _platform_args(platform: Platform) -> Dict[str, str]:
    """https://docs.docker.com/reference/dockerfile/#automatic-platform-args-in-the-global-scope."""
    values = {"PLATFORM": str(platform), "OS": platform.os, "ARCH": platform.architecture, "VARIANT": platform.variant}
    return {side + name: value for side in ("TARGET", "BUILD") for name, value in values.items()}


def _read(order: BuildOrder, platform: Platform) -> Tuple[Dockerfile, str]:
    context = order.context
    if context == "-" or "://" in context or context.startswith("git@"):
        raise Refused("the context %s is no directory, and no other is read" % context, remedy="unpack or check it out before")
    if not os.path.isdir(context):
        raise InputError("the context %s is no directory" % context)
    path = order.dockerfile or os.path.join(context, "Dockerfile")
    try:
        text = files.decode(files.read_whole(path, limit=16 << 20))
    except (OSError, GhaError) as error:
        raise InputError("cannot read %s: %s" % (path, getattr(error, "strerror", None) or error), remedy="name it with -f") from error
    own = _platform_args(platform)
    own.update({name: order.args[name] for name in own if name in order.args})
    return read_dockerfile(text, order.dockerfile or "Dockerfile", order.args, own), path


def _ignored(context: str, dockerfile: str) -> Optional[Patterns]:
    for path in (dockerfile + ".dockerignore", os.path.join(context, ".dockerignore")):
        try:
            return read_patterns(files.decode(files.read_whole(path, limit=16 << 20)), path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise InputError("cannot read %s: %s" % (path, error)) from error
    return None


def _tag(text: str, settings: NodeSettings, host: HostFacts) -> ImageRef:
    """A reference for the image. One that a route before the store serves is refused: `run` would start something else."""
    ref = parse(text)
    if ref.transport != "docker" or ref.pinned:
        raise InputError("-t %s: a tag is NAME[:TAG], without a digest" % text)
    for step in images.plan(ref, "never", settings, host).steps:
        if step.route == "store":
            break
        if step.verdict == CHOSEN:
            raise Refused(
                "-t %s: that name is served by route %s here (%s), before what is built" % (text, step.route, step.why),
                remedy="choose another name",
            )
    return ref


def _store(settings: NodeSettings, host: HostFacts) -> Store:
    """Where what is built goes: the usual store where images lie unpacked in it, else the node-local one, which is looked into as well."""
    place = placement(settings, host)
    return Store(place.store if place.form == SANDBOX else os.path.join(host.state_dir, "store"))
