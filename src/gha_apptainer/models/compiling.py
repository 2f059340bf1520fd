"""From files of trained models to a directory that can be released: IR, C, header, golden vectors, libraries, and the record of it all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gha_apptainer.domain.binary_tags import BinaryTag
from gha_apptainer.domain.errors import InputError, Untrusted
from gha_apptainer.models import vectors
from gha_apptainer.models.emit.program import Emitted, Options, emit
from gha_apptainer.models.frontends import Request, read
from gha_apptainer.models.ir import saving
from gha_apptainer.models.ir.graphs import Program
from gha_apptainer.models.toolchain.building import Build, build
from gha_apptainer.models.toolchain.compilers import Compiler
from gha_apptainer.node import files

VERSION = 1
LOCAL = "any"
"""The directory of the library that a local compiler built: for any machine, and under no experiment's tag."""


@dataclass(frozen=True)
class Library:
    """One library of the record; `path` is relative to it. `tag` is a BINARY_TAG, or `any` for what a local compiler built."""

    tag: str
    path: str
    sha256: str
    compiler: str
    local: bool
    machine: str
    optimised: bool
    debug: bool
    levels: int
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """`NAME.build.json`: what lies in a directory, and how it was made."""

    name: str
    content: str
    mode: str
    levels: int
    internal_noise: bool
    files: Mapping[str, str]
    libraries: tuple[Library, ...]

    @property
    def options(self) -> Options:
        """How the C was written."""
        return Options(self.mode, self.levels, self.internal_noise)

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=1, sort_keys=True).encode() + b"\n"


def decode(data: bytes, where: str) -> Record:
    """The record that a file holds."""
    try:
        raw = json.loads(data)
        if raw.pop("version") != VERSION:
            raise ValueError("it is of another version")
        libraries = tuple(Library(**{**one, "flags": tuple(one["flags"])}) for one in raw.pop("libraries"))
        return Record(**raw, libraries=libraries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Untrusted("%s is no record of compiled models: %s" % (where, error)) from error


def find(directory: Path) -> tuple[Path, Record]:
    """The record in a directory that `models compile` wrote."""
    found = sorted(directory.glob("*.build.json"))
    if len(found) != 1:
        raise InputError(
            "%s has %d files *.build.json, not one" % (directory, len(found)), remedy="name a directory that `models compile` wrote"
        )
    return found[0], decode(files.read_whole(str(found[0])), str(found[0]))


def read_models(named: Sequence[tuple[str, Path]], name: str, *, noise_input: str, allow_pickle: bool) -> Program:
    """One library of the functions of several files."""
    functions: list[Any] = []
    sources = []
    for function, path in named:
        graphs, source = read(Request(path, function, noise_input, allow_pickle))
        functions += graphs
        sources.append(source)
    return Program(name, tuple(functions), tuple(sources))


def write(program: Program, options: Options, directory: Path) -> tuple[Emitted, dict[str, str]]:
    """Everything but the libraries; the C, and the digest of each file."""
    directory.mkdir(parents=True, exist_ok=True)
    emitted = emit(program, options)
    text, blob = saving.encode(program)
    name = program.name
    contents = {
        "%s.c" % name: emitted.code.encode(),
        "%s.h" % name: emitted.header.encode(),
        "%s.ir.bin" % name: blob,
        "%s.ir.json" % name: text,
        "%s.golden.zip" % name: vectors.encode(program),
    }
    for file, data in contents.items():
        files.write_whole(str(directory / file), data, mode=0o644)
    return emitted, {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}


def library(emitted: Emitted, name: str, options: Options, compiler: Compiler, directory: Path, tag: BinaryTag | None = None) -> Library:
    """Build one library below the directory and describe it."""
    place = LOCAL if tag is None else tag.text
    levels = min(options.levels, tag.level) if tag is not None and tag.level else options.levels
    optimise, debug = (True, False) if tag is None else (tag.optimised, tag.debug)
    chosen = Options(options.mode, levels, options.internal_noise)
    made: Build = build(emitted, name, compiler, chosen, directory / place, optimise=optimise, debug=debug)
    path = made.path.relative_to(directory).as_posix()
    return Library(place, path, made.sha256, made.compiler, tag is None, compiler.machine, optimise, debug, levels, made.flags)


def record(program: Program, options: Options, digests: Mapping[str, str], libraries: Sequence[Library], directory: Path) -> Record:
    """Write `NAME.build.json`, last: a directory without it is not finished."""
    found = Record(
        program.name, saving.content_hash(program), options.mode, options.levels, options.internal_noise, dict(digests), tuple(libraries)
    )
    files.write_whole(str(directory / ("%s.build.json" % program.name)), found.encode(), mode=0o644)
    return found
