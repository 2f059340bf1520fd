"""Fetch an image from its registry into the store: resolve, lease, download, unpack, publish."""

from __future__ import annotations

import os
import time
from typing import Callable, List, Optional

from gha_apptainer.domain.errors import GhaError, ImageFailed
from gha_apptainer.domain.images import PULL_ALWAYS, SIF, Image, OciConfig
from gha_apptainer.domain.oci_configs import parse_config
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.images.credentials import write_authfile
from gha_apptainer.node.images.forms import Placement, placement
from gha_apptainer.node.images.leases import Lease, Ticker, acquire_or_find
from gha_apptainer.node.images.platforms import Platform, platform_for
from gha_apptainer.node.images.progress import Progress, megabytes
from gha_apptainer.node.images.pulling import Build, Work, build, publish
from gha_apptainer.node.images.remote import RegistryRemote
from gha_apptainer.node.images.routes import Errand, NotServed
from gha_apptainer.node.images.routes.registry import plain_http
from gha_apptainer.node.images.routes.store import known, take_stored
from gha_apptainer.node.images.sif import read_sif
from gha_apptainer.node.images.store import ROOTFS_NAMES, Store, StoredImage, hexdigits


def fetch_from_registry(errand: Errand) -> Image:
    """The image in the store, fetched unless it is there. Raises ImageFailed, DiskFull, HostUnfit or TimedOut."""
    question = errand.question
    platform = platform_for(question.host.machine)
    store = Store(placement(question.settings, question.host).store)
    store.prepare()
    store.sweep(os.path.join(question.host.state_dir, "store", "work"))
    if question.policy == PULL_ALWAYS:
        return _by_digest(errand, platform, [])

    def find() -> Optional[Image]:
        digest = known(store, question)
        return _stored(errand, digest) if digest else None

    got = acquire_or_find(store.lease("ref-" + store.ref_key(question.ref, str(platform))), find, what=str(question.ref), tell=errand.tell)
    if not isinstance(got, Lease):
        return got
    with got:
        return _by_digest(errand, platform, [got.renew])


def _by_digest(errand: Errand, platform: Platform, ticks: List[Callable[[], None]]) -> Image:
    """Resolve, then fetch under the digest's own lease unless the store has it."""
    question = errand.question
    remote = errand.remote
    with Ticker(ticks):
        found = remote.resolved()
    place = placement(question.settings, question.host, found.size)
    store = Store(place.store)
    store.prepare()

    def find() -> Optional[Image]:
        return _stored(errand, found.digest)

    got = acquire_or_find(store.lease(hexdigits(found.digest)), find, what=str(question.ref), tell=errand.tell)
    if isinstance(got, Lease):
        with got:
            _Pull(errand, remote, platform, store, place, [*ticks, got.renew]).run()
    store.remember(question.ref, str(platform), found.digest)
    image = take_stored(errand, found.digest)
    return Image(image.reference, image.digest, image.config, image.rootfs, image.form, "registry")


def _stored(errand: Errand, digest: str) -> Optional[Image]:
    try:
        return take_stored(errand, digest)
    except NotServed:
        return None


@dataclass(frozen=True)
class _Pull:
    """One fetch of one image into one store, while its lease is held."""

    errand: Errand
    remote: RegistryRemote
    platform: Platform
    store: Store
    place: Placement
    ticks: List[Callable[[], None]]

    def run(self) -> None:
        """Fetch, unpack, publish; a damaged entry in its place is moved away first."""
        found = self.remote.resolved()
        question = self.errand.question
        self.errand.tell(
            "%s: fetching %s (%s, %s) as %s: %s"
            % (question.ref, found.digest, self.platform, megabytes(found.size), self.place.form, self.place.why)
        )
        began = time.monotonic()
        with Work(self.store.path("work"), self.place.temporary) as work:
            made = os.path.join(work.paths[0], "entry")
            os.mkdir(made, 0o755)
            target = os.path.join(made, ROOTFS_NAMES[self.place.form])
            config = OciConfig()
            if found.sif is not None:
                self._fetch_sif(target, work)
            else:
                with Ticker([*self.ticks, work.live]):
                    config = parse_config(self.remote.config_blob())
                self._build(target, work)
            stored = StoredImage(
                digest=found.digest, kind="manifest", platform=str(self.platform), form=self.place.form, size=0, inodes=0, config=config,
                config_digest=found.config.digest, reference=str(question.ref), route="registry", created=time.time(), index=found.index,
            )  # fmt: skip
            with Ticker([*self.ticks, work.live]):
                done = publish(self.store, made, stored, config_from_sif=found.sif is not None)
        self.errand.tell("%s: stored as %s, %s, %.0f s" % (question.ref, done.form, megabytes(done.size), time.monotonic() - began))

    def _build(self, target: str, work: Work) -> None:
        """By Apptainer from the pinned manifest; the login, if one was accepted, in a file of its own that goes with the work directory."""
        question = self.errand.question
        authfile = ""
        if self.errand.login is not None and not self.remote.client.anonymous:
            authfile = write_authfile(work.paths[0], question.ref, self.errand.login)
        found = self.remote.resolved()
        source = "docker://%s@%s" % (question.ref.name, found.digest)
        one = Build(str(question.ref), source, self.place.form, plain_http(question), authfile, found.size)
        try:
            build(one, target, work, question.host, tell=self.errand.tell, ticks=self.ticks)
        finally:
            if authfile:
                os.unlink(authfile)

    def _fetch_sif(self, target: str, work: Work) -> None:
        """A SIF kept in a registry: its one blob is the file."""
        found = self.remote.resolved()
        if found.sif is None:
            raise GhaError("%s is no SIF artifact" % self.errand.question.ref)
        progress = Progress(self.errand.tell, str(self.errand.question.ref), found.sif.size)
        fetched = target if self.place.form == SIF else os.path.join(work.paths[0], "fetched.sif")
        with Ticker([*self.ticks, work.live]):
            self.remote.client.download(found.sif, fetched, progress.at)
        sif = read_sif(fetched)
        if sif.architecture and sif.architecture != self.platform.architecture:
            raise ImageFailed(
                "%s is a SIF for %s, this machine is %s" % (self.errand.question.ref, sif.architecture, self.platform),
                remedy="use an image that is built for %s" % self.platform,
            )
        if fetched != target:
            one = Build(str(self.errand.question.ref), fetched, self.place.form)
            build(one, target, work, self.errand.question.host, tell=self.errand.tell, ticks=self.ticks)
