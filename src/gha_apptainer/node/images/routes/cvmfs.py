"""Route cvmfs: the image lies unpacked on CVMFS; nothing is downloaded but the files that are read."""

from __future__ import annotations

import os
import time
from typing import Optional, Tuple

from gha_apptainer.domain.errors import GhaError, ImageFailed, TimedOut
from gha_apptainer.domain.image_plans import RouteStep
from gha_apptainer.domain.images import PULL_ALWAYS, PULL_NEVER, SANDBOX, SIF, Digest, Image, OciConfig
from gha_apptainer.domain.oci_configs import load_object, parse_config
from gha_apptainer.node.files import encode, read_whole, write_whole
from gha_apptainer.node.images import cvmfs_layout
from gha_apptainer.node.images.cvmfs_layout import Seen
from gha_apptainer.node.images.in_image import config_of_texts
from gha_apptainer.node.images.platforms import platform_for
from gha_apptainer.node.images.routes import Errand, Look, NotServed, Question
from gha_apptainer.node.images.routes.path import check_readable, digest_of_directory

_PUBLISHED_FOR = "x86_64"
_MISSING_FOR = 3600.0
"""For how long a registry that did not give a configuration is not asked again, in seconds."""


class CvmfsRoute:
    """Unpacked images in the CVMFS directories of the settings."""

    def look(self, question: Question) -> Look:
        """Whether the tag is published, or whether a registry's answer could point into CVMFS."""
        ref = question.ref
        try:
            seen = self._by_name(question)
        except TimedOut as error:
            return Look(False, error.what)
        needs = _needs_proof(question)
        if ref.pinned and seen is not None and _proves(seen, ref.digest):
            needs = ""
        if needs:
            if question.policy == PULL_NEVER:
                return Look(False, "%s, and policy never forbids to ask the registry" % needs)
            where = "published by name" if seen is not None else "not found by name"
            if seen is None and not ref.pinned:
                return Look(False, "not published there")
            return Look(True, "%s; %s" % (where, needs), "asks the registry for the digest; files on demand")
        if seen is None:
            return Look(False, "not published there")
        if seen.denied:
            return Look(False, "%s may not be read (%s): ask its publisher to unpack it readable for all" % (seen.path, seen.error))
        digest = digest_of_directory(seen.real)
        cost = "copied into the store once" if question.settings.cvmfs_slow else "files on demand"
        return Look(True, "published as %s" % seen.path, cost, seen.real, digest)

    def take(self, errand: Errand, step: RouteStep) -> Image:
        """The tree, by the name's link followed once, or by the registry's digest where that is asked for."""
        question = errand.question
        if step.path:
            seen = self._again(step.path)
        else:
            wanted = errand.remote.resolved().config.digest
            seen = self._again(*(one.path for one in cvmfs_layout.by_digest(wanted.partition(":")[2], question.settings)))
        check_readable(seen.real)
        digest = digest_of_directory(seen.real)
        config, complete = _config(errand, digest, seen)
        if not complete:
            errand.tell("%s: its configuration was not to be had; USER, WORKDIR and health check of the image are unknown" % question.ref)
        image = Image(str(question.ref), digest, config, seen.real, SANDBOX, "cvmfs")
        return _copied(errand, image) if question.settings.cvmfs_slow and digest.text else image

    def _by_name(self, question: Question) -> Optional[Seen]:
        found = cvmfs_layout.look_at(cvmfs_layout.by_name(question.ref, question.settings))
        for one in found:
            if one.real or one.denied:
                return one
        return None

    def _again(self, *paths: str) -> Seen:
        try:
            found = cvmfs_layout.look_at([cvmfs_layout.Candidate(path) for path in paths])
        except TimedOut as error:
            raise NotServed(error.what, cause=error.cause) from error
        for one in found:
            if one.real:
                return one
        denied = [one for one in found if one.denied]
        if denied:
            raise NotServed("%s may not be read" % denied[0].path, remedy="ask its publisher to unpack it readable for all")
        raise NotServed("what the registry has now is not unpacked on CVMFS")


def _needs_proof(question: Question) -> str:
    """Why the link of a tag alone is not enough; empty where it is."""
    if question.ref.pinned:
        return "a digest is asked for and only the registry can tell which tree it is"
    if question.policy == PULL_ALWAYS:
        return "policy always compares it with the registry"
    if question.host.machine != _PUBLISHED_FOR:
        return "a tree there does not tell that it is for %s" % question.host.machine
    return ""


def _sha256(data: bytes) -> str:
    import hashlib  # slow to load, and most starts need none

    return "sha256:" + hashlib.sha256(data).hexdigest()


def _proves(seen: Seen, digest: str) -> bool:
    """Whether the publisher's copy of the manifest is, byte for byte, the one with this digest, and names this very tree."""
    data = encode(seen.manifest)
    if not data or _sha256(data) != digest:
        return False
    try:
        config = load_object(data, "manifest").get("config")
    except GhaError:
        return False
    return isinstance(config, dict) and config.get("digest") == digest_of_directory(seen.real).text


def _config(errand: Errand, digest: Digest, seen: Seen) -> Tuple[OciConfig, bool]:
    """The configuration and whether it is the whole one: kept from before, from the registry, or what the image's own files tell."""
    question = errand.question
    if not digest.text:
        return config_of_texts(seen.texts), False
    kept = os.path.join(question.host.state_dir, "configs", digest.text.partition(":")[2])
    try:
        data = read_whole(kept)
        if _sha256(data) == digest.text:
            return parse_config(data), True
    except (OSError, GhaError):
        pass
    if question.policy != PULL_NEVER and not _missing(kept):
        try:
            data = errand.remote.client.blob(digest.text)
            config = parse_config(data)
            _keep(kept, data)
            return config, True
        except GhaError as error:
            errand.tell(error.what)
            _keep(kept + ".missing", b"")
    return config_of_texts(seen.texts), False


def _missing(kept: str) -> bool:
    try:
        return time.time() - os.stat(kept + ".missing").st_mtime < _MISSING_FOR
    except OSError:
        return False


def _keep(path: str, data: bytes) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_whole(path, data)
    except (OSError, GhaError):
        return  # asked again next time


def _copied(errand: Errand, image: Image) -> Image:
    """The same image, copied once into the store as one file, because the site says that its CVMFS is slow."""
    from gha_apptainer.node.images.copying import copy_once

    form = SANDBOX if errand.question.host.fuse_reason else SIF
    try:
        return copy_once(errand, image, form, str(platform_for(errand.question.host.machine)))
    except ImageFailed as error:
        errand.tell("%s; used from CVMFS directly" % error.what)
        return image
