"""Frozen dataclasses that cost a command less to start: methods are shared, and the standard `dataclasses` is not loaded for them.

The standard decorator compiles six methods a class from text, half a millisecond, and its module brings `inspect` and the compiler's
tools, seven more; a command that starts a container has a hundred classes. To type checkers ours is the standard one. The standard
`fields`, `replace`, `asdict` and `is_dataclass` work on our classes, and ours on the standard's.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
    from typing import Any, Callable, Dict, List, Tuple

__all__ = ["MISSING", "dataclass", "field", "fields", "is_dataclass", "replace"]

_SHAPE = "__value_fields__"

if not TYPE_CHECKING:

    class _Missing:
        """The type of MISSING."""

        def __repr__(self) -> str:
            return "MISSING"

    MISSING = _Missing()
    """Stands for a default that there is not."""

    def dataclass(*, frozen: bool) -> Callable[[type], type]:
        """As `dataclasses.dataclass(frozen=True)`, for classes that inherit from no other dataclass."""
        if not frozen:
            raise TypeError("values are frozen")
        return _make

    def field(*, default: object = MISSING, default_factory: object = MISSING) -> _Field:
        """As `dataclasses.field`, with what our classes use of it."""
        if default is not MISSING and default_factory is not MISSING:
            raise ValueError("a field has a default or a factory of it, not both")
        return _Field("", "", default, default_factory)

    def fields(value: object) -> Tuple[_Field, ...]:
        """The fields of a dataclass, ours or a standard one, or of an instance; each has name, type, default and default_factory."""
        kind = value if isinstance(value, type) else value.__class__
        shape = getattr(kind, _SHAPE, None)
        if shape is not None:
            return shape
        import dataclasses

        return tuple(
            _Field(one.name, one.type, _own(one.default, dataclasses.MISSING), _own(one.default_factory, dataclasses.MISSING))
            for one in dataclasses.fields(kind)
        )

    def is_dataclass(value: object) -> bool:
        """Whether it is a dataclass or an instance of one."""
        kind = value if isinstance(value, type) else value.__class__
        if hasattr(kind, _SHAPE):
            return True
        standard = sys.modules.get("dataclasses")  # without it nobody can have made a standard one
        return standard is not None and standard.is_dataclass(kind)

    def replace(value: Any, /, **changes: object) -> Any:
        """A copy with some fields changed."""
        if isinstance(value, type) or not hasattr(value, _SHAPE):
            import dataclasses

            return dataclasses.replace(value, **changes)
        given = value.__dict__
        return value.__class__(**{**{one.name: given[one.name] for one in getattr(value, _SHAPE)}, **changes})


class _Field:
    """One field of a class."""

    __slots__ = ("default", "default_factory", "name", "type")

    def __init__(self, name: str, kind: Any, default: Any, factory: Any) -> None:
        self.name, self.type, self.default, self.default_factory = name, kind, default, factory


class _Standard:
    """What the standard tools look for in a class, made when they first do: by then their module is loaded anyway."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, _: object, owner: Any) -> Any:
        import dataclasses

        kind = next(one for one in owner.__mro__ if _SHAPE in one.__dict__)
        body: Dict[str, Any] = {"__module__": kind.__module__, "__annotations__": {}}
        for one in getattr(kind, _SHAPE):
            body["__annotations__"][one.name] = one.type
            if one.default is not MISSING:
                body[one.name] = one.default
            elif one.default_factory is not MISSING:
                body[one.name] = dataclasses.field(default_factory=one.default_factory)
        twin: Any = dataclasses.dataclass(frozen=True)(type(kind.__name__, (), body))
        for name in ("__dataclass_fields__", "__dataclass_params__"):
            setattr(kind, name, getattr(twin, name))
        return getattr(twin, self._name)


def _own(default: Any, missing: object) -> Any:
    return MISSING if default is missing else default


def _make(cls: Any) -> Any:
    if hasattr(cls, _SHAPE):
        raise TypeError("%s inherits from another value" % cls.__name__)
    body = cls.__dict__
    found: List[_Field] = []
    explicit_hash = "__hash__" in body and not (body["__hash__"] is None and "__eq__" in body)  # an own __eq__ puts None there
    for name, kind in getattr(cls, "__annotations__", {}).items():
        if kind.partition("[")[0].endswith("ClassVar"):
            continue
        default = body.get(name, MISSING)
        if isinstance(default, _Field):
            one = _Field(name, kind, default.default, default.default_factory)
            if one.default is MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, one.default)
        elif default.__class__.__module__ == "dataclasses":  # it would become a value; type checkers cannot tell the two apart
            raise TypeError("%s: field %r is of the standard dataclasses, take it from %s" % (cls.__name__, name, __name__))
        else:
            one = _Field(name, kind, default, MISSING)
        if one.default is MISSING and one.default_factory is MISSING:
            if found and not (found[-1].default is MISSING and found[-1].default_factory is MISSING):
                raise TypeError("%s: field %r without a default follows one with a default" % (cls.__name__, name))
        elif one.default.__class__.__hash__ is None:
            raise ValueError("%s: field %r has a mutable default, use default_factory" % (cls.__name__, name))
        found.append(one)
    setattr(cls, _SHAPE, tuple(found))
    for name, method in _METHODS:
        if name not in body:
            setattr(cls, name, method)
    if not explicit_hash:
        cls.__hash__ = _hash
    return cls


def _init(self: Any, *given: Any, **named: Any) -> None:
    shape = getattr(self, _SHAPE)
    values = self.__dict__
    if len(given) > len(shape):
        raise TypeError("%s takes %d values, %d were given" % (self.__class__.__name__, len(shape), len(given)))
    at = 0
    for value in given:
        values[shape[at].name] = value
        at += 1
    for one in shape[at:]:
        name = one.name
        if name in named:
            values[name] = named.pop(name)
        elif one.default is not MISSING:
            values[name] = one.default
        elif one.default_factory is not MISSING:
            values[name] = one.default_factory()
        else:
            raise TypeError("%s: no value for %r" % (self.__class__.__name__, name))
    if named:
        names = [one.name for one in shape]
        raise TypeError(
            "%s: %s"
            % (self.__class__.__name__, ", ".join("%r is given twice" % one if one in names else "no field %r" % one for one in named))
        )
    after = getattr(self, "__post_init__", None)
    if after is not None:
        after()


def _key(self: Any) -> Tuple[Any, ...]:
    values = self.__dict__
    return tuple([values[one.name] for one in getattr(self, _SHAPE)])


def _eq(self: object, other: object) -> Any:
    return _key(self) == _key(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: object) -> int:
    return hash(_key(self))


def _repr(self: Any) -> str:
    shown = ", ".join("%s=%r" % (one.name, self.__dict__[one.name]) for one in getattr(self, _SHAPE))
    return "%s(%s)" % (self.__class__.__qualname__, shown)


def _refuse_set(self: object, name: str, _: object) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError("cannot assign to field %r of %s" % (name, type(self).__name__))


def _refuse_delete(self: object, name: str) -> None:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError("cannot delete field %r of %s" % (name, type(self).__name__))


_METHODS = (
    ("__init__", _init),
    ("__eq__", _eq),
    ("__repr__", _repr),
    ("__setattr__", _refuse_set),
    ("__delattr__", _refuse_delete),
    ("__dataclass_fields__", _Standard("__dataclass_fields__")),
    ("__dataclass_params__", _Standard("__dataclass_params__")),
)
