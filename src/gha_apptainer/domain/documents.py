"""The only codec between our values and JSON: strict, versioned, ASCII.

Documents are frozen dataclasses. Bytes that are no UTF-8 live in text as lone surrogates (surrogateescape), and JSON keeps
them as escapes, so that a document survives any file name. Where a document type has `DOCUMENT_VERSION`, its `version` field must be that
value, or one of `READS_VERSIONS`, when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping as AbstractMapping
from enum import Enum
from typing import Any, Dict, Type, TypeVar, Union, get_args, get_origin, get_type_hints

from gha_apptainer.domain.errors import Untrusted
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.domain.values import MISSING, fields, is_dataclass

T = TypeVar("T")
_hints: Dict[type, Dict[str, Any]] = {}
_PLAIN: Dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": float}


def plain(value: object, *, secrets: bool = False) -> Any:
    """The value as JSON's own types. Secrets become `***` unless `secrets` asks for their text."""
    if isinstance(value, Secret):
        return value.reveal() if secrets else str(value)
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name), secrets=secrets) for item in fields(value)}
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, AbstractMapping):
        return {str(key): plain(item, secrets=secrets) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item, secrets=secrets) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError("no document form for %r" % type(value))


def to_json(value: object, *, secrets: bool = False, indent: int = 0) -> str:
    """The value as one JSON text, keys in the order of the fields; `indent` 0 is one line."""
    return json.dumps(plain(value, secrets=secrets), ensure_ascii=True, indent=indent or None)


def from_json(kind: Type[T], text: str) -> T:
    """Read a document of type `kind`. Raises Untrusted for anything that is not exactly one."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise Untrusted("not a %s document: %s" % (kind.__name__, error), cause="half-written or forged") from error
    return from_plain(kind, raw)


def from_plain(kind: Type[T], raw: object) -> T:
    """As from_json, from values that are parsed already."""
    found = _read(kind, raw, kind.__name__)
    version = getattr(kind, "DOCUMENT_VERSION", None)
    if version is not None:
        accepted = getattr(kind, "READS_VERSIONS", (version,))
        stated = getattr(found, "version", None)
        if stated not in accepted:
            raise Untrusted(
                "%s has version %r, this program reads %s" % (kind.__name__, stated, ", ".join(map(str, accepted))),
                cause="written by another version of gha-apptainer",
                remedy="use one version for all parts of a site",
            )
    return found  # type: ignore[no-any-return]  # _read has checked it against the type at run time


def _fail(where: str, wanted: str, raw: object) -> Untrusted:
    return Untrusted("%s: expected %s, found %s" % (where, wanted, type(raw).__name__), cause="half-written or forged document")


def _read(kind: Any, raw: object, where: str) -> Any:
    origin = get_origin(kind)
    if origin is Union:
        inner = [one for one in get_args(kind) if one is not type(None)]
        return None if raw is None else _read(inner[0], raw, where)
    if origin is tuple:
        return _read_tuple(get_args(kind), raw, where)
    if origin is not None and issubclass(origin, AbstractMapping):
        if not isinstance(raw, dict):
            raise _fail(where, "an object", raw)
        value_kind = get_args(kind)[1]
        return {key: _read(value_kind, item, "%s.%s" % (where, key)) for key, item in raw.items()}
    if is_dataclass(kind):
        return _read_dataclass(kind, raw, where)
    if kind is Secret:
        if not isinstance(raw, str):
            raise _fail(where, "text", raw)
        return Secret(raw)
    if isinstance(kind, type) and issubclass(kind, Enum):
        if not isinstance(raw, str) or raw not in kind.__members__:
            raise _fail(where, "one of " + ", ".join(kind.__members__), raw)
        return kind[raw]
    if kind is float and type(raw) is int:
        return float(raw)
    if kind is bytes and isinstance(raw, str):
        return raw.encode("utf-8", "surrogateescape")
    if kind is Any or kind is object:
        return raw
    if type(raw) is not kind:
        raise _fail(where, kind.__name__, raw)
    return raw


def _type_hints(kind: Any) -> Dict[str, Any]:
    """The types of a class's fields. Most are plain words, which need no evaluation; that is a third of the cost of a small document."""
    found = {}
    for item in fields(kind):
        plain_kind = _PLAIN.get(item.type) if isinstance(item.type, str) else None
        if plain_kind is None:
            return get_type_hints(kind)
        found[item.name] = plain_kind
    return found


def _read_tuple(kinds: Any, raw: object, where: str) -> Any:
    if not isinstance(raw, list):
        raise _fail(where, "a list", raw)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_read(kinds[0], item, "%s[%d]" % (where, at)) for at, item in enumerate(raw))
    if len(kinds) != len(raw):
        raise Untrusted("%s: expected %d items, found %d" % (where, len(kinds), len(raw)))
    return tuple(_read(one, item, "%s[%d]" % (where, at)) for at, (one, item) in enumerate(zip(kinds, raw)))


def _read_dataclass(kind: Any, raw: object, where: str) -> Any:
    if not isinstance(raw, dict):
        raise _fail(where, "an object", raw)
    if kind not in _hints:
        _hints[kind] = _type_hints(kind)
    hints = _hints[kind]
    known = {item.name: item for item in fields(kind)}
    unknown = sorted(set(raw) - set(known))
    if unknown:
        raise Untrusted("%s: unknown key %s" % (where, ", ".join(map(repr, unknown))), remedy="known keys: " + ", ".join(known))
    values = {}
    for name, item in known.items():
        if name in raw:
            values[name] = _read(hints[name], raw[name], "%s.%s" % (where, name))
        elif item.default is MISSING and item.default_factory is MISSING:
            raise Untrusted("%s: key %r is missing" % (where, name), cause="half-written or forged document")
    return kind(**values)
