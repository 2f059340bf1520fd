"""Base images with no registry in reach: root filesystems from the host's own package archives, as directories.

Packages are unpacked, and what their scripts would do is done here as far as programs need it, so that an ordinary user gets a tree in
a quarter of the time of an installation. Inside a writable container `apt-get install`, `useradd`, `python3` and `pip` work.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import Mapping, Sequence, Tuple

from gha_apptainer.domain.containers import Args
from gha_apptainer.domain.errors import HostUnfit
from gha_apptainer.node.process import run
from gha_apptainer.node.provision.configured import configure_debian
from gha_apptainer.node.provision.debian import TAKE_EXPIRED, PrivateApt, Source, Tell, host_sources, unpack
from gha_apptainer.node.provision.description import ways
from gha_apptainer.node.provision.staging import cache, publish, staged

RECIPE = "1"
"""Part of the key of every image; changes when images of the same packages would come out differently."""

_EXCLUDED = ("./usr/share/doc/*", "./usr/share/man/*", "./usr/share/locale/*", "./usr/share/info/*")
_DIRECTORIES = ("dev", "proc", "sys", "tmp", "etc", "root", "run", "home", "var/tmp", "mnt", "opt", "srv")
_LIMIT_S = 60.0


def busybox_image(environ: Mapping[str, str], tell: Tell) -> str:
    """The directory of a busybox image, 2 MB, made at first use. Raises HostUnfit, ImageFailed or DiskFull."""
    packages = tuple(ways()["images"]["busybox"])
    sources = _sources(environ)[:1]
    directory = _place(environ, "busybox", packages, sources)
    if not os.path.isdir(directory):
        tell("making a busybox image from packages of %s in %s" % (sources[0].uri, directory))
        with staged(directory) as work:
            tree = _tree(work)
            apt = PrivateApt(work, sources, environ, tell)
            apt.update()
            for package in apt.download(packages):
                unpack(package, tree, exclude=("./usr/share",))
            _finish_busybox(tree)
            publish(tree, directory)
    return directory


def debian_image(environ: Mapping[str, str], tell: Tell, packages: Sequence[str] = ()) -> str:
    """The directory of an image of the host's own Debian (or Ubuntu) release with `packages`, made at first use.

    It has what every Debian has (the essential packages), apt and the host's package archives. Raises as busybox_image.
    """
    return _debian(environ, tell, "debian", (*ways()["images"]["debian"], *packages), _sources(environ))


def python39_image(environ: Mapping[str, str], tell: Tell) -> str:
    """The directory of an image with Python 3.9 as /usr/bin/python3.9: Debian bullseye, of which it is the own Python."""
    data = ways()["images"]["python39"]
    main = next((one for one in _sources(environ) if one.origin == "Debian"), None)
    if main is None:
        raise HostUnfit("the host's apt has no Debian archive", remedy="put a python3.9 on PATH")
    return _debian(environ, tell, "python39", tuple(data["packages"]), (Source(main.uri, data["suite"], "main", "Debian"),))


def _sources(environ: Mapping[str, str]) -> Tuple[Source, ...]:
    sources = host_sources(environ)
    if not sources:
        raise HostUnfit(
            "no base image can be made: this host has no apt with a Debian or Ubuntu archive",
            remedy="name an image that is there: a SIF, an unpacked directory, or a registry's",
        )
    return sources


def _place(environ: Mapping[str, str], kind: str, packages: Args, sources: Tuple[Source, ...]) -> str:
    text = "\n".join((RECIPE, os.uname().machine, *sorted(set(packages)), *(source.line() for source in sources)))
    return os.path.join(cache(environ), "images", "%s-%s" % (kind, hashlib.sha256(text.encode()).hexdigest()[:16]))


def _debian(environ: Mapping[str, str], tell: Tell, kind: str, packages: Args, sources: Tuple[Source, ...]) -> str:
    directory = _place(environ, kind, packages, sources)
    if not os.path.isdir(directory):
        tell("making an image of %s with %s from packages of %s in %s" % (sources[0].suite, ", ".join(packages), sources[0].uri, directory))
        with staged(directory) as work:
            tree = _tree(work)
            for name in ("bin", "sbin", "lib", "lib64"):  # the merged /usr, https://wiki.debian.org/UsrMerge
                os.makedirs(os.path.join(tree, "usr", name), mode=0o755)
                os.symlink("usr/" + name, os.path.join(tree, name))
            apt = PrivateApt(work, sources, environ, tell)
            apt.update()
            fetched = apt.download(apt.closure(("?essential", *packages)))
            tell("unpacking %d packages" % len(fetched))
            members = {package: unpack(package, tree, exclude=_EXCLUDED) for package in fetched}
            settings = apt.network() + (TAKE_EXPIRED if apt.expired else "")
            configure_debian(tree, members, sources, settings)
            _readable(tree)
            publish(tree, directory)
    return directory


def _tree(work: str) -> str:
    tree = os.path.join(work, "tree")
    os.mkdir(tree)
    for name in _DIRECTORIES:
        os.makedirs(os.path.join(tree, name))
    return tree


def _finish_busybox(tree: str) -> None:
    program = next(one for one in ("bin/busybox", "usr/bin/busybox") if os.path.exists(os.path.join(tree, one)))
    if program != "bin/busybox":
        os.makedirs(os.path.join(tree, "bin"), exist_ok=True)
        shutil.move(os.path.join(tree, program), os.path.join(tree, "bin", "busybox"))
        shutil.rmtree(os.path.join(tree, "usr"))
    applets = run((os.path.join(tree, "bin", "busybox"), "--list"), timeout=_LIMIT_S).check().stdout.decode().split()
    for name in applets:
        if name != "busybox":
            os.symlink("busybox", os.path.join(tree, "bin", name))
    for name in ("usr/bin", "usr/sbin", "sbin"):
        os.makedirs(os.path.join(tree, name), exist_ok=True)
    # scripts name it so
    os.symlink("../../bin/env", os.path.join(tree, "usr/bin/env"))
    texts = {"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n", "hosts": "127.0.0.1\tlocalhost\n", "resolv.conf": ""}
    for name, text in texts.items():
        with open(os.path.join(tree, "etc", name), "w", encoding="utf-8") as handle:
            handle.write(text)
    _readable(tree)


def _readable(tree: str) -> None:
    """A umask of 077, or root's 0700 directories in packages, must not make a tree that its owner or a mapped user cannot use."""
    for place, directories, files in os.walk(tree):
        for name in (*directories, *files):
            path = os.path.join(place, name)
            if not os.path.islink(path):
                mode = os.stat(path).st_mode & 0o777
                os.chmod(path, mode | (0o755 if os.path.isdir(path) else 0o444))
    for name in ("tmp", "var/tmp"):
        os.chmod(os.path.join(tree, name), 0o1777)
    os.chmod(tree, 0o755)
