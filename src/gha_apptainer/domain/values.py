"""Frozen dataclasses that cost a command less to start: the methods are shared instead of being compiled for each class.

The standard decorator compiles six methods a class from text, half a millisecond; a command that starts a container has a hundred classes.
What comes out is a dataclass to `dataclasses.fields`, `replace` and `is_dataclass`, and to type checkers the standard one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Callable, Tuple

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool) -> Callable[[type], type]:
        """As `dataclasses.dataclass(frozen=True)`, for classes that inherit from no other dataclass."""
        if not frozen:
            raise TypeError("values are frozen")
        return _make


def _make(cls: type) -> type:
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
    fields = dataclasses.fields(made)
    names = tuple(one.name for one in fields)
    after = getattr(made, "__post_init__", None)

    def __init__(self: Any, *given: Any, **named: Any) -> None:  # noqa: N807  # becomes the class's method
        values = self.__dict__
        if len(given) > len(names):
            raise TypeError("%s takes %d values, %d were given" % (cls.__name__, len(names), len(given)))
        values.update(zip(names, given))
        for one in fields[len(given) :]:
            if one.name in named:
                values[one.name] = named.pop(one.name)
            elif one.default is not dataclasses.MISSING:
                values[one.name] = one.default
            elif one.default_factory is not dataclasses.MISSING:
                values[one.name] = one.default_factory()
            else:
                raise TypeError("%s: no value for %r" % (cls.__name__, one.name))
        if named:
            raise TypeError(
                "%s: %s"
                % (cls.__name__, ", ".join("%r is given twice" % name if name in names else "no field %r" % name for name in named))
            )
        if after is not None:
            after(self)

    def key(self: Any) -> Tuple[Any, ...]:
        return tuple([self.__dict__[name] for name in names])

    def __eq__(self: Any, other: object) -> Any:  # noqa: N807  # becomes the class's method
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807  # becomes the class's method
        return hash(key(self))

    def __repr__(self: Any) -> str:  # noqa: N807  # becomes the class's method
        return "%s(%s)" % (self.__class__.__qualname__, ", ".join("%s=%r" % (name, self.__dict__[name]) for name in names))

    for method in (__init__, __eq__, __hash__, __repr__, _refuse_set, _refuse_delete):
        name = {"_refuse_set": "__setattr__", "_refuse_delete": "__delattr__"}.get(method.__name__, method.__name__)
        if name not in cls.__dict__ or (name == "__hash__" and cls.__dict__[name] is None):
            setattr(made, name, method)
    return made  # type: ignore[no-any-return]  # Any, because methods are being set on it


def _refuse_set(self: object, name: str, _: object) -> None:
    raise dataclasses.FrozenInstanceError("cannot assign to field %r of %s" % (name, type(self).__name__))


def _refuse_delete(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError("cannot delete field %r of %s" % (name, type(self).__name__))
