"""What a graph means: a float64 evaluation in numpy, the reference that everything emitted is compared with.

Where a float64 value reaches an operation of float32 it is rounded here too. `tolerance` tells how far float32 arithmetic may be off, from
evaluations that are disturbed by as much as float32 rounding disturbs: a bound that follows the model instead of a guess.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.activations import MEANING
from gha_apptainer.models.ir.graphs import INPUT, NOISE, Graph

Array = np.ndarray[Any, np.dtype[np.float64]]
EPS = 2.0**-24
BOUNDS_THRESHOLD = 1e-7
"""As in sklearn.preprocessing: how near to 0 or 1 a probability counts as the bound."""
_FLOAT_MAX = float(np.finfo(np.float32).max)


def evaluate(graph: Graph, rows: Any, noise: Any = None) -> Array:
    """The graph's outputs for rows of shape (n, inputs) and, where it takes noise, numbers of shape (n, noise)."""
    return _evaluate(graph, rows, noise, None)


def tolerance(graph: Graph, rows: Any, noise: Any = None, *, runs: int = 6, seed: int = 1) -> Array:
    """How far each output may be from `evaluate` when it is computed in float32, in any order."""
    exact = evaluate(graph, rows, noise)
    spread = np.zeros_like(exact)
    with np.errstate(all="ignore"):
        for run in range(runs):
            spread = np.fmax(spread, np.abs(_evaluate(graph, rows, noise, np.random.default_rng((seed, run))) - exact))
        size = np.where(np.isfinite(exact), np.abs(exact), 0.0)
        return 6.0 * np.where(np.isfinite(spread), spread, 0.0) + 8 * EPS * size + 1e-37


def _evaluate(graph: Graph, rows: Any, noise: Any, disturb: np.random.Generator | None) -> Array:
    given = np.asarray(rows, np.float32).astype(np.float64)
    if given.ndim != 2 or given.shape[1] != len(graph.inputs):
        raise InputError("%s takes rows of %d numbers, not an array of shape %s" % (graph.name, len(graph.inputs), given.shape))
    values = {INPUT: given}
    inexact: set[str] = set()
    if graph.noise:
        drawn = np.asarray(noise if noise is not None else np.zeros((0, 0)), np.float32).astype(np.float64)
        if drawn.shape != (len(given), graph.noise):
            raise InputError("%s takes noise of shape (%d, %d), not %s" % (graph.name, len(given), graph.noise, drawn.shape))
        values[NOISE] = drawn
    elif noise is not None:
        raise InputError("%s takes no noise" % graph.name)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            taken = [values[one] for one in node.inputs]
            if rounds(node.op):
                taken = [_rounded(x) if name in graph.doubles else x for name, x in zip(node.inputs, taken, strict=True)]
            out = RULES[node.op.op](node.op, len(given), *taken)
            known = not inexact.intersection(node.inputs)
            if isinstance(node.op, ops.Affine | ops.Activation | ops.PRelu | ops.Softmax | ops.Combine):
                known = False
            if disturb is not None and isinstance(node.op, ops.Quantile | ops.Power | ops.Map):
                out = out * (1 + 8 * np.finfo(np.float64).eps * disturb.standard_normal(out.shape))
            if disturb is not None and not known:
                out = out + disturb.standard_normal(out.shape) * EPS * _size(node.op, out, taken)
            if not known:
                inexact.add(node.name)
            values[node.name] = out if node.name in graph.doubles else np.where(np.abs(out) > _FLOAT_MAX, np.sign(out) * np.inf, out)
        return _rounded(values[graph.result]) if graph.result in graph.doubles else values[graph.result]


def rounds(op: ops.Op) -> bool:
    """Whether an operation takes float32 only."""
    return (op.single if isinstance(op, ops.Trees) else False) or not isinstance(op, ops.DOUBLE + ops.KEEPING)


def _rounded(x: Array) -> Array:
    return x.astype(np.float32).astype(np.float64)


def _size(op: ops.Op, out: Array, taken: list[Array]) -> Array:
    """The magnitude whose rounding shows in the result."""
    found = np.abs(out)
    if isinstance(op, ops.Affine):
        found = np.abs(taken[0]) @ np.abs(op.weight.astype(np.float64)) + np.abs(op.bias)
    elif isinstance(op, ops.Softmax):
        below = 2.0 + np.abs(taken[0] - taken[0].max(axis=1, keepdims=True))
        found = below if op.log else found * below
    elif isinstance(op, ops.Activation):
        x = np.abs(taken[0])
        found = found * (2.0 + x) if op.kind == "exponential" else 2.0 * found + _CANCELLING.get(op.kind, 0.0) * x
    elif isinstance(op, ops.Combine) and op.kind in ("add", "subtract"):
        found = np.abs(taken[0]) + np.abs(taken[1])
    return np.asarray(np.where(np.isfinite(found), found, 0.0))


_CANCELLING = {
    "gelu": 1.0,
    "gelu_tanh": 1.0,
    "mish": 1.0,
    "silu": 1.0,
    "tanh_shrink": 3.0,
    "squareplus": 1.0,
    "soft_shrink": 1.0,
    "relu": 1.0,
    "sparse_plus": 1.0,
    "hard_sigmoid": 1.0,
    "hard_silu": 2.0,
}
"""Activations in which numbers of the size of x, times this, cancel."""


def _affine(op: ops.Affine, _: int, x: Array) -> Array:
    return np.asarray(x @ op.weight.astype(np.float64) + op.bias)


def _activation(op: ops.Activation, _: int, x: Array) -> Array:
    return np.asarray(MEANING[op.kind][1](x, *(float(np.float32(one)) for one in op.parameters)))


def _prelu(op: ops.PRelu, _: int, x: Array) -> Array:
    return np.asarray(np.where(x < 0.0, op.alpha * x, x))


def _softmax(op: ops.Softmax, _: int, x: Array) -> Array:
    shifted = x - x.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(total) if op.log else powers / total)


_COMBINE: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}


def _combine(op: ops.Combine, _: int, a: Array, b: Array) -> Array:
    return _COMBINE[op.kind](a, b)


def _concat(_op: ops.Concat, _: int, *taken: Array) -> Array:
    return np.concatenate(taken, axis=1)


def _gather(op: ops.Gather, _: int, x: Array) -> Array:
    return x[:, list(op.columns)]


def _constant(op: ops.Constant, count: int) -> Array:
    return np.tile(op.values.astype(np.float64), (count, 1))


def _scale(op: ops.Scale, _: int, x: Array) -> Array:
    return np.clip((x - op.center) * op.factor / op.divisor + op.offset, op.low, op.high)


def _quantile(op: ops.Quantile, _: int, x: Array) -> Array:
    return np.stack([_quantile_column(op, x[:, at].copy(), op.quantiles[:, at]) for at in range(x.shape[1])], axis=1)


def _quantile_column(op: ops.Quantile, x: Array, table: Array) -> Array:
    """Line by line what sklearn's QuantileTransformer does with one column."""
    low_x, high_x, low_y, high_y = table[0], table[-1], 0.0, 1.0
    if op.inverse:
        low_x, high_x, low_y, high_y = 0.0, 1.0, table[0], table[-1]
        if op.normal:
            x = special.ndtr(x)
    slack = BOUNDS_THRESHOLD if op.normal else 0.0
    low = x - slack < low_x if op.normal else x == low_x
    high = x + slack > high_x if op.normal else x == high_x
    known = ~np.isnan(x)
    if op.inverse:
        x[known] = np.interp(x[known], op.references, table)
    else:
        x[known] = 0.5 * (np.interp(x[known], table, op.references) - np.interp(-x[known], -table[::-1], -op.references[::-1]))
    x[high] = high_y
    x[low] = low_y
    if op.normal and not op.inverse:
        edge = BOUNDS_THRESHOLD - np.spacing(1)
        x = np.clip(special.ndtri(x), special.ndtri(edge), special.ndtri(1 - edge))
    return x


def _power(op: ops.Power, _: int, x: Array) -> Array:
    rule = {
        ("yeo-johnson", False): _yeo_johnson,
        ("yeo-johnson", True): _yeo_johnson_inverse,
        ("box-cox", False): lambda column, power: np.where(column > 0, special.boxcox(np.where(column > 0, column, 1.0), power), np.nan),
        ("box-cox", True): special.inv_boxcox,
    }[op.method, op.inverse]
    return np.stack([np.where(np.isnan(x[:, at]), x[:, at], rule(x[:, at], op.lambdas[at])) for at in range(x.shape[1])], axis=1)


def _yeo_johnson(x: Array, power: float) -> Array:
    right, left = np.log1p(np.maximum(x, 0.0)), np.log1p(np.maximum(-x, 0.0))
    above = right if power == 0 else np.expm1(power * right) / power
    below = -left if power == 2 else -np.expm1((2 - power) * left) / (2 - power)
    return np.where(x >= 0, above, below)


def _yeo_johnson_inverse(x: Array, power: float) -> Array:
    right, left = np.maximum(x, 0.0), np.maximum(-x, 0.0)
    above = np.expm1(right) if power == 0 else np.expm1(np.log1p(power * right) / power)
    below = -np.expm1(left) if power == 2 else -np.expm1(np.log1p((2 - power) * left) / (2 - power))
    return np.where(x >= 0, above, below)


_MAP: dict[str, Callable[[Array], Any]] = {
    "log": np.log,
    "log10": np.log10,
    "log2": np.log2,
    "log1p": np.log1p,
    "exp": np.exp,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "cbrt": np.cbrt,
    "square": np.square,
    "reciprocal": np.reciprocal,
    "abs": np.abs,
    "negative": np.negative,
    "tanh": np.tanh,
    "arctanh": np.arctanh,
}


def _map(op: ops.Map, _: int, x: Array) -> Array:
    return np.asarray(np.power(x, op.parameter) if op.kind == "power" else _MAP[op.kind](x))


def _trees(op: ops.Trees, count: int, x: Array) -> Array:
    at = np.tile(op.roots, (count, 1))
    row = np.arange(count)[:, None]
    while True:
        feature = op.feature[at]
        inner = feature >= 0
        if not inner.any():
            break
        seen = x[row, np.maximum(feature, 0)]
        right = np.where(np.isnan(seen), op.missing_right[at] != 0, seen > op.threshold[at])
        at = np.where(inner, op.left[at] + right, at)
    leaves = op.leaves[op.left[at]]
    out = np.tile(op.base, (count, 1))
    wide = op.leaves.shape[1]
    for tree, target in enumerate(op.targets):
        out[:, target : target + wide] += leaves[:, tree]
    return np.asarray(out / op.divisor)


_COMPARE: dict[str, Callable[[Array, float], Any]] = {
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "equal": np.equal,
}


def _select(op: ops.Select, _: int, condition: Array, then: Array, otherwise: Array) -> Array:
    return np.asarray(np.where(_COMPARE[op.comparison](condition, op.limit), then, otherwise))


RULES: dict[str, Callable[..., Array]] = {
    "affine": _affine,
    "activation": _activation,
    "prelu": _prelu,
    "softmax": _softmax,
    "combine": _combine,
    "concat": _concat,
    "gather": _gather,
    "constant": _constant,
    "scale": _scale,
    "quantile": _quantile,
    "power": _power,
    "map": _map,
    "trees": _trees,
    "select": _select,
}
