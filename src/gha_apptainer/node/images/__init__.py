"""From an image reference to a root filesystem: routes, store, registry, collection.

Rule: `plan` decides without network, `fetch` acts; whoever runs the image holds it with `use` while it lives. Everything else in
this package is its own affair, except `sif.read_sif` for the engine and `credentials.read_login` for faces. Each name is loaded when it
is first used, because a start of a container must not wait for what only a collection needs.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gha_apptainer.node.images.collection import ListedImage, collect, list_images, remove_image
    from gha_apptainer.node.images.resolving import fetch, plan
    from gha_apptainer.node.images.uses import RENEW_USE, Use, use

_HOMES = {
    "ListedImage": "collection",
    "collect": "collection",
    "list_images": "collection",
    "remove_image": "collection",
    "fetch": "resolving",
    "plan": "resolving",
    "RENEW_USE": "uses",
    "Use": "uses",
    "use": "uses",
}

__all__ = ["RENEW_USE", "ListedImage", "Use", "collect", "fetch", "list_images", "plan", "remove_image", "use"]


def __getattr__(name: str) -> object:
    """The public names, from where they live (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError("module %r has no attribute %r" % (__name__, name))
    module = "%s.%s" % (__name__, _HOMES[name])
    __import__(module)  # loading importlib for it would cost more than the module itself
    return getattr(sys.modules[module], name)
