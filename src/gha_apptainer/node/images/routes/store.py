"""Route store: the image was fetched before."""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import RouteStep
from gha_apptainer.domain.images import PULL_ALWAYS, SIF, Digest, Image
from gha_apptainer.domain.places import store_path
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node.images.filesystems import LOCAL, measure
from gha_apptainer.node.images.platforms import platform_for
from gha_apptainer.node.images.progress import megabytes
from gha_apptainer.node.images.routes import Errand, Look, NotServed, Question
from gha_apptainer.node.images.store import Store, StoredImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple


class StoreRoute:
    """Our own store, and beside a shared one the node-local store that hosts without FUSE use."""

    def look(self, question: Question) -> Look:
        """Whether the reference is known and its image there and whole; with `always` the registry must still say the same."""
        trouble = "not in the store %s" % store_path(question.settings, question.host)
        for store in stores(question.settings, question.host):
            digest = known(store, question)
            if not digest:
                continue
            try:
                found = store.find(digest)
            except GhaError as error:
                trouble = "damaged in the store: %s" % error.what
                continue
            if found is None:
                trouble = "known as %s, but no longer in the store" % digest
                continue
            unfit = _unfit(found, question.host)
            if unfit:
                trouble = unfit
                continue
            why = "fetched before as %s (%s, %s)" % (found.form, digest, megabytes(found.size))
            cost = "asks the registry whether it is still current" if question.policy == PULL_ALWAYS and not question.ref.pinned else "none"
            return Look(True, why, cost, store.entry(digest), Digest(digest, found.kind))
        return Look(False, trouble)

    def take(self, errand: Errand, step: RouteStep) -> Image:
        """The stored image; with `always` only if the registry says that it is the current one."""
        question = errand.question
        digest = step.digest.text
        if question.policy == PULL_ALWAYS and not question.ref.pinned:
            current = errand.remote.resolved().digest
            if current != digest:
                raise NotServed("the store has %s, the registry %s by now" % (digest, current))
        return take_stored(errand, digest)


def stores(settings: NodeSettings, host: HostFacts) -> Tuple[Store, ...]:
    """The stores in which an image may lie: the one of the settings, then the node-local one where that is another."""
    first, local = store_path(settings, host), os.path.join(host.state_dir, "store")
    return (Store(first),) if first == local else (Store(first), Store(local))


def known(store: Store, question: Question) -> str:
    """The manifest digest that the store knows for a reference; empty if it knows none."""
    platform = str(platform_for(question.host.machine))
    ref = question.ref
    found = store.recall(ref, platform)
    if found or not ref.pinned:
        return found
    return ref.digest if os.path.isdir(store.entry(ref.digest)) else store.by_index(ref.digest, platform)


def take_stored(errand: Errand, digest: str) -> Image:
    """An image by its digest from any of the stores. Raises NotServed where it is gone or damaged meanwhile."""
    question = errand.question
    trouble = "%s is no longer in the store" % digest
    for store in stores(question.settings, question.host):
        try:
            found = store.find(digest)
        except GhaError as error:
            trouble = error.what
            continue
        if found is not None and found.platform == str(platform_for(question.host.machine)):
            trouble = _unfit(found, question.host)
            if not trouble:
                return store.image(found, question.ref)
    raise NotServed(trouble)


def _unfit(found: StoredImage, host: HostFacts) -> str:
    """Why a stored image is of no use on this host; empty if it is."""
    if found.form == SIF and host.fuse_reason and measure(os.path.join(host.state_dir, "store")).nature == LOCAL:
        return "stored as SIF, and FUSE cannot be used here: %s" % host.fuse_reason
    return ""
