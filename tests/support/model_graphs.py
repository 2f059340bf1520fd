"""Random programs of the IR for the tests of compiled models, and rows that reach what is special in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.graphs import INPUT, NOISE, Builder, Graph, Program, numbered

ACTIVATIONS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("relu", (0.0, 0.0, float("inf"))),
    ("relu", (0.0, 0.0, 6.0)),
    ("relu", (0.3, 0.0, float("inf"))),
    ("relu", (0.1, 0.5, 2.0)),
    ("elu", (1.0, 1.0)),
    ("elu", (1.0507009873554805, 1.6732632423543772)),
    ("celu", (0.7,)),
    ("tanh", ()),
    ("sigmoid", ()),
    ("hard_sigmoid", (1 / 6, 0.5)),
    ("silu", ()),
    ("hard_silu", (1 / 6, 0.5)),
    ("gelu", ()),
    ("gelu_tanh", ()),
    ("softplus", ()),
    ("log_sigmoid", ()),
    ("softsign", ()),
    ("exponential", ()),
    ("mish", ()),
    ("tanh_shrink", ()),
    ("hard_shrink", (0.5,)),
    ("soft_shrink", (0.5,)),
    ("sparse_plus", ()),
    ("squareplus", (4.0,)),
    ("threshold", (0.2, -1.0)),
    ("clip", (-1.0, 1.0)),
)
"""Every activation of the IR, some with more than one set of parameters."""


def program(seed: int, count: int, name: str = "lib") -> Program:
    """A library of random functions f0, f1, …"""
    return Program(name, tuple(graph(np.random.default_rng((seed, at)), "f%d" % at) for at in range(count)))


def graph(rng: np.random.Generator, name: str) -> Graph:
    """One random function: values are combined at will, so that there are residuals, several uses and values that nobody needs."""
    inputs = int(rng.integers(1, 24))
    noise = int(rng.integers(1, 20)) if rng.random() < 0.3 else 0
    builder = Builder()
    widths = {INPUT: inputs, **({NOISE: noise} if noise else {})}
    names = list(widths)
    if noise:
        names = [_add(builder, widths, "joined", ops.Concat(), names)]
        names += [INPUT]
    if rng.random() < 0.6:
        names.append(_prepared(rng, builder, widths))
    for at in range(int(rng.integers(1, 9))):
        kind = rng.choice(
            ["affine", "affine", "affine", "activation", "residual", "concat", "gather", "softmax", "prelu", "select", "combine"]
        )
        source = names[int(rng.integers(max(0, len(names) - 3), len(names)))]
        names.append(_node(rng, builder, widths, names, str(kind), source, "n%d" % at))
    result = names[-1]
    return builder.graph(name, numbered("x", inputs), noise, result, numbered("y", widths[result]))


def _add(builder: Builder, widths: dict[str, int], name: str, op: Any, taken: list[str]) -> str:
    found = builder.add(name, op, taken)
    widths[found] = op.width([widths[one] for one in taken])
    return found


def affine(rng: np.random.Generator, inputs: int, outputs: int) -> ops.Affine:
    """A matrix product that keeps the size of numbers."""
    weight = rng.normal(size=(inputs, outputs)) / np.sqrt(inputs)
    return ops.Affine(weight.astype(np.float32), (0.2 * rng.normal(size=outputs)).astype(np.float32))


def _node(rng: np.random.Generator, builder: Builder, widths: dict[str, int], names: list[str], kind: str, source: str, name: str) -> str:
    width = widths[source]
    if kind == "affine":
        return _add(builder, widths, name, affine(rng, width, int(rng.choice([1, 3, 16, 17, 32, 64, 80, 100]))), [source])
    if kind == "activation":
        chosen = ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]
        if chosen[0] == "exponential":
            source = _add(builder, widths, name + "b", ops.Activation("clip", (-5.0, 5.0)), [source])
        return _add(builder, widths, name, ops.Activation(*chosen), [source])
    if kind == "residual":
        inner = _add(builder, widths, name + "a", affine(rng, width, width), [source])
        if rng.random() < 0.7:
            inner = _add(builder, widths, name + "t", ops.Activation("tanh", ()), [inner])
        return _add(builder, widths, name, ops.Combine("add"), [inner, source])
    if kind == "concat":
        other = names[int(rng.integers(len(names)))]
        if width + widths[other] > 200:
            return source
        return _add(builder, widths, name, ops.Concat(), [source, other])
    if kind == "gather":
        columns = tuple(int(one) for one in rng.integers(0, width, int(rng.integers(1, 40))))
        return _add(builder, widths, name, ops.Gather(columns), [source])
    if kind == "softmax":
        return _add(builder, widths, name, ops.Softmax(bool(rng.random() < 0.5)), [source])
    if kind == "prelu":
        return _add(builder, widths, name, ops.PRelu(rng.normal(size=width).astype(np.float32)), [source])
    if kind == "select":
        # a column of the row itself: a computed one may differ in the last bit on the other side of the limit
        column = _add(builder, widths, name + "c", ops.Gather((int(rng.integers(widths[INPUT])),)), [INPUT])
        constant = _add(builder, widths, name + "k", ops.Constant(rng.normal(size=width).astype(np.float32)), [])
        chosen_comparison = str(rng.choice(ops.COMPARISONS))
        return _add(builder, widths, name, ops.Select(chosen_comparison, float(rng.choice([0.0, 0.5]))), [column, source, constant])
    other = _add(builder, widths, name + "o", affine(rng, width, width), [source])
    chosen_kind = str(rng.choice(["subtract", "multiply", "maximum", "minimum"]))
    return _add(builder, widths, name, ops.Combine(chosen_kind), [source, other])


def _prepared(rng: np.random.Generator, builder: Builder, widths: dict[str, int]) -> str:
    width = widths[INPUT]
    kind = rng.choice(["scale", "quantile", "inverse", "power", "map", "trees"])
    if kind == "scale":
        open_end = np.full(width, np.inf)
        bounds = (np.full(width, -0.5), np.full(width, 0.5)) if rng.random() < 0.5 else (-open_end, open_end)
        op: Any = ops.Scale(rng.normal(size=width), np.ones(width), rng.uniform(0.2, 2, width), rng.normal(size=width), *bounds)
    elif kind in ("quantile", "inverse"):
        op = quantile(rng, width, inverse=kind == "inverse")
    elif kind == "power":
        op = ops.Power("yeo-johnson", rng.choice([-1.3, 0.0, 0.4, 1.0, 2.0, 2.7], width), False)
    elif kind == "map":
        op = ops.Map(str(rng.choice(["square", "abs", "negative", "tanh", "cbrt"])), 0.0)
    else:
        op = trees(rng, width)
    return _add(builder, widths, str(kind), op, [INPUT])


def quantile(rng: np.random.Generator, width: int, *, inverse: bool) -> ops.Quantile:
    """Tables with and without equal quantiles."""
    levels = int(rng.choice([2, 10, 37, 100, 1000]))
    data = rng.normal(size=(levels, width))
    data[:, ::2] = np.round(data[:, ::2] * 2) / 2  # every other column has ties
    return ops.Quantile(np.sort(data, axis=0), np.linspace(0, 1, levels), bool(rng.random() < 0.6), inverse)


def trees(rng: np.random.Generator, features: int) -> ops.Trees:
    """An ensemble with shallow or deep trees, one or several outputs."""
    count, deepest = int(rng.integers(1, 20)), int(rng.choice([1, 3, 6, 14]))
    outputs = int(rng.integers(1, 4))
    wide = outputs if rng.random() < 0.5 else 1
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    missing: list[int] = []
    leaves: list[list[float]] = []

    def grow(at: int, depth: int) -> None:
        if depth == 0 or rng.random() < 0.2:
            feature[at], threshold[at], left[at], missing[at] = -1, 0.0, len(leaves), 0
            leaves.append([float(one) for one in rng.normal(size=wide)])
            return
        where = len(feature)
        for table in (feature, threshold, left, missing):
            table.extend([0, 0])
        feature[at], left[at] = int(rng.integers(features)), where
        threshold[at] = float(rng.choice([rng.normal(), np.round(rng.normal() * 2) / 2]))
        missing[at] = int(rng.random() < with_missing)
        grow(where, depth - 1)
        grow(where + 1, depth - 1)

    with_missing = float(rng.choice([0.0, 0.5]))
    roots = []
    for _ in range(count):
        roots.append(len(feature))
        for table in (feature, threshold, left, missing):
            table.append(0)
        grow(roots[-1], min(deepest, 9))
    whole = np.int32
    return ops.Trees(
        features,
        np.array(feature, whole),
        np.array(threshold, np.float64),
        np.array(left, whole),
        np.array(missing, whole),
        np.array(roots, whole),
        (rng.integers(0, outputs, count) if wide == 1 else np.zeros(count)).astype(whole),
        np.array(leaves, np.float64).reshape(-1, wide),
        rng.normal(size=outputs),
        float(rng.choice([1.0, count])),
        bool(rng.random() < 0.5),
    )


def rows(rng: np.random.Generator, one: Graph, count: int) -> tuple[Any, Any]:
    """Rows and noise: ordinary numbers, halves that meet thresholds and ties, zeros of both signs, tiny ones, NaN and infinity."""
    x = rng.normal(size=(count, len(one.inputs))).astype(np.float32)
    at = count // 4
    x[at : 2 * at] = np.round(x[at : 2 * at] * 2) / 2
    x[2 * at] = 0.0
    x[2 * at + 1] = -0.0
    x[2 * at + 2] = 1e-41
    x[2 * at + 3] = np.nan
    x[2 * at + 4, rng.integers(x.shape[1])] = np.nan
    x[2 * at + 5] = 30.0
    x[2 * at + 6] = -30.0
    x[2 * at + 7, rng.integers(x.shape[1])] = np.inf
    x[2 * at + 8, rng.integers(x.shape[1])] = -np.inf
    noise = rng.normal(size=(count, one.noise)).astype(np.float32) if one.noise else None
    return x, noise
