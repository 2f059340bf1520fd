"""What builds leave in the store to be faster the next time: layers and caches, as candidates for a collection."""

from __future__ import annotations

import os
from functools import partial
from typing import Callable, Iterator

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.files import tree_size
from gha_apptainer.node.images.build_layers import LayerCache
from gha_apptainer.node.images.store import Store
from gha_apptainer.node.images.uses import holders


@dataclass(frozen=True)
class Candidate:
    """Something that a collection may remove. `held` tells that somebody leans on it now."""

    what: str
    size: int
    used: float
    held: bool
    trouble: str
    remove: Callable[[], object]


def spare_parts(store: Store, boot: str) -> Iterator[Candidate]:
    """The layers and caches of one store. Images share files with layers by hard links: removing either harms neither."""
    cache = LayerCache(store, boot)
    for one in cache.ids():
        held, used = bool(cache.holders(one)), cache.last_use(one)
        try:
            layer = cache.read(one)
            what, size, trouble = "the layer of " + layer.what[:60], layer.size, ""
        except (OSError, GhaError) as error:
            what, size, trouble = "layer " + one[:19], 0, str(error)
        yield Candidate(what, size, used, held, trouble, partial(cache.remove, one))
    try:
        names = os.listdir(store.path("caches"))
    except OSError:
        return
    for name in names:
        path = store.path("caches", name)
        try:
            used = os.stat(os.path.join(path, "used")).st_mtime
        except OSError:
            continue  # it is being made
        held = bool(holders(store, "sha256:" + name))
        yield Candidate("a cache of builds", tree_size(path)[0], used, held, "", partial(store.discard, path))
