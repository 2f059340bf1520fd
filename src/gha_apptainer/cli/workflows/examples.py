"""What the bundled examples need where no registry and no CVMFS is reached: the aliases that a site would set.

Only for files below `examples/`, or where `--offline-images` asks for it: a user's own workflow never gets another image than it names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from gha_apptainer.cli.workflows.commands import Scratch
from gha_apptainer.cli.workflows.plans import RunPlan, container_steps
from gha_apptainer.domain import image_refs, lcg_views
from gha_apptainer.domain.action_inputs import DEFAULT_IMAGE
from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import GhaError, HostUnfit
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files, host
from gha_apptainer.node.provision import base_images
from gha_apptainer.node.volumes import cvmfs

REACH_LIMIT = 2.0
"""How long a registry may take to answer before it counts as not reached, in seconds."""
CVMFS_LIMIT = 10.0
"""How long the first look into a CVMFS repository may take, in seconds: autofs mounts on access."""
PACKAGES_FILE = "offline-packages.txt"
"""Beside a workflow: the Debian packages that a stand-in for its images holds, one a line."""
CVMFS_FOLDER = "cvmfs"
"""Beside a workflow: one directory a repository, each a stand-in for it."""

Log = Callable[[str], None]


def prepare(plan: RunPlan, scratch: Scratch, checkout: Path | None, environ: Mapping[str, str], log: Log, *, wanted: bool) -> Path | None:
    """Write the node settings of this run, if it needs any of its own; the file, or None.

    Raises HostUnfit where an image is out of reach and none can be built here.
    """
    bundled = checkout is not None and (checkout / "examples") in plan.workflow.path.parents
    if not bundled and not wanted:
        return None
    settings = host.load_settings(environ)
    known = {str(image_refs.parse(one)) for one in settings.aliases}
    aliases = {**settings.aliases, **_image_aliases(plan, known, environ, log)}
    repositories_at = {**settings.cvmfs_aliases, **_cvmfs_aliases(plan, settings.cvmfs_aliases, log)}
    if aliases == dict(settings.aliases) and repositories_at == dict(settings.cvmfs_aliases):
        return None
    raw = json.loads(to_json(settings))
    chosen = from_json(NodeSettings, json.dumps({**raw, "aliases": aliases, "cvmfs_aliases": repositories_at}))
    files.write_whole(str(scratch.settings), to_json(chosen, indent=2).encode())
    return scratch.settings


def images(plan: RunPlan) -> tuple[image_refs.ImageRef, ...]:
    """The images that its container steps name and that come from a registry. What an expression names is not known here."""
    found = []
    for _, inputs in container_steps(plan):
        view = _view(inputs)
        text = str(inputs.get("image") or "") or (view.image if view else "") or DEFAULT_IMAGE
        if "${{" not in text:
            ref = image_refs.parse(text, str(plan.root))
            if ref.transport != image_refs.PATH:
                found.append(ref)
    return tuple(dict.fromkeys(found))


def repositories(plan: RunPlan) -> tuple[str, ...]:
    """The CVMFS repositories that its container steps name."""
    found = []
    for _, inputs in container_steps(plan):
        view = _view(inputs)
        found += [view.repository] if view else []
        found += re.split(r"[\s,]+", str(inputs.get("cvmfs-repositories") or "").strip())
    return tuple(dict.fromkeys(one for one in found if one and "$" not in one))


def _image_aliases(plan: RunPlan, known: set[str], environ: Mapping[str, str], log: Log) -> dict[str, str]:
    reached: dict[str, bool] = {}
    aliases = {}
    for ref in images(plan):
        if str(ref) in known:
            continue
        if ref.registry not in reached:
            reached[ref.registry] = reaches(ref.registry)
        if not reached[ref.registry]:
            aliases[str(ref)] = _base_image(plan, environ, log)
            log(f"no registry reached: using a Debian base image built from packages for '{ref}' (route alias)")
    return aliases


def _base_image(plan: RunPlan, environ: Mapping[str, str], log: Log) -> str:
    try:
        extra = (plan.workflow.path.parent / PACKAGES_FILE).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        extra = []
    try:
        return base_images.debian_image(environ, log, tuple(extra))
    except HostUnfit as error:
        raise HostUnfit(
            f"no registry is reached, and no image can be built from this host's packages: {error.what}",
            remedy="run where a registry is reached, or map the image with `aliases` in the node settings (GHA_APPTAINER_SETTINGS)",
        ) from error


def _cvmfs_aliases(plan: RunPlan, known: Mapping[str, str], log: Log) -> dict[str, str]:
    aliases = {}
    for repository in repositories(plan):
        stand_in = plan.workflow.path.parent / CVMFS_FOLDER / repository
        if repository not in known and stand_in.is_dir() and not _cvmfs_answers(repository):
            aliases[repository] = str(stand_in)
            log(f"no CVMFS reached: a stand-in is mounted at /cvmfs/{repository}")
    return aliases


def _cvmfs_answers(repository: str) -> bool:
    """Whether the repository can be read."""
    try:
        return not cvmfs.look(f"{cvmfs.ROOT}/{repository}", CVMFS_LIMIT).error
    except GhaError:
        return False


def reaches(registry: str) -> bool:
    """Whether the registry answers at all within the limit, through the proxies of the environment."""
    server = "registry-1.docker.io" if registry == image_refs.DOCKER_HUB else registry
    scheme = "http" if urlsplit("//" + registry).hostname in ("localhost", "127.0.0.1", "::1") else "https"
    try:
        with urlopen(f"{scheme}://{server}/v2/", timeout=REACH_LIMIT):  # noqa: S310 - the scheme is one of ours
            return True
    except HTTPError as error:
        error.close()
        return error.code < 500  # 401 is how a registry asks who is there
    except (OSError, ValueError):
        return False


def _view(inputs: Mapping[str, object]) -> lcg_views.View | None:
    """The view that a step names; None where it names none, or a wrong one, of which the step itself will tell."""
    names = {name: str(inputs.get(name.replace("_", "-")) or "") for name in ("release_platform", "release", "platform", "view_path")}
    if not any(names.values()):
        return None
    try:
        return lcg_views.view(**names, setup_script="", machine=os.uname().machine)
    except GhaError:
        return None
