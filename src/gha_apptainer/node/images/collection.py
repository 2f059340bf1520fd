"""What the store holds, and making room in it. No image that a live container holds, on any node, is removed."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import List, Optional, Sequence, Tuple

from gha_apptainer.domain.errors import GhaError, ImageFailed, InputError, Refused
from gha_apptainer.domain.findings import FAIL, OK, Finding
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_refs import PATH, parse
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.images.build_layers import LayerCache
from gha_apptainer.node.images.build_remains import Candidate, spare_parts
from gha_apptainer.node.images.platforms import platform_for
from gha_apptainer.node.images.progress import megabytes
from gha_apptainer.node.images.routes.store import stores
from gha_apptainer.node.images.store import Store
from gha_apptainer.node.images.uses import holders

JUST_USED = 600.0
"""Seconds after its last use in which a collection leaves an image alone: a container may be about to hold it."""


@dataclass(frozen=True)
class ListedImage:
    """One entry of the store. `used` is its last use (0: cannot be told), `trouble` says what is wrong with a damaged one."""

    reference: str
    digest: str
    form: str
    size: int
    created: float
    used: float
    route: str
    holders: Tuple[str, ...]
    path: str
    trouble: str = ""


def list_images(settings: NodeSettings, host: HostFacts) -> Tuple[ListedImage, ...]:
    """Every image in the stores of this host, most recently used first; damaged ones with their trouble."""
    return tuple(sorted((one for _, one in _listed(settings, host)), key=lambda one: -one.used))


def _listed(settings: NodeSettings, host: HostFacts) -> List[Tuple[Store, ListedImage]]:
    listed = []
    for store in stores(settings, host):
        for digest in store.digests():
            used, held, path = store.last_use(digest), holders(store, digest), store.entry(digest)
            try:
                found = store.find(digest)
            except GhaError as error:
                listed.append((store, ListedImage("", digest, "", 0, 0.0, used, "", held, path, error.what)))
                continue
            if found is not None:
                one = ListedImage(found.reference, digest, found.form, found.size, found.created, used, found.route, held, path)
                listed.append((store, one))
    return listed


def remove_image(name: str, settings: NodeSettings, host: HostFacts) -> ListedImage:
    """Remove the image that `name` means: a reference, a digest, or the first 6 and more digits of one.

    Raises ImageFailed if there is none, InputError if several fit, Refused while a container holds it.
    """
    found = [(store, one) for store, one in _listed(settings, host) if one.digest in _meant(name, store, host) or _starts(one.digest, name)]
    if not found:
        raise ImageFailed("no image %s in the store" % name, remedy="gha-apptainer image ls shows what is there")
    if len({one.digest for _, one in found}) > 1:
        raise InputError("%s fits several images: %s" % (name, ", ".join(one.digest for _, one in found)), remedy="give more digits")
    for store, one in found:
        _remove(store, one)
    return found[0][1]


def _starts(digest: str, name: str) -> bool:
    digits = name.partition(":")[2] if name.startswith("sha256:") else name
    return len(digits) >= 6 and digest.partition(":")[2].startswith(digits)


def _meant(name: str, store: Store, host: HostFacts) -> Tuple[str, ...]:
    if name.startswith("sha256:"):
        return ()
    try:
        ref = parse(name)
    except InputError:
        return ()
    if ref.transport == PATH:
        return ()
    platform = str(platform_for(host.machine))
    return tuple(digest for digest in (store.recall(ref, platform), ref.digest) if digest)


def _remove(store: Store, one: ListedImage) -> None:
    """Move the entry away, look for holds once more, and only then remove it."""
    if one.holders:
        raise Refused("image %s is in use by %s" % (one.digest, ", ".join(one.holders)), remedy="remove those containers first")
    entry = store.entry(one.digest)
    aside = store.path("trash", "%s.%s" % (os.path.basename(entry), os.urandom(6).hex()))
    try:
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        os.rename(entry, aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ImageFailed("cannot remove %s: %s" % (entry, error.strerror), cause="it belongs to somebody else") from error
    held = holders(store, one.digest)
    if held and not os.path.lexists(entry):
        os.rename(aside, entry)
        raise Refused("image %s has just been taken into use by %s" % (one.digest, ", ".join(held)))
    store.discard(aside)


def collect(
    settings: NodeSettings, host: HostFacts, *, max_bytes: Optional[int] = None, unused_for: Optional[float] = None
) -> Sequence[Finding]:
    """Make room: remove what dead processes left, damaged images, images, layers and caches of builds not used for `unused_for` seconds,
    and then the longest unused ones until the rest takes at most `max_bytes` (default: the setting `store_bytes`; 0 is no limit).

    Gives one finding for each thing done or failed; images that are held or were used in the last ten minutes stay.
    """
    findings = []
    limit = settings.store_bytes if max_bytes is None else max_bytes
    for store in stores(settings, host):
        if os.path.isdir(store.root):
            count = store.sweep()
            if count:
                findings.append(Finding("image-gc", OK, "removed %d unfinished things in %s" % (count, store.root)))
    candidates = [*_images(settings, host), *(one for store in stores(settings, host) for one in spare_parts(store, host.boot_id))]
    candidates.sort(key=lambda one: one.used)
    total = sum(one.size for one in candidates)
    now = time.time()
    for one in candidates:
        idle = now - one.used
        reason = ""
        if one.trouble:
            reason = "damaged: %s" % one.trouble
        elif unused_for is not None and idle > unused_for:
            reason = "not used for %.1f days" % (idle / 86400)
        elif limit and total > limit:
            reason = "the store is over its limit of %s" % megabytes(limit)
        if not reason or one.held or (idle < JUST_USED and not one.trouble):
            continue
        try:
            one.remove()
        except GhaError as error:
            findings.append(Finding("image-gc", FAIL, error.what, error.remedy))
            continue
        total -= one.size
        findings.append(Finding("image-gc", OK, "removed %s (%s): %s" % (one.what, megabytes(one.size), reason)))
    for store in stores(settings, host):
        LayerCache(store, host.boot_id).forget()
    return findings


def _images(settings: NodeSettings, host: HostFacts) -> List[Candidate]:
    return [
        Candidate("%s %s" % (one.reference, one.digest), one.size, one.used, bool(one.holders), one.trouble, partial(_remove, store, one))
        for store, one in _listed(settings, host)
    ]
