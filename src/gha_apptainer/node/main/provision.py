"""`gha-apptainer provision`: find Apptainer or install it for this user, or make a base image from packages; prints the path."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
from typing import Callable, Iterator, Mapping, Sequence, Tuple

from gha_apptainer.domain.apptainer_trials import trial_argv, version_argv
from gha_apptainer.domain.errors import GhaError, HostUnfit
from gha_apptainer.node import apptainer
from gha_apptainer.node.files import remove_tree
from gha_apptainer.node.host.trial_root import host_loader, tiny_root
from gha_apptainer.node.main import complain, environment, tell
from gha_apptainer.node.process import run
from gha_apptainer.node.provision.description import describe, ways
from gha_apptainer.node.provision.plans import PRIVATE, SYSTEM, ProvisionPlan, plan
from gha_apptainer.node.provision.private import found_private, install_private

_LIMIT_S = 60.0


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
    named = environ.get("GHA_APPTAINER", "")
    if named:
        reason = why_not(named, environ)
        if reason:
            what = "GHA_APPTAINER names %s, which does not work here: %s" % (named, reason)
            raise HostUnfit(what, remedy="name another one, or unset it")
        return named
    for path in _candidates(environ):
        reason = why_not(path, environ)
        if not reason:
            return path
        say("%s does not work here: %s" % (path, reason))
    chosen = plan(describe(environ), ways(), change_system=change_system)
    if chosen.way == PRIVATE:
        return install_private(ways()["debian"], environ, lambda path, root: _trial(path, root, environ), say)
    if chosen.way == SYSTEM:
        from gha_apptainer.node.provision.system import carry_out

        say(chosen.says)
        carry_out(chosen.steps, environ, say)
        for path in _candidates(environ):
            reason = why_not(path, environ)
            if not reason:
                return path
            raise HostUnfit("%s was installed and does not work: %s" % (path, reason), remedy="gha-apptainer doctor says what is missing")
    raise HostUnfit(chosen.says, remedy=chosen.remedy)


def _candidates(environ: Mapping[str, str]) -> Iterator[str]:
    found = shutil.which("apptainer", path=environ.get("PATH", os.defpath))
    if found:
        yield os.path.abspath(found)
    private = found_private(environ)
    if private:
        yield private


def why_not(path: str, environ: Mapping[str, str]) -> str:
    """Why this Apptainer cannot start a container here; empty if it can. Where no static program is found only its version is tried."""
    reason = _version_reason(path, environ)
    loader = host_loader(path)
    if reason or not loader:
        return reason
    work = tempfile.mkdtemp(prefix="gha-apptainer-trial-")
    try:
        return _trial(path, tiny_root(os.path.join(work, "root"), loader), environ)
    finally:
        remove_tree(work)


def _trial(path: str, root: str, environ: Mapping[str, str]) -> str:
    reason = _version_reason(path, environ)
    if reason:
        return reason
    try:
        done = run(trial_argv(path, root, ("/program", "--version")), env=_env(environ), timeout=_LIMIT_S)
    except GhaError as error:
        return error.what
    return "" if done.code == 0 else done.stderr.decode("utf-8", "replace").strip()[-500:] or "exit code %d" % done.code


def _version_reason(path: str, environ: Mapping[str, str]) -> str:
    try:
        done = run(version_argv(path), env=_env(environ), timeout=_LIMIT_S)
    except GhaError as error:
        return error.what
    text = done.stdout.decode("utf-8", "replace").strip()
    found = re.match(r"apptainer version (\d+)\.(\d+)", text)
    if done.code or not found:
        return "it does not tell its version: %s" % (text or done.stderr.decode("utf-8", "replace").strip()[-300:])
    minimum = str(ways()["minimum"])
    if (int(found[1]), int(found[2])) < _pair(minimum):
        return "version %s.%s is older than %s" % (found[1], found[2], minimum)
    return ""


def _pair(version: str) -> Tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)


def _env(environ: Mapping[str, str]) -> Tuple[Tuple[str, str], ...]:
    return apptainer.build_env("", tempfile.gettempdir(), environ.get("TMPDIR") or tempfile.gettempdir(), environ)


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
