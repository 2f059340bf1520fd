"""Ensembles of decision trees: tables, and the walk that goes down eight trees side by side without branching.

A threshold is rounded down to float, which decides for every float as the double does. Floats are compared as whole numbers in the same
order, which leaves one instruction of a step to the comparison. Shallow trees become perfect ones, whose nodes need
no child index; deep ones keep it, and a leaf there leads to itself. Leaves are added in the order of the trees, in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gha_apptainer.models.emit.tables import Tables, round_down
from gha_apptainer.models.ir.ops import Trees

_PERFECT_DEPTH = 9
_PERFECT_WASTE = 4
_TOGETHER = 8


def depths(op: Trees) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Steps from root to the deepest leaf of each tree."""
    below = np.zeros(len(op.feature), np.int64)
    for node in range(len(op.feature) - 1, -1, -1):  # children stand behind their parents
        if op.feature[node] >= 0:
            below[node] = 1 + max(below[op.left[node]], below[op.left[node] + 1])
    return below[op.roots]


@dataclass(frozen=True)
class _Flat:
    """Tables of one layout; `left` is None where trees are perfect."""

    feature: np.ndarray[Any, Any]
    key: np.ndarray[Any, Any]
    right: np.ndarray[Any, Any]
    leaf: np.ndarray[Any, Any]
    left: np.ndarray[Any, Any] | None
    starts: np.ndarray[Any, Any]
    depth: int


def function(op: Trees, name: str, tables: Tables, *, double: bool) -> str:
    """The C function `name(y, x)` of one ensemble over numbers that are double, or float."""
    deep = depths(op)
    depth, size = int(deep.max()), 1 << min(int(deep.max()), 30)
    if depth <= _PERFECT_DEPTH and size * len(op.roots) <= _PERFECT_WASTE * len(op.feature):
        flat = _perfect(op, depth, keys(op, double=double))
    else:
        flat = _linked(op, depth, keys(op, double=double))
    kind = np.uint8 if op.features <= 256 else np.uint16
    wide = op.leaves.shape[1]
    names = {
        "feature": tables.add(flat.feature.astype(kind)),
        "key": tables.add(flat.key if double else ordered(flat.key)),
        "leaf": tables.add(flat.leaf),
        "base": tables.add(op.base),
        "target": tables.add(op.targets.astype(np.uint16)),
        "starts": tables.add(flat.starts.astype(np.uint32)),
    }
    missing = tables.add(flat.right.astype(np.uint8)) if flat.right.any() else ""
    count, outputs = len(op.roots), len(op.base)
    text = ["NOINL void F(%s)(double *y, const %s *x) {" % (name, "double" if double else "float"), "  double sum[%d];" % outputs]
    text.append("  for (int o = 0; o < %d; o++) sum[o] = %s[o];" % (outputs, names["base"]))
    if missing:
        text.append("  unsigned char gone[%d];\n  for (int k = 0; k < %d; k++) gone[k] = x[k] != x[k];" % (op.features, op.features))
    if double:
        text.append("  const double *v = x;")
    else:
        text.append("  unsigned v[%d];\n  for (int k = 0; k < %d; k++) v[k] = t_ordered(x[k]);" % (op.features, op.features))
    group = _walk(flat, deep, names, missing, tables)
    for first, together in ((0, _TOGETHER), (count - count % _TOGETHER, 1)):
        end = count - count % _TOGETHER if together > 1 else count
        if first == end:
            continue
        text.append("  for (int t = %d; t < %d; t += %d) {" % (first, end, together))
        text.append(group.replace("TOGETHER", str(together)))
        add = "sum[%s]" % ("%s[t + j]" % names["target"] if outputs > 1 else "0")
        if wide == 1:
            text.append("    for (int j = 0; j < %d; j++) %s += %s[p[j]];" % (together, add, names["leaf"]))
        else:
            text.append(
                "    for (int j = 0; j < %d; j++) for (int o = 0; o < %d; o++) sum[%s[t + j] + o] += %s[p[j] * %d + o];"
                % (together, wide, names["target"], names["leaf"], wide)
            )
        text.append("  }")
    text.append("  for (int o = 0; o < %d; o++) y[o] = sum[o] / %s;\n}\n" % (outputs, float(op.divisor).hex()))
    return "\n".join(text)


def _walk(flat: _Flat, deep: np.ndarray[Any, Any], names: dict[str, str], missing: str, tables: Tables) -> str:
    """Down the trees from `t` on; afterwards `p[j]` is the row of each tree's leaf."""

    def right(offset: str, place: str) -> str:
        feature, key = ("(%s%s)[%s]" % (names[one], offset, place) for one in ("feature", "key"))
        beyond = "(%s < v[%s])" % (key, feature)
        return "(%s | (gone[%s] & (%s%s)[%s]))" % (beyond, feature, missing, offset, place) if missing else beyond

    if flat.left is None:
        size = 1 << flat.depth
        return (
            "    unsigned long p[TOGETHER], from = (unsigned long)t * %d;\n"
            "    for (int j = 0; j < TOGETHER; j++) p[j] = 1;\n"
            "    for (int d = 0; d < %d; d++)\n"
            "      for (int j = 0; j < TOGETHER; j++) p[j] = p[j] + p[j] + (unsigned long)%s;\n"
            "    for (int j = 0; j < TOGETHER; j++) p[j] += from + j * %d - %d;"
            % (size, flat.depth, right(" + from + j * %d" % size, "p[j]"), size, size)
        )
    left = tables.add(flat.left.astype(np.uint32))
    deepest = tables.add(deep.astype(np.uint32))
    return (
        "    unsigned long p[TOGETHER];\n"
        "    unsigned deep = 0;\n"
        "    for (int j = 0; j < TOGETHER; j++) p[j] = %s[t + j];\n"
        "    for (int j = 0; j < TOGETHER; j++) deep = %s[t + j] > deep ? %s[t + j] : deep;\n"
        "    for (unsigned d = 0; d < deep; d++)\n"
        "      for (int j = 0; j < TOGETHER; j++) p[j] = %s[p[j]] + (unsigned long)%s;"
        % (names["starts"], deepest, deepest, left, right("", "p[j]"))
    )


def ordered(keys: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Floats as unsigned numbers in the same order; both zeros are one number. NaN, which no threshold is, would be 0."""
    bits = (keys + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))


def keys(op: Trees, *, double: bool) -> np.ndarray[Any, Any]:
    """The thresholds in the type that features are compared in."""
    return op.threshold if double else round_down(op.threshold)


def _perfect(op: Trees, depth: int, rounded: np.ndarray[Any, Any]) -> _Flat:
    size = 1 << depth
    count = len(op.roots)
    feature, right = np.zeros((count, size), np.int64), np.zeros((count, size), np.int64)
    key = np.full((count, size), np.inf, rounded.dtype)
    leaf = np.zeros((count, size, op.leaves.shape[1]))
    at = np.zeros((count, 2 * size), np.int64)
    at[:, 1] = op.roots
    for place in range(1, size):
        here = at[:, place]
        inner = op.feature[here] >= 0
        feature[:, place] = np.maximum(op.feature[here], 0)
        key[:, place] = np.where(inner, rounded[here], np.inf)
        right[:, place] = np.where(inner, op.missing_right[here], 0)
        at[:, 2 * place] = np.where(inner, op.left[here], here)
        at[:, 2 * place + 1] = np.where(inner, op.left[here] + 1, here)
    for place in range(size):
        leaf[:, place] = op.leaves[op.left[at[:, size + place]]]
    return _Flat(feature, key, right, leaf, None, np.zeros(1, np.int64), depth)


def _linked(op: Trees, depth: int, rounded: np.ndarray[Any, Any]) -> _Flat:
    inner = op.feature >= 0
    nodes = np.arange(len(op.feature))
    leaf = np.zeros((len(nodes), op.leaves.shape[1]))
    leaf[~inner] = op.leaves[op.left[~inner]]
    key = np.where(inner, rounded, np.inf).astype(rounded.dtype)
    return _Flat(
        np.maximum(op.feature, 0), key, np.where(inner, op.missing_right, 0), leaf, np.where(inner, op.left, nodes), op.roots, depth
    )
