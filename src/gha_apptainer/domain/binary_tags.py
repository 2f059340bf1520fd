"""BINARY_TAG: the name that experiments give to a platform, `x86_64_v3-el9-gcc13+detdesc-opt+g`, and what it means for a compiler.

The grammar is `ARCH[_vN|+FLAG…]-OS-COMPILER[VERSION][+LAYER…]-BUILD[+SUFFIX…]`. Nothing here asks the machine.
"""

from __future__ import annotations

import re
from typing import Mapping, Optional, Sequence, Tuple

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.values import dataclass

GLIBC: Mapping[str, Tuple[int, int]] = {
    "slc6": (2, 12),
    "centos7": (2, 17),
    "el7": (2, 17),
    "el8": (2, 28),
    "centos8": (2, 28),
    "el9": (2, 34),
    "centos9": (2, 34),
    "el10": (2, 39),
    "ubuntu2004": (2, 31),
    "ubuntu2204": (2, 35),
    "ubuntu2404": (2, 39),
}
"""Operating system: the glibc that it has, which is the newest that a file for it may ask for."""

BUILDS = ("opt", "dbg", "do0")
SUFFIXES = ("g",)
_COMPILER = re.compile(r"(gcc|clang|icc|icx|nvcc)(\d+(?:\.\d+)*)?")
_WORD = re.compile(r"[A-Za-z0-9_.]+")

_LEVELS: Mapping[str, int] = {
    "x86_64_v1": 1,
    "x86_64_v2": 2,
    "x86_64_v3": 3,
    "x86_64_v4": 4,
    "core2": 1,
    "nehalem": 2,
    "westmere": 2,
    "sandybridge": 2,
    "ivybridge": 2,
    "haswell": 3,
    "broadwell": 3,
    "skylake": 3,
    "znver1": 3,
    "znver2": 3,
    "znver3": 3,
    "skylake_avx512": 4,
    "icelake_server": 4,
    "sapphirerapids": 4,
    "znver4": 4,
}
_FLAG_LEVELS: Mapping[str, int] = {"sse4.2": 2, "sse4_2": 2, "avx": 2, "avx2": 3, "fma": 3, "avx512": 4, "avx512f": 4}
_ARM = re.compile(r"aarch64|armv[89](?:\.\d)?_a|neoverse_[a-z0-9]+")


@dataclass(frozen=True)
class BinaryTag:
    """One tag, taken apart. `level` is the x86-64 level that code for it may use, 0 on other processors."""

    text: str
    architecture: str
    flags: Tuple[str, ...]
    machine: str
    level: int
    os: str
    compiler: str
    version: str
    layers: Tuple[str, ...]
    build: str
    suffixes: Tuple[str, ...]

    @property
    def major(self) -> int:
        """The compiler's major version, 0 where the tag does not say."""
        return _major(self.version)

    @property
    def glibc(self) -> Optional[Tuple[int, int]]:
        """The newest glibc that a file for it may ask for; None where the operating system is not known."""
        return GLIBC.get(self.os)

    @property
    def optimised(self) -> bool:
        """Whether code is to be fast; the other builds are for debuggers."""
        return self.build == "opt"

    @property
    def debug(self) -> bool:
        """Whether code carries what debuggers read."""
        return self.build != "opt" or "g" in self.suffixes


def parse(text: str) -> BinaryTag:
    """Take a tag apart. Raises InputError naming the part that is not understood."""
    fields = text.split("-")
    if len(fields) != 4 or not all(fields):
        raise _bad(text, "it has %d parts between dashes, not 4" % len(fields))
    (architecture, *flags), os, (compiler, *layers), (build, *suffixes) = (
        fields[0].split("+"),
        fields[1],
        fields[2].split("+"),
        fields[3].split("+"),
    )
    for word in (architecture, *flags, os, *layers):
        if not _WORD.fullmatch(word):
            raise _bad(text, "%r is no word" % word)
    found = _COMPILER.fullmatch(compiler)
    if found is None:
        raise _bad(text, "no compiler is named %r" % compiler)
    if build not in BUILDS:
        raise _bad(text, "no build is named %r; there are: %s" % (build, ", ".join(BUILDS)))
    if any(one not in SUFFIXES for one in suffixes):
        raise _bad(text, "no suffix of a build is named %r" % next(one for one in suffixes if one not in SUFFIXES))
    family, version = found[1], found[2] or ""
    machine, level = _architecture(text, architecture, flags, family, version)
    return BinaryTag(text, architecture, tuple(flags), machine, level, os, family, version, tuple(layers), build, tuple(suffixes))


def _architecture(text: str, name: str, flags: Sequence[str], family: str, version: str) -> Tuple[str, int]:
    if _ARM.fullmatch(name):
        if flags:
            raise _bad(text, "flags of ARM processors are not understood")
        return "aarch64", 0
    unknown = [one for one in flags if one not in _FLAG_LEVELS]
    if unknown:
        raise _bad(text, "no processor flag is named %r" % unknown[0])
    if name == "x86_64":
        # the experiments' plain x86_64 means SSE4.2 with every compiler that is newer than gcc 6.1
        plain = 1 if family == "gcc" and 0 < _major(version) <= 6 and version not in ("62", "6.2", "6.3", "63") else 2
        return "x86_64", max([plain] + [_FLAG_LEVELS[one] for one in flags])
    if name not in _LEVELS:
        raise _bad(text, "no processor is named %r" % name)
    return "x86_64", max([_LEVELS[name]] + [_FLAG_LEVELS[one] for one in flags])


def _major(version: str) -> int:
    """gcc62 was 6.2: one digit for the major version, until there were versions of two digits."""
    if not version:
        return 0
    first = version.split(".", maxsplit=1)[0]
    return int(first[0]) if len(first) == 2 and first[0] in "456789" and "." not in version else int(first)


def _bad(text: str, why: str) -> InputError:
    return InputError("%r is no BINARY_TAG: %s" % (text, why), remedy="ARCHITECTURE-OS-COMPILER-BUILD, for example x86_64_v3-el9-gcc13-opt")
