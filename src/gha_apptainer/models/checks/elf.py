"""What a shared object says of itself, read without loading it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gha_apptainer.domain.errors import Untrusted
from gha_apptainer.models.extra import require
from gha_apptainer.node import files

_RELOCATED = frozenset((".init_array", ".dynamic", ".got", ".got.plt", ".data.rel.ro", ".relro_padding"))
"""Sections that the loader fills and then makes read-only (RELRO)."""
_WRITE, _EXECUTE = 1, 4


@dataclass(frozen=True)
class Facts:
    """One file. `versions` are needed symbol versions as library:version; `writable` the bytes that stay writable, by section."""

    machine: str
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    versions: tuple[str, ...]
    undefined: tuple[str, ...]
    exported: tuple[str, ...]
    constructors: tuple[str, ...]
    writable: Mapping[str, int]
    executable_stack: bool
    text_relocations: bool
    relro: bool
    build_id: str
    comments: tuple[str, ...]
    soname: str
    debug: bool


def read(path: Path) -> Facts:
    """Read a file. Raises Untrusted where it is no 64-bit shared object."""
    opened = _open(path)
    dynamic = opened.get_section_by_name(".dynamic")
    if dynamic is None or opened.elfclass != 64:
        raise Untrusted("%s is no 64-bit shared object" % path)
    tags = list(dynamic.iter_tags())

    def texts(kind: str, attribute: str) -> tuple[str, ...]:
        return tuple(str(getattr(one, attribute)) for one in tags if one.entry.d_tag == kind)

    flags = sum(one.entry.d_val for one in tags if one.entry.d_tag == "DT_FLAGS")
    symbols = list((opened.get_section_by_name(".dynsym") or _Nothing()).iter_symbols())
    segments = list(opened.iter_segments())
    stacks = [one for one in segments if one["p_type"] == "PT_GNU_STACK"]
    comment = opened.get_section_by_name(".comment")
    return Facts(
        str(opened["e_machine"]),
        texts("DT_NEEDED", "needed"),
        texts("DT_RPATH", "rpath") + texts("DT_RUNPATH", "runpath"),
        tuple(_versions(opened)),
        tuple(one.name for one in symbols if one["st_shndx"] == "SHN_UNDEF" and one.name),
        tuple(sorted(one.name for one in symbols if one["st_shndx"] != "SHN_UNDEF" and one.name and one["st_info"]["bind"] != "STB_LOCAL")),
        tuple(_constructors(opened)),
        {
            one.name: int(one["sh_size"])
            for one in opened.iter_sections()
            if one["sh_flags"] & _WRITE and one["sh_size"] and one.name not in _RELOCATED
        },
        not stacks
        or any(one["p_flags"] & 1 for one in stacks)
        or any(one["p_flags"] & 3 == 3 for one in segments if one["p_type"] == "PT_LOAD"),
        bool(flags & 4) or any(one.entry.d_tag == "DT_TEXTREL" for one in tags),
        any(one["p_type"] == "PT_GNU_RELRO" for one in segments),
        _build_id(opened),
        tuple(one.decode("utf-8", "replace") for one in comment.data().split(b"\0") if one) if comment is not None else (),
        (texts("DT_SONAME", "soname") or ("",))[0],
        opened.get_section_by_name(".debug_info") is not None,
    )


class _Nothing:
    """A section that is not there."""

    def iter_symbols(self) -> Iterator[Any]:
        """No symbols."""
        return iter(())


def _open(path: Path) -> Any:
    try:
        return require("elftools.elf.elffile").ELFFile(io.BytesIO(files.read_whole(str(path), limit=4 << 30)))
    except require("elftools.common.exceptions").ELFError as error:
        raise Untrusted("%s is no ELF file: %s" % (path, error)) from error


def _versions(opened: Any) -> Iterator[str]:
    section = opened.get_section_by_name(".gnu.version_r")
    if section is not None:
        for library, wanted in section.iter_versions():
            for one in wanted:
                yield "%s:%s" % (library.name, one.name)


def _constructors(opened: Any) -> Iterator[str]:
    """Names of the functions that run when the file is loaded; an address where there is no name."""
    section = opened.get_section_by_name(".init_array")
    if section is None:
        return
    names = {one["st_value"]: one.name for one in functions_of(opened)}
    start, size = section["sh_addr"], section["sh_size"]
    placed = {
        one["r_offset"]: one["r_addend"]
        for table in opened.iter_sections()
        if table["sh_type"] == "SHT_RELA"
        for one in table.iter_relocations()
    }
    for at in range(start, start + size, 8):
        address = placed.get(at, int.from_bytes(section.data()[at - start : at - start + 8], "little"))
        yield names.get(address, hex(address))


def functions_of(opened: Any) -> list[Any]:
    """Symbols of all functions, of the full table where it is there."""
    table = opened.get_section_by_name(".symtab") or opened.get_section_by_name(".dynsym")
    return [one for one in table.iter_symbols() if one["st_info"]["type"] == "STT_FUNC" and one["st_shndx"] != "SHN_UNDEF"] if table else []


def _build_id(opened: Any) -> str:
    section = opened.get_section_by_name(".note.gnu.build-id")
    return next((str(one["n_desc"]) for one in section.iter_notes()), "") if section is not None else ""


def code(path: Path) -> tuple[str, list[tuple[str, int, int]], list[tuple[int, bytes]]]:
    """For the audit: the machine, functions as (name, address, size), and executable sections as (address, bytes)."""
    opened = _open(path)
    functions = [(one.name, int(one["st_value"]), int(one["st_size"])) for one in functions_of(opened)]
    sections = [(int(one["sh_addr"]), one.data()) for one in opened.iter_sections() if one["sh_flags"] & _EXECUTE and one["sh_size"]]
    return str(opened["e_machine"]), functions, sections


def descriptor(path: Path) -> Mapping[str, Any]:
    """What the library tells about itself, without loading it."""
    opened = _open(path)
    table = opened.get_section_by_name(".dynsym")
    for one in table.iter_symbols() if table is not None else ():
        if one.name == path.name.removesuffix(".so") + "_descriptor":
            for section in opened.iter_sections():
                start = section["sh_addr"]
                if start and start <= one["st_value"] < start + section["sh_size"]:
                    at = one["st_value"] - start
                    data = section.data()[at : at + one["st_size"]].split(b"\0")[0]
                    try:
                        return dict(json.loads(data))
                    except ValueError as error:
                        raise Untrusted("%s does not describe itself: %s" % (path, error)) from error
    raise Untrusted("%s does not describe itself" % path, remedy="it was not compiled by `models compile`, or was renamed")
