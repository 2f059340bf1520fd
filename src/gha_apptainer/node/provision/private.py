"""The private Apptainer: Debian's packages unpacked with their own C library into the user's cache.

It uses nothing of the system it runs on, so that it works on older systems and inside containers of another kind. Its place is
fixed when it is made: interpreter and library path of its programs are absolute. With Apptainer come the programs that it and
we need for images.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any, Callable, Mapping, Tuple

from gha_apptainer.domain.errors import HostUnfit, ImageFailed
from gha_apptainer.domain.places import private_apptainer
from gha_apptainer.node.files import remove_tree, tree_size
from gha_apptainer.node.process import run
from gha_apptainer.node.provision.debian import PrivateApt, Source, Tell, host_sources, unpack
from gha_apptainer.node.provision.staging import cache, publish, staged

Probe = Callable[[str], str]
"""Given an Apptainer: why a container cannot be started with it; empty if it can."""

_EXCLUDED = ("./usr/share/doc", "./usr/share/man", "./usr/share/bash-completion", "./usr/share/locale", "*/gconv")
_LIMIT_S = 60.0
_SESSION_MB = 4096
"""Apptainer's default for its session directory is 64 MB, which a job fills at once."""


def install_private(data: Mapping[str, Any], environ: Mapping[str, str], probe: Probe, tell: Tell) -> str:
    """Make the private Apptainer and give its path. `data` is the "debian" part of provision.json.

    Raises HostUnfit where the host has no Debian archive, ImageFailed where packages cannot be had or what they hold does not start.
    """
    cache(environ)
    apptainer = private_apptainer(environ, os.uname().machine)
    prefix = os.path.dirname(os.path.dirname(apptainer))
    source = _source(environ, data["suite"])
    tell("installing %s of Debian %s from %s in %s" % (", ".join(data["packages"]), source.suite, source.uri, prefix))
    with staged(prefix) as work:
        made = _unpacked(work, source, data, environ, tell)
        libraries, loader = _loader(made)
        _adopt(made, prefix, libraries, loader, data["programs"])
        _configure(made, prefix)
        if os.path.isdir(prefix) and probe(apptainer):
            remove_tree(prefix)
        publish(made, prefix)
    reason = probe(apptainer)
    if reason:
        remove_tree(prefix)
        raise ImageFailed("the private Apptainer does not work here and was removed again: %s" % reason)
    tell("installed %d MB in %s" % (tree_size(prefix)[0] >> 20, prefix))
    return apptainer


def _source(environ: Mapping[str, str], suite: str) -> Source:
    for source in host_sources(environ):
        if source.origin == "Debian" and source.component == "main" and "security" not in source.suite:
            return Source(source.uri, suite, "main", "Debian")
    raise HostUnfit("the host's apt has no Debian archive", remedy="install Apptainer with the system's packages")


def _unpacked(work: str, source: Source, data: Mapping[str, Any], environ: Mapping[str, str], tell: Tell) -> str:
    apt = PrivateApt(work, (source,), environ, tell)
    apt.update()
    packages = apt.download(apt.closure(data["packages"], data["leave"]))
    tell("unpacking %d packages" % len(packages))
    tree = os.path.join(work, "tree")
    os.makedirs(os.path.join(tree, "usr", "lib"))
    os.symlink("usr/lib", os.path.join(tree, "lib"))  # some packages still say /lib
    for package in packages:
        unpack(package, tree, exclude=_EXCLUDED)
    made = os.path.join(tree, "usr")
    # the programs look for configuration and state relative to their own place
    for name in ("etc", "var"):
        os.rename(os.path.join(tree, name), os.path.join(made, name))
        # and the starter, which Debian puts in lib/TRIPLET/apptainer/bin, computes that place one level too deep
        os.symlink("../" + name, os.path.join(made, "lib", name))
    with open(os.path.join(made, "PACKAGES"), "w", encoding="utf-8") as handle:
        handle.writelines(os.path.basename(one) + "\n" for one in packages)
    return made


def _loader(made: str) -> Tuple[str, str]:
    """Directory of the libraries relative to the prefix, and the file name of the dynamic loader in it."""
    triplets = [name for name in os.listdir(os.path.join(made, "lib")) if name.endswith("-linux-gnu")]
    for triplet in triplets:
        for name in os.listdir(os.path.join(made, "lib", triplet)):
            if re.fullmatch(r"ld-linux-[a-z0-9-]+\.so\.\d+", name):
                return os.path.join("lib", triplet), name
    raise ImageFailed("the packages hold no dynamic loader", remedy="report this with the file PACKAGES of the installation")


def _adopt(made: str, prefix: str, libraries: str, loader: str, programs: Tuple[str, ...]) -> None:
    """Make the programs use the loader and the libraries that lie beside them in the final place."""
    here = os.path.join(made, libraries)
    patchelf = (os.path.join(here, loader), "--library-path", here, os.path.join(made, "bin", "patchelf"))
    final = os.path.join(prefix, libraries)
    paths = [os.path.join(made, "bin", name) for name in programs] + [os.path.join(here, "apptainer", "bin", "starter")]
    for path in paths:
        if stat.S_ISREG(os.lstat(path).st_mode):
            argv = (*patchelf, "--set-interpreter", os.path.join(final, loader), "--force-rpath", "--set-rpath", final, path)
            run(argv, timeout=_LIMIT_S).check()
            listed = run((os.path.join(here, loader), "--library-path", here, "--list", path), timeout=_LIMIT_S)
            lost = [line.split()[0] for line in listed.stdout.decode().splitlines() if "not found" in line]
            if listed.code or lost:
                why = ", ".join(lost) or listed.stderr.decode("utf-8", "replace").strip()
                raise ImageFailed("%s of Debian's packages does not start: %s" % (os.path.basename(path), why))


def _configure(made: str, prefix: str) -> None:
    """Our programs first, and a session directory that holds a job."""
    path = os.path.join(made, "etc", "apptainer", "apptainer.conf")
    with open(path, encoding="utf-8") as handle:
        text = handle.read()
    text, paths = re.subn(r"(?m)^#? ?binary path = .*$", lambda _: "binary path = %s/bin:$PATH:" % prefix, text)
    text, sizes = re.subn(r"(?m)^sessiondir max size = .*$", "sessiondir max size = %d" % _SESSION_MB, text)
    if paths != 1 or sizes != 1:
        raise ImageFailed("apptainer.conf of the package has another form than expected", remedy="report this with Apptainer's version")
    with open(path, "w", encoding="utf-8") as handle:
        handle.write(text)
