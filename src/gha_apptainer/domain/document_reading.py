"""JSON back into our values: the reading half of `documents`, which is its door.

The types come from the annotations of the classes. Modules that a start of a container loads have the names of `typing` only for type
checkers, so the annotations are read here, by the few words that documents use: classes, `Optional[X]` or `X | None`, `Tuple[X, ...]`,
`Tuple[X, Y]`, `Mapping[str, X]`, and names of such types.
"""

from __future__ import annotations

import sys
from _collections_abc import Mapping as AbstractMapping

from gha_apptainer.domain.errors import Untrusted
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.domain.values import MISSING, fields, is_dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Mapping, Optional, Tuple, Type, TypeVar

    T = TypeVar("T")

_make_scanner: Any = None
try:
    import _json

    _make_scanner = _json.make_scanner  # what json.scanner uses too, where it is there
except ImportError:
    pass

_OPTIONAL, _TUPLE, _MAPPING, _MORE, _ANY = "Optional", "Tuple", "Mapping", "...", "Any"
_WORDS: Dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": float,
    "bytes": bytes,
    "None": type(None),
    "object": _ANY,
    "Any": _ANY,
    "Optional": _OPTIONAL,
    "Tuple": _TUPLE,
    "tuple": _TUPLE,
    "Mapping": _MAPPING,
    "Dict": _MAPPING,
    "dict": _MAPPING,
}
_FORMS = {tuple: _TUPLE, dict: _MAPPING, AbstractMapping: _MAPPING}
_hints: Dict[type, Dict[str, Any]] = {}


class _Generic:
    """A type with arguments: Optional, Tuple or Mapping of something."""

    def __init__(self, form: str, arguments: List[Any]) -> None:
        self.form, self.arguments = form, arguments


def read_text(kind: Type[T], text: str) -> T:
    """Read a document of type `kind`. Raises Untrusted for anything that is not exactly one."""
    return read_plain(kind, _parsed(kind.__name__, text))


def _parsed(name: str, text: str) -> object:
    """JSON's own types. The interpreter's scanner does it alone; `json` around it brings `re`, half of what reading a document costs.

    What the scanner does not take as a whole is given to `json`, which says what is wrong.
    """
    if _make_scanner is not None:
        try:
            raw, end = _make_scanner(_Scanning())(text, 0)
            if end == len(text):
                return raw
        except (StopIteration, ValueError, RecursionError):
            pass
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Untrusted("not a %s document: %s" % (name, error), cause="half-written or forged") from error


class _Scanning:
    """What the scanner asks of a decoder, with the standard one's answers."""

    strict, object_hook, object_pairs_hook = True, None, None
    parse_float, parse_int = float, int
    parse_constant = {"-Infinity": float("-inf"), "Infinity": float("inf"), "NaN": float("nan")}.__getitem__

    def __init__(self) -> None:
        self.memo: Dict[str, str] = {}


def read_plain(kind: Type[T], raw: object) -> T:
    """As read_text, from values that are parsed already."""
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
    if isinstance(kind, _Generic):
        return _read_generic(kind, raw, where)
    if kind is _ANY:
        return raw
    if is_dataclass(kind):
        return _read_dataclass(kind, raw, where)
    if kind is Secret:
        if not isinstance(raw, str):
            raise _fail(where, "text", raw)
        return Secret(raw)
    members = getattr(kind, "__members__", None)  # an Enum
    if members is not None:
        if not isinstance(raw, str) or raw not in members:
            raise _fail(where, "one of " + ", ".join(members), raw)
        return kind[raw]
    if kind is float and type(raw) is int:
        return float(raw)
    if kind is bytes and isinstance(raw, str):
        return raw.encode("utf-8", "surrogateescape")
    if type(raw) is not kind:
        raise _fail(where, kind.__name__, raw)
    return raw


def _read_generic(kind: _Generic, raw: object, where: str) -> Any:
    if kind.form == _OPTIONAL:
        return None if raw is None else _read(kind.arguments[0], raw, where)
    if kind.form == _TUPLE:
        return _read_tuple(kind.arguments, raw, where)
    if not isinstance(raw, dict):
        raise _fail(where, "an object", raw)
    return {key: _read(kind.arguments[1], item, "%s.%s" % (where, key)) for key, item in raw.items()}


def _read_tuple(kinds: List[Any], raw: object, where: str) -> Tuple[Any, ...]:
    if not isinstance(raw, list):
        raise _fail(where, "a list", raw)
    if len(kinds) == 2 and kinds[1] is _MORE:
        return tuple([_read(kinds[0], item, "%s[%d]" % (where, at)) for at, item in enumerate(raw)])
    if len(kinds) != len(raw):
        raise Untrusted("%s: expected %d items, found %d" % (where, len(kinds), len(raw)))
    return tuple([_read(one, item, "%s[%d]" % (where, at)) for at, (one, item) in enumerate(zip(kinds, raw))])


def _read_dataclass(kind: Any, raw: object, where: str) -> Any:
    if not isinstance(raw, dict):
        raise _fail(where, "an object", raw)
    if kind not in _hints:
        names = vars(sys.modules[kind.__module__])
        _hints[kind] = {item.name: annotated(item.type, names) for item in fields(kind)}
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


def annotated(kind: Any, names: Mapping[str, Any]) -> Any:
    """The type that an annotation means: text, read with the `names` of its module, or a class. Raises TypeError for any other."""
    if isinstance(kind, str):
        return _Annotation(kind, names).kind()
    return _plain_type(kind, names)


def _plain_type(kind: Any, names: Mapping[str, Any]) -> Any:
    """A class, or a standard generic such as tuple[str, ...], in the form that is read here."""
    if kind is Ellipsis:
        return _MORE
    origin = getattr(kind, "__origin__", None)
    if origin is not None:
        form = _OPTIONAL if type(None) in kind.__args__[1:] else _FORMS.get(origin)
        if form is None:
            raise TypeError("%r is no type that a document can hold" % (kind,))
        return _Generic(form, [annotated(one, names) for one in kind.__args__])
    return kind


class _Annotation:
    """A type written as text."""

    def __init__(self, text: str, names: Mapping[str, Any]) -> None:
        self._text, self._names = text, names
        for mark in "[],|":
            text = text.replace(mark, " %s " % mark)
        self._words = text.split()

    def kind(self) -> Any:
        """The type. Raises TypeError for what documents cannot hold."""
        try:
            found = self._one()
        except IndexError:
            found = None
        if found is None or self._words:
            raise TypeError("%r is no type of a document" % self._text)
        return found

    def _one(self) -> Any:
        word = self._words.pop(0)
        found = _MORE if word == _MORE else self._named(word)
        if self._words[:1] == ["["]:
            self._words.pop(0)
            found = _Generic(found, self._several())
        if self._words[:1] == ["|"]:
            self._words.pop(0)
            if self._words.pop(0) != "None":
                return None  # of unions documents have only the one with None
            found = _Generic(_OPTIONAL, [found])
        return found

    def _several(self) -> List[Any]:
        found = [self._one()]
        while self._words.pop(0) == ",":
            found.append(self._one())
        return found

    def _named(self, word: str) -> Any:
        found: Optional[Any] = _WORDS.get(word, self._names.get(word))
        if found is None:
            raise TypeError("%r in %r is no type that a document can hold" % (word, self._text))
        return _plain_type(found, self._names)
