"""The numbers of a program as C tables: each once, whatever functions and CPU levels use it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

PANEL = 16
"""Columns of a weight matrix that lie together: the widest vector there is, and four blocks of the batch kernel."""

_TYPES = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.uint8): "unsigned char",
    np.dtype(np.uint16): "unsigned short",
    np.dtype(np.uint32): "unsigned",
}


class Tables:
    """Collects tables; equal ones are kept once."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._names: dict[bytes, str] = {}
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}

    def add(self, array: np.ndarray[Any, Any]) -> str:
        """The C name of a table with these numbers."""
        flat = np.ascontiguousarray(array).reshape(-1)
        key = hashlib.sha256(flat.dtype.str.encode() + flat.tobytes()).digest()
        if key not in self._names:
            self._names[key] = name = "%s_t%d" % (self._prefix, len(self._names))
            self._arrays[name] = flat
        return self._names[key]

    def declarations(self) -> str:
        """What kernels see."""
        return "".join("extern HIDDEN const %s %s[%d];\n" % (_TYPES[one.dtype], name, one.size) for name, one in self._arrays.items())

    def definitions(self) -> str:
        """The numbers themselves."""
        return "".join(
            "const %s %s[%d] ALIGN = {\n%s};\n" % (_TYPES[one.dtype], name, one.size, _numbers(one)) for name, one in self._arrays.items()
        )


def _numbers(array: np.ndarray[Any, Any]) -> str:
    words = [literal(one) for one in array] if array.dtype.kind == "f" else [str(int(one)) for one in array]
    return "".join(",".join(words[at : at + 16]) + ",\n" for at in range(0, len(words), 16))


def literal(value: Any) -> str:
    """A floating-point number in C, exactly."""
    number, single = float(value), isinstance(value, np.float32)
    suffix = "f" if single else ""
    if number != number:
        return '__builtin_nan%s("")' % suffix
    if number in (float("inf"), float("-inf")):
        return "%s__builtin_inf%s()" % ("-" if number < 0 else "", suffix)
    mantissa, exponent = number.hex().split("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return "%sp%s%s" % (mantissa, exponent, suffix)


def panels(weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A matrix (inputs, outputs) as panels of PANEL outputs, each panel input by input, padded with zeros."""
    inputs, outputs = weight.shape
    count = -(-outputs // PANEL)
    padded = np.zeros((inputs, count * PANEL), np.float32)
    padded[:, :outputs] = weight
    return np.ascontiguousarray(padded.reshape(inputs, count, PANEL).transpose(1, 0, 2))


def padded(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A float vector filled up to whole panels."""
    found = np.zeros(-(-len(vector) // PANEL) * PANEL, np.float32)
    found[: len(vector)] = vector
    return found


def round_down(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The largest float that is not above: `x <= value` for a float x is then `x <= rounded`."""
    found = values.astype(np.float32)
    over = found.astype(np.float64) > values
    return np.asarray(np.where(over, np.nextafter(found, np.float32(-np.inf)), found))


def round_up(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The smallest float that is not below: `value <= x` for a float x is then `rounded <= x`."""
    return -round_down(-values)
