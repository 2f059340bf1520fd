"""`gha-apptainer provision`: find Apptainer or install it for this user, or make a base image from packages; prints the path."""

from __future__ import annotations

import argparse
import tempfile
from typing import Callable, Mapping, Sequence

from gha_apptainer.domain.errors import HostUnfit
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node.host import load_settings
from gha_apptainer.node.host.finding import Found, examine, find
from gha_apptainer.node.main import complain, environment, tell
from gha_apptainer.node.provision.description import describe, ways
from gha_apptainer.node.provision.plans import PRIVATE, SYSTEM, ProvisionPlan, plan
from gha_apptainer.node.provision.private import install_private


def main(argv: Sequence[str]) -> int:
    """Print the path of an Apptainer that works here, or of an image's directory. Says on stderr what is installed, and where."""
    parser = argparse.ArgumentParser(prog="gha-apptainer provision", description=__doc__, allow_abbrev=False)
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument("--plan", action="store_true", help="only say what would be done")
    parser.add_argument("--change-system", action="store_true", help="allow to install system packages where there is no other way")
    parser.add_argument("--image", choices=("busybox", "debian", "python39"), help="make this base image instead, from packages")
    parser.add_argument("packages", nargs="*", help="with --image debian: packages that it has besides the essential ones")
    asked = parser.parse_args(list(argv))
    environ = environment()
    say: Callable[[str], None] = _nothing if asked.quiet else _note
    if asked.packages and asked.image != "debian":
        parser.error("packages are for --image debian")
    if asked.image:
        tell(_image(asked.image, asked.packages, environ, say))
        return 0
    if asked.plan:
        _show(plan(describe(environ), ways(), change_system=asked.change_system))
        return 0
    tell(provide(environ, say, change_system=asked.change_system))
    return 0


def provide(environ: Mapping[str, str], say: Callable[[str], None], *, change_system: bool = False) -> str:
    """The path of an Apptainer that starts containers here; installs one if there is none.

    Raises HostUnfit with the remedy where that cannot be done, ImageFailed where packages cannot be had.
    """
    settings = load_settings(environ)
    found = _found(settings, environ)
    if not found.reason:
        return found.path
    named = environ.get("GHA_APPTAINER", "") or settings.apptainer
    if named:  # who names one wants that one
        raise HostUnfit("%s is named as Apptainer and does not work here: %s" % (named, found.reason), remedy="name another one, or none")
    if found.path:
        say("no Apptainer here works: %s" % found.reason)
    chosen = plan(describe(environ), ways(), change_system=change_system)
    if chosen.way == PRIVATE:
        return install_private(ways()["debian"], environ, why_not, say)
    if chosen.way != SYSTEM:
        raise HostUnfit(chosen.says, cause=found.reason if found.path else "", remedy=chosen.remedy)
    from gha_apptainer.node.provision.system import carry_out

    say(chosen.says)
    carry_out(chosen.steps, environ, say)
    found = _found(settings, environ)
    if found.reason:
        raise HostUnfit("what was installed does not work: %s" % found.reason, remedy="gha-apptainer doctor says what is missing")
    return found.path


def _found(settings: NodeSettings, environ: Mapping[str, str]) -> Found:
    with tempfile.TemporaryDirectory(prefix="gha-apptainer-") as scratch:
        return find(settings, environ, scratch)


def why_not(path: str) -> str:
    """Why the Apptainer at `path` cannot start a container here; empty if it can."""
    with tempfile.TemporaryDirectory(prefix="gha-apptainer-") as scratch:
        return examine(path, "", scratch).reason


def _image(kind: str, packages: Sequence[str], environ: Mapping[str, str], say: Callable[[str], None]) -> str:
    from gha_apptainer.node.provision import base_images

    if kind == "busybox":
        return base_images.busybox_image(environ, say)
    if kind == "python39":
        return base_images.python39_image(environ, say)
    return base_images.debian_image(environ, say, tuple(packages))


def _show(chosen: ProvisionPlan) -> None:
    tell("%s: %s" % (chosen.way, chosen.says))
    for step in chosen.steps:
        tell("  %s%s: %s%s" % ("as root: " if step.root else "", step.says, step.url + " " if step.url else "", " ".join(step.argv)))
    if chosen.remedy:
        tell("  remedy: " + chosen.remedy)


def _note(text: str) -> None:
    complain((text,))


def _nothing(text: str) -> None:
    """For --quiet."""
