"""The only codec between our values and JSON: strict, versioned, ASCII.

Documents are frozen dataclasses. Bytes that are no UTF-8 live in text as lone surrogates (surrogateescape), and JSON keeps
them as escapes, so that a document survives any file name. Where a document type has `DOCUMENT_VERSION`, its `version` field must be that
value, or one of `READS_VERSIONS`, when it is read.

Every start of a container writes documents and hardly reads any. The reader, and with it `json` (which brings `re` and `enum`), is
loaded when something is read (`document_reading`), and text that needs no escape is written without it.
"""

from __future__ import annotations

import sys
from _collections_abc import Mapping as AbstractMapping  # what collections.abc has; that package loads five modules more

from gha_apptainer.domain.secrets import Secret
from gha_apptainer.domain.values import fields, is_dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Type, TypeVar

    T = TypeVar("T")


def plain(value: object, *, secrets: bool = False) -> Any:
    """The value as JSON's own types. Secrets become `***` unless `secrets` asks for their text."""
    if value is None or (isinstance(value, (str, bool, int, float)) and type(value) in (str, bool, int, float)):
        return value
    if isinstance(value, Secret):
        return value.reveal() if secrets else str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name), secrets=secrets) for item in fields(value)}
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (tuple, list)):
        return [plain(item, secrets=secrets) for item in value]
    if isinstance(value, AbstractMapping):
        return {str(key): plain(item, secrets=secrets) for key, item in value.items()}
    enum = sys.modules.get("enum")  # without it nobody can have made one
    if enum is not None and isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError("no document form for %r" % type(value))


def to_json(value: object, *, secrets: bool = False, indent: int = 0) -> str:
    """The value as one JSON text, keys in the order of the fields; `indent` 0 is one line."""
    found = plain(value, secrets=secrets)
    if not indent:
        return written(found)
    import json

    return json.dumps(found, ensure_ascii=True, indent=indent)


def written(value: Any) -> str:
    """One line of JSON, as `json.dumps` writes it, of JSON's own types."""
    if type(value) is str and _needs_no_escape(value):
        return '"%s"' % value
    if value is None or value is True or value is False:
        return "null" if value is None else "true" if value else "false"
    if type(value) is int or (type(value) is float and value - value == 0):  # json's words for infinity and NaN are its own
        return repr(value)
    if type(value) is list:
        return "[%s]" % ", ".join([written(item) for item in value])
    if type(value) is dict:
        return "{%s}" % ", ".join(["%s: %s" % (written(key), written(item)) for key, item in value.items()])
    import json

    return json.dumps(value, ensure_ascii=True)


def _needs_no_escape(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def from_json(kind: Type[T], text: str) -> T:
    """Read a document of type `kind`. Raises Untrusted for anything that is not exactly one."""
    from gha_apptainer.domain.document_reading import read_text

    return read_text(kind, text)


def from_plain(kind: Type[T], raw: object) -> T:
    """As from_json, from values that are parsed already."""
    from gha_apptainer.domain.document_reading import read_plain

    return read_plain(kind, raw)
