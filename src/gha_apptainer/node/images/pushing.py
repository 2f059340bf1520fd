"""Push an image to a registry: a directory as an OCI image of one layer, a SIF as the artifact that `apptainer push` makes of it.

Nothing is converted on the way: a SIF goes to oras://, a directory to docker://, and the other two ways are refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Callable, Optional, Tuple

from gha_apptainer.domain.errors import ImageFailed, InputError, Refused, disk_full, is_disk_full
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import DOCKER, ORAS, PATH, ImageRef, parse
from gha_apptainer.domain.images import SIF, Image
from gha_apptainer.domain.oci_configs import config_plain
from gha_apptainer.domain.places import store_path
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import http
from gha_apptainer.node.images.layer_archive import write_layer
from gha_apptainer.node.images.leases import Ticker
from gha_apptainer.node.images.platforms import platform_for
from gha_apptainer.node.images.progress import Progress, megabytes
from gha_apptainer.node.images.pulling import Work
from gha_apptainer.node.images.registry_client import SIF_LAYER, Blob, digest_of
from gha_apptainer.node.images.registry_writer import RegistryWriter
from gha_apptainer.node.images.store import Store

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"


@dataclass(frozen=True)
class Pushed:
    """What a push made: the manifest's and the configuration's digest, and how many bytes were sent and how many were there already."""

    reference: str
    digest: str
    config_digest: str
    sent: int
    there: int


def read_target(text: str) -> ImageRef:
    """The reference that is pushed to. Raises InputError for one without a tag, or with a digest, which only content decides."""
    ref = parse(text)
    if ref.transport == PATH:
        raise InputError("cannot push to %s: it is a path" % text, remedy="docker://REGISTRY/NAME:TAG or oras://REGISTRY/NAME:TAG")
    if ref.pinned:
        raise InputError("cannot push to %s: a digest follows from the content" % text, remedy="give a tag")
    return ref


def push(
    image: Image,
    target: ImageRef,
    settings: NodeSettings,
    host: HostFacts,
    login: Optional[Login],
    tell: Callable[[str], None] = http.silent,
    retry: http.Retry = http.USUAL,
) -> Pushed:
    """Push it. Raises Refused, ImageFailed, DiskFull."""
    if image.form == SIF and target.transport == DOCKER:
        raise Refused(
            "%s is a SIF, and docker:// takes layers" % image.rootfs,
            remedy="push it to oras://%s, or push the image that it was made from" % target.name,
        )
    if image.form != SIF and target.transport == ORAS:
        raise Refused(
            "%s is a directory, and oras:// takes a SIF" % image.rootfs,
            cause="a SIF made here would not hold the image's configuration",
            remedy="push it to docker://%s" % target.name,
        )
    writer = RegistryWriter(target, plain_http=target.registry in settings.registries_http, login=login, tell=tell, retry=retry)
    if image.form == SIF:
        return _push_sif(image, target, writer, tell)
    store = Store(store_path(settings, host))
    store.prepare()
    store.sweep()
    with Work(store.path("work")) as work, Ticker([work.live]):
        return _push_tree(image, target, host, writer, work.paths[0], tell)


def _push_tree(image: Image, target: ImageRef, host: HostFacts, writer: RegistryWriter, place: str, tell: Callable[[str], None]) -> Pushed:
    packing = Progress(tell, "%s: packing" % target, 0)
    layer = write_layer(
        image.rootfs, os.path.join(place, "layer"), owners=host.uid == 0, progress=lambda done: packing.at(done, "packed")
    )  # fmt: skip
    platform = platform_for(host.machine)
    document = {
        "architecture": platform.architecture,
        **({"variant": platform.variant} if platform.variant else {}),
        "os": platform.os,
        "config": config_plain(image.config),
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created_by": "gha-apptainer image push"}],
    }
    config = _canonical(document)
    return _push(target, writer, (CONFIG, config), (LAYER, Blob(layer.digest, layer.size, LAYER), layer.path), {}, tell)


def _push_sif(image: Image, target: ImageRef, writer: RegistryWriter, tell: Callable[[str], None]) -> Pushed:
    found = hashlib.sha256()
    try:
        with open(image.rootfs, "rb") as handle:
            for part in iter(lambda: handle.read(1 << 20), b""):
                found.update(part)
            size = handle.tell()
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, image.rootfs) from error
        raise ImageFailed("cannot read %s: %s" % (image.rootfs, error.strerror)) from error
    blob = Blob("sha256:" + found.hexdigest(), size, SIF_LAYER)
    title = {"org.opencontainers.image.title": os.path.basename(image.rootfs)}
    return _push(target, writer, (SIF_CONFIG, b"{}"), (SIF_LAYER, blob, image.rootfs), title, tell)


def _push(
    target: ImageRef,
    writer: RegistryWriter,
    config: Tuple[str, bytes],
    layer: Tuple[str, Blob, str],
    annotations: object,
    tell: Callable[[str], None],
) -> Pushed:
    kind, blob, path = layer
    progress = Progress(tell, str(target), blob.size)
    sent = there = 0
    if writer.put_blob(blob, path=path, progress=lambda done: progress.at(done, "sent")):
        sent += blob.size
        tell("%s: sent %s, %s" % (target, blob.digest, megabytes(blob.size)))
    else:
        there += blob.size
        tell("%s: %s is there already, %s" % (target, blob.digest, megabytes(blob.size)))
    settings = Blob(digest_of(config[1]), len(config[1]), config[0])
    if writer.put_blob(settings, data=config[1]):
        sent += settings.size
    else:
        there += settings.size
    row = {"mediaType": kind, "digest": blob.digest, "size": blob.size, **({"annotations": annotations} if annotations else {})}
    manifest = _canonical(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": settings.media_type, "digest": settings.digest, "size": settings.size},
            "layers": [row],
        }
    )
    digest = writer.put_manifest(manifest, MANIFEST)
    tell("%s: pushed as %s" % (target, digest))
    return Pushed(str(target), digest, settings.digest, sent, there)


def _canonical(document: object) -> bytes:
    """The same bytes for the same document."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
