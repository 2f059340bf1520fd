"""Wait until a route shows an image: what a workflow does between its push and the jobs that run from CVMFS.

A publisher unpacks a pushed image minutes to hours later. The directory's name there is the digest of the image's configuration; a
manifest's digest is turned into that by asking the registry once.
"""

from __future__ import annotations

import time
from typing import Callable, Optional

from gha_apptainer.domain.errors import GhaError, InputError, TimedOut
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import DOCKER, ImageRef
from gha_apptainer.domain.images import PULL_IF_NOT_PRESENT
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.images import cvmfs_layout
from gha_apptainer.node.images.cvmfs_layout import Seen
from gha_apptainer.node.images.remote import Question, RegistryRemote
from gha_apptainer.node.images.routes.path import digest_of_directory

ROUTES = ("cvmfs",)
"""Routes that can be waited for."""


@dataclass(frozen=True)
class Shown:
    """The image as the route shows it: its configuration's digest, where it lies, and how long that took, in seconds."""

    reference: str
    config_digest: str
    path: str
    waited: float


def wait_for(
    ref: ImageRef,
    settings: NodeSettings,
    host: HostFacts,
    *,
    timeout: float,
    interval: float,
    login: Optional[Login],
    tell: Callable[[str], None],
) -> Shown:
    """Wait until the image with this digest is published: under the tag if the reference has one, else at all.

    Raises TimedOut saying what is there instead, InputError for a reference without a digest.
    """
    if ref.transport != DOCKER or not ref.pinned:
        raise InputError("cannot wait for %s: only a digest says which image is meant" % ref, remedy="REGISTRY/NAME[:TAG]@sha256:DIGEST")
    if not settings.cvmfs_images:
        raise InputError("cannot wait for %s: the setting cvmfs_images names no directory" % ref)
    wanted = _config_digest(ref, settings, host, login, tell)
    began = time.monotonic()
    last = ""
    while True:
        found, there = _look(ref, wanted, settings)
        waited = time.monotonic() - began
        if found is not None:
            return Shown(str(ref), wanted, found.real, waited)
        if there != last:
            tell("%s: waiting for %s; %s" % (ref, wanted, there))
            last = there
        if waited + interval > timeout:
            raise TimedOut(
                "%s: route cvmfs does not show %s after %.0f s" % (ref, wanted, waited),
                cause=there,
                remedy="ask the publisher whether the image is on its list, or wait longer (--timeout)",
            )
        time.sleep(interval)


def _config_digest(ref: ImageRef, settings: NodeSettings, host: HostFacts, login: Optional[Login], tell: Callable[[str], None]) -> str:
    """The digest of the configuration that the reference's digest leads to. One that the registry does not know as a manifest is taken for
    a configuration's itself."""
    remote = RegistryRemote(Question(ref, PULL_IF_NOT_PRESENT, settings, host), login, tell)
    try:
        return remote.resolved().config.digest
    except GhaError as error:
        tell("%s: taken for a configuration's digest: %s" % (ref, error.what))
        return ref.digest


def _look(ref: ImageRef, wanted: str, settings: NodeSettings) -> tuple[Optional[Seen], str]:
    """The published image, or what is there instead."""
    named = cvmfs_layout.by_name(ref, settings)
    candidates = named or cvmfs_layout.by_digest(wanted.partition(":")[2], settings)
    try:
        seen = [one for candidate in candidates for one in cvmfs_layout.look_at((candidate,))]
    except TimedOut as error:
        return None, error.what
    for one in seen:
        if one.real and digest_of_directory(one.real).text == wanted:
            return one, ""
    for one in seen:
        if one.real:
            return None, "%s shows %s" % (one.path, digest_of_directory(one.real).text or "a directory without a digest")
    if not named:
        return None, "nothing with that digest is published in " + ", ".join(settings.cvmfs_images)
    return None, "%s is not there (%s)" % (seen[0].path, seen[0].error) if seen else "no directory can hold it"
