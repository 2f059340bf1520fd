"""Copy an unpacked image into the store, once, under the digest of its configuration."""

from __future__ import annotations

import os
import time
from typing import Optional

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.images import Image
from gha_apptainer.node.images.forms import placement
from gha_apptainer.node.images.leases import Lease, Ticker, acquire_or_find
from gha_apptainer.node.images.pulling import Build, Work, build, publish
from gha_apptainer.node.images.routes import Errand
from gha_apptainer.node.images.store import ROOTFS_NAMES, Store, StoredImage, hexdigits


def copy_once(errand: Errand, image: Image, form: str, platform: str) -> Image:
    """`image` from the store, copied there unless it is. Raises ImageFailed or DiskFull."""
    question = errand.question
    place = placement(question.settings, question.host)
    store = Store(place.store)
    store.prepare()

    def find() -> Optional[Image]:
        try:
            found = store.find(image.digest.text)
        except GhaError:
            return None
        if found is None:
            return None
        kept = store.image(found, question.ref)
        return Image(image.reference, image.digest, image.config, kept.rootfs, kept.form, image.route)

    got = acquire_or_find(store.lease(hexdigits(image.digest.text)), find, what=str(question.ref), tell=errand.tell)
    if not isinstance(got, Lease):
        return got
    with got:
        store.sweep()
        errand.tell("%s: copying %s from CVMFS into the store as %s" % (question.ref, image.digest, form))
        with Work(store.path("work"), place.temporary) as work:
            made = os.path.join(work.paths[0], "entry")
            os.mkdir(made, 0o755)
            target = os.path.join(made, ROOTFS_NAMES[form])
            build(Build(str(question.ref), image.rootfs, form), target, work, question.host, tell=errand.tell, ticks=[got.renew])
            stored = StoredImage(
                digest=image.digest.text, kind=image.digest.kind, platform=platform, form=form, size=0, inodes=0, config=image.config,
                config_digest=image.digest.text, reference=str(question.ref), route="cvmfs", created=time.time(),
            )  # fmt: skip
            with Ticker([got.renew, work.live]):
                publish(store, made, stored)
    kept_image = find()
    if kept_image is None:
        raise GhaError("%s was published and is not there" % store.entry(image.digest.text))
    return kept_image
