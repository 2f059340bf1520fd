"""Where unpacked images lie on CVMFS, and a look at them that cannot hang us.

The publisher (https://github.com/cvmfs/cvmfs/tree/devel/ducc) keeps `REPO/.flat/XX/CONFIG-DIGEST` and links it from
`REPO/REGISTRY/REPOSITORY:TAG`; `.metadata/REGISTRY/REPOSITORY:TAG/manifest.json` holds the manifest. The directory's name is the
digest of the configuration, so following the link once gives what exactly will run, also if the tag is published anew meanwhile.
"""

from __future__ import annotations

import json
import sys
from typing import List, Mapping, Sequence, Tuple

from gha_apptainer.domain.errors import GhaError, TimedOut
from gha_apptainer.domain.image_refs import DOCKER_HUB, ImageRef
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node import process
from gha_apptainer.node.images.in_image import ENV_FILES, RUNSCRIPT

LOOK_LIMIT = 20.0
"""Seconds that CVMFS may take to show a directory: autofs mounts at the first access, a dead one never answers."""
_HUB_SPELLINGS = ("registry.hub.docker.com", "docker.io", "registry-1.docker.io", "index.docker.io")

_LOOK = r"""
import json, os, sys
def text(path, limit=1 << 20):
    try:
        with open(path, "rb") as handle:
            return handle.read(limit).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
asked, found = json.load(sys.stdin), []
for path, manifest in asked["candidates"]:
    one = {"path": path, "real": "", "error": "", "denied": False, "texts": {}, "manifest": ""}
    try:
        real = os.path.realpath(path)
        if os.listdir(real):
            one["real"] = real
            one["texts"] = {name: text(real + "/" + name) for name in asked["names"] if not os.path.islink(real + "/" + name)}
            one["manifest"] = text(manifest) if manifest else ""
        else:
            one["error"] = "empty directory"
    except OSError as error:
        one["error"], one["denied"] = error.strerror or "?", isinstance(error, PermissionError)
    found.append(one)
    if one["real"]:
        break
json.dump(found, sys.stdout)
"""


@dataclass(frozen=True)
class Candidate:
    """A place where an image may lie; `manifest` is where the publisher keeps its manifest, empty for a lookup by digest."""

    path: str
    manifest: str = ""


@dataclass(frozen=True)
class Seen:
    """What a look at one candidate showed: the real directory, or the error. `texts` are the image's own configuration files."""

    path: str
    real: str
    error: str
    denied: bool
    texts: Mapping[str, str]
    manifest: str


def by_name(ref: ImageRef, settings: NodeSettings) -> Tuple[Candidate, ...]:
    """Where an image would lie by its name and tag.

    A setting names a repository (`/cvmfs/unpacked.cern.ch`: all registries below it) or a directory deep in one
    (`…/harbor.cloud.infn.it/unpacked`: what that registry holds under that name). Docker Hub's images are published under any of
    its host names, official ones with or without `library/`.
    """
    if not ref.tag:
        return ()
    spellings = [ref.registry]
    names = [ref.repository]
    if ref.registry == DOCKER_HUB:
        spellings = list(_HUB_SPELLINGS)
        if ref.repository.startswith("library/"):
            names.append(ref.repository[len("library/") :])
    found: List[Candidate] = []
    for base in settings.cvmfs_images:
        root, inside = _split(base, settings)
        for spelling in spellings:
            for name in names:
                full = "%s/%s" % (spelling, name)
                if not inside or full.startswith(inside + "/"):
                    found.append(Candidate("%s/%s:%s" % (root, full, ref.tag), "%s/.metadata/%s:%s/manifest.json" % (root, full, ref.tag)))
    return tuple(found)


def by_digest(config_hex: str, settings: NodeSettings) -> Tuple[Candidate, ...]:
    """Where an image would lie by the digest of its configuration."""
    roots: List[str] = []
    for base in settings.cvmfs_images:
        root = _split(base, settings)[0]
        if root not in roots:
            roots.append(root)
    return tuple(Candidate("%s/.flat/%s/%s" % (root, config_hex[:2], config_hex)) for root in roots)


def _split(base: str, settings: NodeSettings) -> Tuple[str, str]:
    """The repository's root directory (an alias of the site taken into account) and what the setting names below it."""
    base = base.rstrip("/")
    parts = base.split("/")
    if len(parts) >= 3 and parts[:2] == ["", "cvmfs"]:
        return settings.cvmfs_aliases.get(parts[2], "/cvmfs/" + parts[2]).rstrip("/"), "/".join(parts[3:])
    return base, ""


def look_at(candidates: Sequence[Candidate], limit: float = LOOK_LIMIT) -> Tuple[Seen, ...]:
    """Look at candidates up to the first that is there, in a child process: a dead mount holds the child, never us. Raises TimedOut."""
    asked = {"candidates": [(one.path, one.manifest) for one in candidates], "names": [*ENV_FILES, RUNSCRIPT]}
    argv = (sys.executable, "-I", "-S", "-c", _LOOK)
    try:
        done = process.run(argv, timeout=limit, input=json.dumps(asked).encode("ascii")).check()
    except TimedOut as error:
        what = "CVMFS did not answer within %g s" % limit
        raise TimedOut(what, cause="a dead or very slow mount", remedy="cvmfs_config probe") from error
    try:
        return tuple(Seen(**one) for one in json.loads(done.stdout))
    except (ValueError, TypeError) as error:
        raise GhaError("the look at CVMFS gave no answer: %s" % error) from error
