"""From an image reference to a root filesystem: routes, store, registry, collection.

Rule: `plan` decides without network, `fetch` acts; whoever runs the image holds it with `use` while it lives. Everything
else in this package is its own affair, except `sif.read_sif` for the engine and `credentials.read_login` for faces.
"""
from gha_apptainer.node.images.collection import ListedImage, collect, list_images, remove_image
from gha_apptainer.node.images.resolving import fetch, plan
from gha_apptainer.node.images.uses import RENEW_USE, Use, use

__all__ = ["RENEW_USE", "ListedImage", "Use", "collect", "fetch", "list_images", "plan", "remove_image", "use"]
