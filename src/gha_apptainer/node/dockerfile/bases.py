"""What a stage begins with: an empty directory, or an image by the usual routes, as a directory that an overlay can lie on."""

from __future__ import annotations

import hashlib
import os
from typing import Callable, Optional, Tuple

from gha_apptainer.domain.asked import Asked
from gha_apptainer.domain.container_specs import check_platform
from gha_apptainer.domain.errors import GhaError, InputError, Refused
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import PATH, ImageRef, parse
from gha_apptainer.domain.images import SANDBOX, Image
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import images
from gha_apptainer.node.dockerfile.surroundings import Surroundings, key_of
from gha_apptainer.node.dockerfile.trees import Tree, bare_image, flatten
from gha_apptainer.node.engine import trees as rooms
from gha_apptainer.node.engine.layers import foreign_owner
from gha_apptainer.node.files import encode, tree_size
from gha_apptainer.node.host import overlay_probe
from gha_apptainer.node.images.build_layers import walk
from gha_apptainer.node.images.leases import Lease, Renewer, acquire_or_find
from gha_apptainer.node.images.progress import megabytes
from gha_apptainer.node.images.pulling import Build, give_owner_rights
from gha_apptainer.node.images.pulling import build as unpack

Tell = Callable[[str], None]
LoginFor = Callable[[ImageRef], Optional[Login]]


def parse_base(name: str, where: str) -> ImageRef:
    """The reference of a base image. `where` begins the error: file, line, instruction. Paths are refused: a file that came with an action
    must not name directories of this machine."""
    try:
        ref = parse(name)
    except GhaError as error:
        raise InputError("%s%s" % (where, error.what), cause=error.cause, remedy=error.remedy) from error
    if ref.transport == PATH:
        raise Refused(
            "%s%s is a path, and a build may not take files of this machine outside its context" % (where, name),
            remedy="give the directory a name by the setting aliases",
        )
    return ref


def check_platform_of(platform: str, host: HostFacts, where: str) -> None:
    """Refuse a --platform that this machine is not."""
    try:
        check_platform(Asked(platform=platform), host)
    except Refused as error:
        raise Refused(where + error.what, remedy=error.remedy) from error


def scratch(around: Surroundings) -> Tree:
    """An empty tree."""
    place = os.path.join(around.work.paths[0], "scratch")
    os.makedirs(place, mode=0o755, exist_ok=True)
    key = key_of("scratch", around.kind)
    return Tree(place, key, key, bare_image(place))


def fetched(around: Surroundings, ref: ImageRef, policy: str, login: LoginFor, where: str) -> Tuple[Tree, Image]:
    """An image as a tree that an overlay can lie on, and the image. Raises ImageFailed or what else fetching it raises."""
    settings, host = around.settings, around.host
    try:
        image = images.fetch(images.plan(ref, policy, settings, host), login(ref), around.tell)
    except GhaError as error:
        error.what = where + error.what
        raise
    around.holding(images.use(image, settings, host, around.name))
    root = key_of("image", image.digest.text or _identity(image), around.kind)
    why = _unfit(around, image)
    if not why:
        return Tree(image.rootfs, root, root, image), image
    base = _imported(around, image, root, why)
    return Tree(base, root, root, bare_image(base)), image


def shared_base(around: Surroundings, tree: Tree) -> str:
    """The tree's base as a directory whose files may be shared by hard links: the store's own never change, others are copied once."""
    if os.path.realpath(tree.base).startswith(os.path.realpath(around.store.root) + "/"):
        return tree.base
    return _imported(around, tree.image, tree.root, "files outside the store may be changed by others")


def _unfit(around: Surroundings, image: Image) -> str:
    """Why an image's files cannot lie under an overlay as they are."""
    if image.form != SANDBOX:
        return "it is one compressed file"
    if foreign_owner(image, around.host):
        return "its files belong to another user"
    if around.whole_reason:
        return ""
    return overlay_probe(around.work.paths[0], image.rootfs, around.host)


def _identity(image: Image) -> str:
    """What changes when a directory without a digest changes: names, sizes, inodes and change times of all its files."""
    found = hashlib.sha256()
    for name, _, state in walk(image.rootfs):
        found.update(encode("%s\0%o %d %d %d\0" % (name, state.st_mode, state.st_ino, state.st_size, state.st_ctime_ns)))
    return "tree:" + found.hexdigest()


def _imported(around: Surroundings, image: Image, root: str, why: str) -> str:
    """A copy of the image among the layers, made once."""
    cache, key = around.cache, key_of("import", root)
    got = acquire_or_find(cache.lease(key), lambda: cache.find(key), what=image.reference, tell=around.tell, does="copies")
    if isinstance(got, Lease):
        with got, Renewer([got.renew, around.renew]):
            made = around.directory("import")
            target = os.path.join(made, "tree")
            size = os.stat(image.rootfs).st_size if image.form != SANDBOX else tree_size(image.rootfs)[0]
            around.tell("%s: copying it once for builds, %s: %s" % (image.reference, megabytes(size), why))
            if image.form == SANDBOX:
                rooms.in_namespace(around.host, lambda _single: flatten(image.rootfs, (), target, link=False))
            else:
                unpack(Build(image.reference, image.rootfs, SANDBOX), target, around.work, around.host, tell=around.tell)
            if os.geteuid() != 0:
                give_owner_rights(target)
            layer = cache.publish(made, key, "FROM " + image.reference, whole=True, ids=not around.single)
    else:
        layer = got
    around.leaning(layer)
    return cache.tree(layer)


def settings_for(settings: NodeSettings, work: str) -> NodeSettings:
    """The site's settings with writable layers where the build works, so that they can be kept by renaming them."""
    return NodeSettings(**{**settings.__dict__, "layers": work})
