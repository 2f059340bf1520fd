"""Read a SIF file's tables ourselves: 1 ms, where `apptainer sif` costs 30.

A SIF is a 128-byte header, a table of 585-byte descriptors and data, all little endian:
https://github.com/apptainer/sif (pkg/sif). We need its root partition and the JSON object that holds the OCI configuration.
"""

from __future__ import annotations

import os
import struct

from gha_apptainer.domain.errors import GhaError, ImageFailed
from gha_apptainer.domain.images import OciConfig
from gha_apptainer.domain.oci_configs import config_from_plain, load_object
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

_HEADER = struct.Struct("<32s10s3s3s16sqqqqqqqq")
_DESCRIPTOR = struct.Struct("<i?III7q128s384s")
_MAGIC = b"SIF_MAGIC\0"
_PARTITION, _JSON = 0x4004, 0x4006
_PRIMARY_SYSTEM = 2
_SQUASHFS = 1
_MOST_OBJECTS = 4096
_CONFIG_NAME = "oci-config.json"
_CONFIG_LIMIT = 8 << 20
_ARCHITECTURES = {b"01": "386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"06": "ppc64le", b"11": "s390x", b"12": "riscv64"}
"""The codes of pkg/sif/arch.go that machines we run on may have; others are not judged."""


@dataclass(frozen=True)
class SifObject:
    """One object of a SIF: its kind, name, and where its bytes lie."""

    kind: int
    name: str
    offset: int
    size: int
    extra: bytes


@dataclass(frozen=True)
class Sif:
    """A SIF's root partition: offset and size in bytes, architecture (Go's word, empty if unknown), and whether it is squashfs."""

    path: str
    offset: int
    size: int
    architecture: str
    squashfs: bool
    objects: Tuple[SifObject, ...]


def read_sif(path: str) -> Sif:
    """The tables of a SIF, checked against the file's size. Raises ImageFailed for anything that could not be run."""
    try:
        with open(path, "rb") as handle:
            length = os.fstat(handle.fileno()).st_size
            head = handle.read(_HEADER.size)
            if len(head) < _HEADER.size or head[32:42] != _MAGIC:
                raise ImageFailed("%s is no SIF image" % path, remedy="give a SIF file or an unpacked directory")
            fields = _HEADER.unpack(head)
            total, table, table_size = fields[8], fields[9], fields[10]
            if not 0 < total <= _MOST_OBJECTS or not 0 < table <= length or table_size < 0:
                raise _damaged(path, "its table of objects makes no sense")
            handle.seek(table)
            data = handle.read(total * _DESCRIPTOR.size)
    except OSError as error:
        raise ImageFailed("cannot read %s: %s" % (path, error.strerror)) from error
    if len(data) < total * _DESCRIPTOR.size:
        raise _damaged(path, "it ends inside its table of objects")
    objects = []
    for at in range(total):
        kind, used, _, _, _, offset, size, _, _, _, _, _, name, extra = _DESCRIPTOR.unpack_from(data, at * _DESCRIPTOR.size)
        if not used:
            continue
        if offset < 0 or size < 0 or offset + size > length:
            raise _damaged(path, "it has %d bytes, an object would end at %d" % (length, offset + size))
        objects.append(SifObject(kind, name.split(b"\0")[0].decode("utf-8", "replace"), offset, size, extra))
    return _with_root(path, tuple(objects))


def _with_root(path: str, objects: Tuple[SifObject, ...]) -> Sif:
    for one in objects:
        if one.kind != _PARTITION:
            continue
        file_system, part, arch = struct.unpack_from("<ii3s", one.extra)
        if part == _PRIMARY_SYSTEM:
            return Sif(path, one.offset, one.size, _ARCHITECTURES.get(arch[:2], ""), file_system == _SQUASHFS, objects)
    raise ImageFailed("%s holds no root file system" % path, cause="it is a SIF of data only, or an encrypted or OCI-mode one")


def _damaged(path: str, why: str) -> ImageFailed:
    return ImageFailed("%s is damaged: %s" % (path, why), cause="a copy that did not finish, or a purged file")


def sif_config(sif: Sif) -> Optional[OciConfig]:
    """The OCI configuration that `apptainer build` keeps in a SIF; None where it was not made from an OCI image."""
    for one in sif.objects:
        if one.kind == _JSON and one.name == _CONFIG_NAME and one.size <= _CONFIG_LIMIT:
            try:
                with open(sif.path, "rb") as handle:
                    handle.seek(one.offset)
                    return config_from_plain(load_object(handle.read(one.size), "%s in %s" % (_CONFIG_NAME, sif.path)))
            except OSError as error:
                raise ImageFailed("cannot read %s: %s" % (sif.path, error.strerror)) from error
            except GhaError as error:
                raise ImageFailed("%s: %s" % (sif.path, error.what)) from error
    return None
