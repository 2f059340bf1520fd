"""Compiled models from Python: numpy in, numpy out. What the library tells of itself is checked before its first call."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gha_apptainer.domain.errors import InputError, Untrusted
from gha_apptainer.models.extra import require

if TYPE_CHECKING:
    import numpy as np

    Singles = np.ndarray[Any, np.dtype[np.float32]]

ABI = 1
"""The interface that this loader speaks."""


@dataclass(frozen=True)
class Function:
    """One function of a library; call it with rows, and noise where it takes some."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    noise: int
    seeded: bool
    _library: ctypes.CDLL

    def __call__(self, rows: Any, noise: Any = None, *, seed: int | None = None, first_row: int = 0) -> Singles:
        """Outputs of shape (n, outputs) for rows of shape (n, inputs), or one row for one row, through the batch entry.

        Noise is given, of shape (n, noise), or drawn by the library from `seed` and the row's number, `first_row` being that of the first.
        """
        np = require("numpy")
        given = self._rows(rows, len(self.inputs), "rows")
        out = np.empty((len(given), len(self.outputs)), np.float32)
        if seed is not None:
            if not self.seeded or noise is not None:
                raise InputError("%s does not draw noise itself, or got noise and a seed" % self.name)
            call = getattr(self._library, self.name + "_batch_seeded")
            call(_pointer(out), _pointer(given), ctypes.c_uint64(seed), ctypes.c_uint64(first_row), ctypes.c_size_t(len(given)))
        else:
            call = getattr(self._library, self.name + "_batch")
            drawn = self._noise(noise, len(given))  # alive until the call has ended
            call(_pointer(out), _pointer(given), *([] if drawn is None else [_pointer(drawn)]), ctypes.c_size_t(len(given)))
        return out[0] if np.ndim(rows) == 1 else out  # type: ignore[no-any-return]

    def row_by_row(self, rows: Any, noise: Any = None) -> Singles:
        """The same through the entry for one row, as a program that has one row at a time calls it."""
        np = require("numpy")
        given = self._rows(rows, len(self.inputs), "rows")
        out = np.empty((len(given), len(self.outputs)), np.float32)
        call = getattr(self._library, self.name)
        call.restype = ctypes.c_void_p
        drawn = self._noise(noise, len(given))
        for at in range(len(given)):
            more = () if drawn is None else (_pointer(drawn[at]),)
            call(_pointer(out[at]), _pointer(given[at]), *more)
        return out  # type: ignore[no-any-return]

    def _noise(self, noise: Any, count: int) -> Singles | None:
        if not self.noise:
            if noise is not None:
                raise InputError("%s takes no noise" % self.name)
            return None
        drawn = self._rows(noise, self.noise, "noise")
        if len(drawn) != count:
            raise InputError("%s: %d rows of noise for %d rows" % (self.name, len(drawn), count))
        return drawn

    def _rows(self, given: Any, width: int, what: str) -> Singles:
        np = require("numpy")
        found = np.ascontiguousarray(np.atleast_2d(np.asarray([[]] if given is None else given, np.float32)))
        if found.ndim != 2 or found.shape[1] != width:
            raise InputError("%s takes %s of %d numbers, not an array of shape %s" % (self.name, what, width, np.shape(given)))
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Library:
    """A loaded library. `content` is the hash of the program that it was made from."""

    path: str
    name: str
    content: str
    mode: str
    functions: Mapping[str, Function]
    _library: ctypes.CDLL

    def __getitem__(self, name: str) -> Function:
        if name not in self.functions:
            raise InputError("%s has no function %r; there are: %s" % (self.path, name, ", ".join(self.functions)))
        return self.functions[name]

    @property
    def level(self) -> int:
        """The x86-64 level in use; 0 on other processors."""
        return int(getattr(self._library, self.name + "_level")())

    def use_level(self, level: int) -> bool:
        """Use another level, for tests; False if the processor or the file lacks it. Not while another thread computes."""
        return bool(getattr(self._library, self.name + "_use_level")(level))


def load(path: str | os.PathLike[str], *, content: str = "") -> Library:
    """Load a library that `models compile` made. `content` is the hash that it must have; without it any is taken.

    Raises Untrusted where the file is not one, or does not match its own description.
    """
    where = Path(path).resolve()
    name = where.name.removesuffix(".so")
    try:
        library = ctypes.CDLL(str(where), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise Untrusted("%s cannot be loaded: %s" % (where, error)) from error
    told = descriptor(library, name, str(where))
    if told["abi"] != ABI:
        raise Untrusted(
            "%s speaks interface %r, this loader %d" % (where, told["abi"], ABI), remedy="compile it anew: gha-apptainer models rebuild"
        )
    if content and told["content"] != content:
        raise Untrusted("%s was made from content %s, not %s" % (where, told["content"], content))
    functions = {one["name"]: _function(library, one, str(where)) for one in told["functions"]}
    return Library(str(where), name, told["content"], told["mode"], functions, library)


def descriptor(library: ctypes.CDLL, name: str, where: str) -> dict[str, Any]:
    """What the library tells about itself."""
    try:
        symbol = ctypes.c_char.in_dll(library, name + "_descriptor")
        told = json.loads(ctypes.string_at(ctypes.addressof(symbol)))
        if told["name"] != name or told["float"] != "float32":
            raise ValueError("it is for a library named %r" % told["name"])
        return dict(told)
    except (ValueError, KeyError, TypeError) as error:
        raise Untrusted(
            "%s does not describe itself: %s" % (where, error), remedy="the file keeps the name that it was compiled with"
        ) from error


def _function(library: ctypes.CDLL, told: dict[str, Any], where: str) -> Function:
    name = told["name"]
    try:
        shape = tuple((ctypes.c_int * 4).in_dll(library, name + "_shape"))
        for symbol in (name, name + "_batch", *((name + "_seeded", name + "_batch_seeded") if told["seeded"] else ())):
            getattr(library, symbol)
    except (ValueError, AttributeError) as error:
        raise Untrusted("%s lacks a symbol that it describes: %s" % (where, error)) from error
    if shape != (ABI, len(told["inputs"]), len(told["outputs"]), told["noise"]):
        raise Untrusted("%s: the sizes of %s are %s, its description says otherwise" % (where, name, shape))
    return Function(name, tuple(told["inputs"]), tuple(told["outputs"]), told["noise"], told["seeded"], library)


def _pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
