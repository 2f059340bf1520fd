"""The C library, called without the convenience of `ctypes`.

`ctypes` is a Python face of `_ctypes` that makes forty classes when it is loaded, together with `struct` and more: a tenth of what a
command in a running container costs. What the engine needs of it are a few types and a way to call.
https://docs.python.org/3/library/ctypes.html
"""

from __future__ import annotations

import os
from _ctypes import FUNCFLAG_CDECL, FUNCFLAG_USE_ERRNO, CFuncPtr, Structure, _SimpleCData, byref, dlopen, get_errno, sizeof

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Simple = _SimpleCData[Any]
else:
    Simple = _SimpleCData

__all__ = ["Int", "Library", "Long", "Structure", "Text", "UInt", "ULong", "UShort", "byref", "get_errno", "sizeof"]


class UShort(Simple):
    """unsigned short."""

    _type_ = "H"


class Int(Simple):
    """int."""

    _type_ = "i"


class UInt(Simple):
    """unsigned int, uint32_t."""

    _type_ = "I"


class Long(Simple):
    """long, int64_t where we run."""

    _type_ = "l"


class ULong(Simple):
    """unsigned long, size_t, uint64_t where we run."""

    _type_ = "L"


class Text(Simple):
    """char *: bytes or None."""

    _type_ = "z"


class _Function(CFuncPtr):
    """A function that gives an int."""

    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = Int


class Library:
    """What this process is linked with, the C library among it; an attribute is a function of that name."""

    def __init__(self) -> None:
        everything: Any = None  # what dlopen(3) takes for the whole process
        self._handle = dlopen(everything, os.RTLD_NOW)  # the name by which _ctypes asks for it

    def __getattr__(self, name: str) -> Any:
        place: Any = (name, self)  # a CDLL, for type checkers
        found = _Function(place)
        setattr(self, name, found)
        return found
