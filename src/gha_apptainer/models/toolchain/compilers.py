"""Compilers: what one is and which flags it wants."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gha_apptainer.domain.errors import HostUnfit, Refused
from gha_apptainer.node import process

GCC, CLANG = "gcc", "clang"
_ASK_LIMIT_S = 60.0
MACHINES: Mapping[str, str] = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}

_OLD_NAMES = {1: "x86-64", 2: "nehalem", 3: "haswell", 4: "skylake-avx512"}
_NAMED_SINCE = {GCC: 11, CLANG: 12}


@dataclass(frozen=True)
class Compiler:
    """One compiler as it told of itself. `argv` starts it; `version` is its own first line."""

    argv: tuple[str, ...]
    family: str
    version: str
    major: int
    machine: str

    def level_flags(self, level: int) -> tuple[str, ...]:
        """What makes it write code of one x86-64 level, tuned for no processor in particular."""
        name = "x86-64-v%d" % level if level > 1 and self.major >= _NAMED_SINCE[self.family] else _OLD_NAMES[level]
        if self.argv[-1:] == ("cc",) and self.family == CLANG and "zig" in self.argv[0]:
            name = name.replace("-", "_")
        wide = ("-mprefer-vector-width=512",) if level == 4 else ()
        return ("-march=" + name, "-mtune=generic", *wide) if self.family == GCC else ("-march=" + name, *wide)


def ask(argv: Sequence[str], target: str = "") -> Compiler:
    """What the compiler says of itself. Raises HostUnfit where it does not run, Refused where it is neither gcc nor clang."""
    words = (*argv, "-target", target) if target else tuple(argv)
    env = environment()
    said = process.run((*words, "--version"), env=env, timeout=_ASK_LIMIT_S).check().stdout.decode("utf-8", "replace")
    macros = (
        process.run((*words, "-dM", "-E", "-x", "c", "/dev/null"), env=env, timeout=_ASK_LIMIT_S).check().stdout.decode("utf-8", "replace")
    )
    known = dict(re.findall(r"^#define (\w+) (.*)$", macros, re.MULTILINE))
    family, major = (CLANG, known.get("__clang_major__")) if "__clang__" in known else (GCC, known.get("__GNUC__"))
    machine = "x86_64" if "__x86_64__" in known else "aarch64" if "__aarch64__" in known else ""
    if not major or not machine or "__ELF__" not in known:
        raise Refused("%s is no gcc or clang for 64-bit Linux on x86 or ARM" % " ".join(argv))
    return Compiler(words, family, said.splitlines()[0].strip() if said else "", int(major), machine)


def local(named: str = "") -> Compiler:
    """The compiler that a person named, else the first of this machine."""
    for words in [named.split()] if named else [["gcc"], ["cc"], ["clang"]]:
        found = shutil.which(words[0], path=None if named else process.BASE_PATH)
        if found:
            return ask((found, *words[1:]))
    if named:
        raise HostUnfit("there is no compiler %s" % named, remedy="name one with --compiler, for example: --compiler gcc")
    raise HostUnfit("this machine has no C compiler", remedy="install gcc or clang, or name one: --compiler PATH")


def environment() -> tuple[tuple[str, str], ...]:
    """The whole environment of a compiler: nothing that could show in its output or depend on who calls."""
    return (*process.minimal_env(), ("LC_ALL", "C"), ("TZ", "UTC"), ("SOURCE_DATE_EPOCH", "0"), *_cache())


def _cache() -> tuple[tuple[str, str], ...]:
    import os

    found = os.environ.get("ZIG_GLOBAL_CACHE_DIR")
    return (("ZIG_GLOBAL_CACHE_DIR", found),) if found else ()
