"""Which node runs JavaScript actions in a job container: the runner's own, another that the site provides, or none and why.

The runner brings node for glibc, and on x86_64 for Alpine's musl; which of them it starts follows from the hook's word `isAlpine`.
"""

from __future__ import annotations

import re
from typing import Mapping, Optional, Tuple

from gha_apptainer.domain.hook_policy import glibc_version
from gha_apptainer.domain.values import dataclass

GLIBC, MUSL, NONE = "glibc", "musl", "none"
NEEDED = (2, 28)
"""The oldest glibc that the runner's node (20 and 24) runs on: https://github.com/nodejs/node/blob/v20.x/BUILDING.md."""


@dataclass(frozen=True)
class Libc:
    """An image's C library. `version` is of a glibc, (0, 0) if unknown; `alpine` tells what the image calls itself."""

    kind: str = NONE
    version: Tuple[int, int] = (0, 0)
    alpine: bool = False

    def __str__(self) -> str:
        if self.kind == GLIBC:
            return "glibc %d.%d" % self.version if self.version != (0, 0) else "glibc"
        return self.kind if self.kind == MUSL else "no C library"


@dataclass(frozen=True)
class NodeFit:
    """`alpine` is the answer to the runner; `place` a directory whose nodeNN are bound over the runner's; `problem` why none fits."""

    alpine: bool
    place: str = ""
    problem: str = ""


def libc_of(os_release: str, alpine_release: bool, musl_loader: bool, glibc_banner: str) -> Libc:
    """The library, from the text of os-release, whether /etc/alpine-release and a musl loader are there, and glibc's own banner."""
    words = dict(line.partition("=")[::2] for line in os_release.splitlines())
    name = words.get("ID", "").strip("\"' ")
    alpine = alpine_release or name == "alpine"
    if glibc_banner:
        found = re.search(r"version (\d+)\.(\d+)", glibc_banner)
        return Libc(GLIBC, (int(found.group(1)), int(found.group(2))) if found else (0, 0), alpine and not found)
    if musl_loader:
        return Libc(MUSL, alpine=alpine)
    return Libc(MUSL if alpine else NONE, alpine=alpine)


def node_fit(libc: Libc, machine: str, nodes: Mapping[str, str]) -> NodeFit:
    """The node for an image on this machine; `nodes` are the site's own, by the library that they need."""
    if libc.kind == MUSL:
        if machine == "x86_64":
            return NodeFit(alpine=True)
        if "musl" in nodes:
            return NodeFit(alpine=False, place=nodes["musl"])
        return NodeFit(True, "", _problem(libc, "the runner has none for musl on %s" % machine, "musl"))
    if libc.kind == GLIBC and (libc.version >= NEEDED or libc.version == (0, 0)):
        return NodeFit(alpine=False)
    if libc.kind == GLIBC:
        chosen = _newest(nodes, libc.version)
        if chosen:
            return NodeFit(alpine=False, place=chosen)
        return NodeFit(False, "", _problem(libc, "the runner's own needs glibc %d.%d or newer" % NEEDED, "glibc-%d.%d" % libc.version))
    return NodeFit(False, "", _problem(libc, "the runner's own needs glibc %d.%d or newer, or musl" % NEEDED, ""))


def _newest(nodes: Mapping[str, str], have: Tuple[int, int]) -> str:
    """The site's node that needs the newest glibc of those that `have` serves."""
    fitting = [(version, path) for version, path in ((glibc_version(name), path) for name, path in nodes.items()) if _serves(version, have)]
    return max(fitting)[1] if fitting else ""


def _serves(version: Optional[Tuple[int, int]], have: Tuple[int, int]) -> bool:
    return version is not None and version <= have


def _problem(libc: Libc, why: str, key: str) -> str:
    lines = [
        "JavaScript actions cannot run in this image: it has %s, and %s" % (libc, why),
        "use an image with a newer C library, or do this step outside of the container",
    ]
    if key:
        lines.append("a site can provide a node that fits: policy key `nodes`, %s" % key)
    return "\n".join(lines)
