"""What every step of one build shares: the store, the cache, a private work directory, and the holds on all that it leans on."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Callable, List

from gha_apptainer.domain.documents import plain
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node.files import encode
from gha_apptainer.node.images.build_layers import LayerCache, StoredLayer
from gha_apptainer.node.images.pulling import Work
from gha_apptainer.node.images.store import Store
from gha_apptainer.node.images.uses import Use

RECIPE = "1"
"""Part of every key; changes when the same instructions would come out differently."""


class Surroundings:
    """One build's. `single` tells that only one id is mapped; `whole_reason` why layers are whole trees here ("": differences)."""

    def __init__(
        self,
        settings: NodeSettings,
        host: HostFacts,
        store: Store,
        work: Work,
        tell: Callable[[str], None],
        *,
        single: bool,
        whole_reason: str,
    ) -> None:
        self.settings, self.host, self.store, self.work, self.tell = settings, host, store, work, tell
        self.single, self.whole_reason = single, whole_reason
        self.cache = LayerCache(store, host.boot_id)
        self.name = "%s.%s.build-%s" % (host.hostname, host.boot_id[:8], os.path.basename(work.paths[0])[-16:])
        self.kind = "%s %s %s" % (RECIPE, "one id" if single else "ids", "whole" if whole_reason else "layers")
        self.layers: List[StoredLayer] = []
        self._held: List[Use] = []
        self._count = 0

    def directory(self, kind: str) -> str:
        """A new directory in the work directory."""
        self._count += 1
        path = os.path.join(self.work.paths[0], "%s-%d" % (kind, self._count))
        os.mkdir(path, 0o700)
        return path

    def holding(self, use: Use) -> None:
        """Release a hold when the build is over."""
        self._held.append(use)

    def holding_cache(self, name: str) -> None:
        """Hold a cache directory until the build is over."""
        held = Use(self.store.path("uses", name, self.name))
        held.renew()
        self.holding(held)

    def leaning(self, layer: StoredLayer) -> None:
        """Hold a layer until the build is over."""
        self._held.append(self.cache.hold(layer, self.name))
        self.layers.append(layer)

    def renew(self) -> None:
        """A sign of life for the work directory and all holds."""
        self.work.live()
        for use in self._held:
            use.renew()

    def release(self) -> None:
        """Let everything go."""
        for use in self._held:
            try:
                use.release()
            except OSError:
                continue  # it expires by itself


def key_of(*parts: object) -> str:
    """The digest that names a result by all that can change it."""
    text = json.dumps([plain(part) for part in parts], ensure_ascii=True, sort_keys=True)
    return "sha256:" + hashlib.sha256(encode(text)).hexdigest()
