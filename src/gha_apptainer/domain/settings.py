"""A site's settings for the node side: what `gha-apptainer config compile` writes and the node reads, as JSON."""

from __future__ import annotations

from gha_apptainer.domain.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Mapping, Tuple

ROUTES = ("alias", "path", "cvmfs", "store", "registry")
"""The image routes in their usual order."""


@dataclass(frozen=True)
class NodeSettings:
    """Everything a site may set for machines that run containers. Empty text = our default, found at run time.

    `routes`: the order of image routes. `aliases`: image reference -> path of a SIF or an unpacked directory.
    `cvmfs_images`: CVMFS directories with unpacked images. `cvmfs_slow`: copy an image once from CVMFS into the store.
    `cvmfs_aliases`: CVMFS repository -> directory that holds the same. `store`: where images are kept.
    `store_bytes`: collected down to this (0: never by size).
    `layers`: where writable layers lie. `layer_memory`: how many bytes a layer may take in memory where only
    network storage exists; `layer_image_bytes`: how big the file is in which a layer lies there when memory does not serve
    (0: no such file). `registries_http`: host:port of registries that are asked by plain http.
    """

    DOCUMENT_VERSION: ClassVar[int] = 1
    version: int = 1
    routes: Tuple[str, ...] = ROUTES
    aliases: Mapping[str, str] = field(default_factory=dict)
    cvmfs_images: Tuple[str, ...] = ("/cvmfs/unpacked.cern.ch", "/cvmfs/unpacked.infn.it/harbor.cloud.infn.it/unpacked")
    cvmfs_slow: bool = False
    cvmfs_aliases: Mapping[str, str] = field(default_factory=dict)
    store: str = ""
    store_bytes: int = 0
    layers: str = ""
    layer_memory: int = 2 << 30
    layer_image_bytes: int = 16 << 30
    apptainer: str = ""
    python: str = ""
    registries_http: Tuple[str, ...] = ()
    keep_session_keyring: bool = False
    log_bytes: int = 10 << 20
    log_files: int = 5
