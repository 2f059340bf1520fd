"""Transformers, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gha_apptainer.models.frontends.scales import scale
from gha_apptainer.models.frontends.sklearn_reading import NotInvertible, Reading
from gha_apptainer.models.ir import ops


def _standard(reading: Reading, model: Any, value: str) -> str:
    center, divisor = _standard_numbers(reading, model)
    return reading.add("standard", scale(reading.widths[value], center=center, divisor=divisor), [value])


def _standard_inverse(reading: Reading, model: Any, value: str) -> str:
    center, divisor = _standard_numbers(reading, model)
    return reading.add("standard", scale(reading.widths[value], factor=divisor, offset=center), [value])


def _standard_numbers(reading: Reading, model: Any) -> tuple[Any, Any]:
    told = reading.options(model, "with_mean with_std")
    return model.mean_ if told["with_mean"] else 0.0, model.scale_ if told["with_std"] else 1.0


def _min_max(reading: Reading, model: Any, value: str) -> str:
    told = reading.options(model, "feature_range clip")
    bounds = dict(zip(("low", "high"), told["feature_range"], strict=True)) if told["clip"] else {}
    return reading.add("min_max", scale(reading.widths[value], factor=model.scale_, offset=model.min_, **bounds), [value])


def _min_max_inverse(reading: Reading, model: Any, value: str) -> str:
    reading.options(model, "feature_range clip")
    return reading.add("min_max", scale(reading.widths[value], center=model.min_, divisor=model.scale_), [value])


def _max_abs(reading: Reading, model: Any, value: str) -> str:
    bounds = {"low": -1.0, "high": 1.0} if reading.options(model, "clip")["clip"] else {}
    return reading.add("max_abs", scale(reading.widths[value], divisor=model.scale_, **bounds), [value])


def _max_abs_inverse(reading: Reading, model: Any, value: str) -> str:
    reading.options(model, "clip")
    return reading.add("max_abs", scale(reading.widths[value], factor=model.scale_), [value])


def _robust(reading: Reading, model: Any, value: str) -> str:
    center, divisor = _robust_numbers(reading, model)
    return reading.add("robust", scale(reading.widths[value], center=center, divisor=divisor), [value])


def _robust_inverse(reading: Reading, model: Any, value: str) -> str:
    center, divisor = _robust_numbers(reading, model)
    return reading.add("robust", scale(reading.widths[value], factor=divisor, offset=center), [value])


def _robust_numbers(reading: Reading, model: Any) -> tuple[Any, Any]:
    told = reading.options(model, "with_centering with_scaling", "quantile_range unit_variance")
    return model.center_ if told["with_centering"] else 0.0, model.scale_ if told["with_scaling"] else 1.0


def _quantile(*, inverse: bool) -> Callable[[Reading, Any, str], str]:
    def rule(reading: Reading, model: Any, value: str) -> str:
        told = reading.options(model, "output_distribution", "n_quantiles ignore_implicit_zeros subsample")
        if told["output_distribution"] not in ("normal", "uniform"):
            reading.refuse("has the option output_distribution=%r" % told["output_distribution"])
        tables = np.asarray(model.quantiles_, np.float64)
        if not np.all(np.isfinite(tables)):
            reading.refuse("has quantiles that are not numbers")
        normal = told["output_distribution"] == "normal"
        op = ops.Quantile(np.maximum.accumulate(tables), np.asarray(model.references_, np.float64), normal, inverse)
        if not np.array_equal(op.quantiles, tables):
            reading.refuse("has quantiles that do not rise")
        return reading.add("quantile", op, [value])

    return rule


def _power(reading: Reading, model: Any, value: str) -> str:
    told = reading.options(model, "method standardize")
    value = reading.add("power", ops.Power(told["method"], np.asarray(model.lambdas_, np.float64), False), [value])
    return _standard(reading, _scaler(model), value) if told["standardize"] else value


def _power_inverse(reading: Reading, model: Any, value: str) -> str:
    told = reading.options(model, "method standardize")
    if told["standardize"]:
        value = _standard_inverse(reading, _scaler(model), value)
    return reading.add("power", ops.Power(told["method"], np.asarray(model.lambdas_, np.float64), True), [value])


def _scaler(model: Any) -> Any:
    return model._scaler  # noqa: SLF001  # sklearn keeps the mean and deviation of the transformed data nowhere else


FUNCTIONS: Mapping[str, str] = {
    "log": "log",
    "log10": "log10",
    "log2": "log2",
    "log1p": "log1p",
    "exp": "exp",
    "expm1": "expm1",
    "sqrt": "sqrt",
    "cbrt": "cbrt",
    "square": "square",
    "reciprocal": "reciprocal",
    "absolute": "abs",
    "fabs": "abs",
    "negative": "negative",
    "tanh": "tanh",
    "arctanh": "arctanh",
}
"""numpy's functions that a FunctionTransformer may have: their name, and the IR's."""


def _function(reading: Reading, model: Any, value: str) -> str:
    told = reading.options(model, "func kw_args", "inverse_func inv_kw_args validate accept_sparse check_inverse feature_names_out")
    return _call(reading, told["func"], told["kw_args"], value)


def _function_inverse(reading: Reading, model: Any, value: str) -> str:
    told = reading.options(model, "func inverse_func inv_kw_args", "kw_args validate accept_sparse check_inverse feature_names_out")
    if told["inverse_func"] is None and told["func"] is not None:
        raise NotInvertible
    return _call(reading, told["inverse_func"], told["inv_kw_args"], value)


def _call(reading: Reading, function: Any, given: Any, value: str) -> str:
    if function is None:
        return value
    name = getattr(function, "__name__", "")
    if given or name not in FUNCTIONS or getattr(np, name, None) is not function:
        reading.refuse("calls %r" % (function,))
    return reading.add(name, ops.Map(FUNCTIONS[name], 0.0), [value])


def _polynomial(reading: Reading, model: Any, value: str) -> str:
    reading.options(model, "", "degree interaction_only include_bias order")
    powers = np.asarray(model.powers_)
    ones = reading.add("one", ops.Constant(np.ones(1, np.float32)), [])
    widened = reading.add("widened", ops.Concat(), [value, ones])
    unit = powers.shape[1]
    factors = [[column for column in range(unit) for _ in range(row[column])] for row in powers]
    degree = max(1, *(len(one) for one in factors))
    result = ""
    for at in range(degree):
        columns = tuple(one[at] if at < len(one) else unit for one in factors)
        part = reading.add("factor", ops.Gather(columns), [widened])
        result = reading.add("product", ops.Combine("multiply"), [result, part]) if result else part
    return result


def _principal(reading: Reading, model: Any, value: str) -> str:
    told = reading.options(model, "whiten", "n_components svd_solver tol iterated_power n_oversamples power_iteration_normalizer")
    value = reading.add("centered", scale(reading.widths[value], center=model.mean_), [value])
    weight = np.asarray(model.components_, np.float64).T
    if told["whiten"]:
        weight = weight / np.sqrt(model.explained_variance_)
    return reading.add("rotated", ops.Affine(weight.astype(np.float32), np.zeros(weight.shape[1], np.float32)), [value])


def _pipeline(reading: Reading, model: Any, value: str) -> str:
    reading.options(model, "", "steps transform_input")
    for name, step in model.steps:
        if step not in ("passthrough", None):
            value = reading.forward(step, value, name)
    return value


def _pipeline_inverse(reading: Reading, model: Any, value: str) -> str:
    reading.options(model, "", "steps transform_input")
    for name, step in reversed(model.steps):
        if step not in ("passthrough", None):
            value = reading.inverse(step, value, name)
    return value


def _union(reading: Reading, model: Any, value: str) -> str:
    told = reading.options(model, "transformer_weights", "transformer_list verbose_feature_names_out")
    parts = []
    for name, one in model.transformer_list:
        if one == "drop":
            continue
        part = value if one == "passthrough" else reading.forward(one, value, name)
        parts.append(_weighted(reading, told["transformer_weights"], name, part))
    return reading.add("joined", ops.Concat(), parts)


def _weighted(reading: Reading, weights: Any, name: str, value: str) -> str:
    if not weights or name not in weights:
        return value
    return reading.add("weighted", scale(reading.widths[value], factor=float(weights[name])), [value])


def _branches(reading: Reading, model: Any) -> list[tuple[str, Any, list[int]]]:
    reading.options(
        model,
        "transformer_weights",
        "transformers remainder sparse_threshold verbose_feature_names_out force_int_remainder_cols",
    )
    names = getattr(model, "feature_names_in_", None)
    count = int(model.n_features_in_)
    return [
        (name, one, _columns(reading, columns, names, count))
        for name, one, columns in model.transformers_
        if not (isinstance(one, str) and one == "drop")
    ]


def _columns(reading: Reading, told: Any, names: Any, count: int) -> list[int]:
    if isinstance(told, str | int | np.integer):
        told = [told]
    if isinstance(told, slice):
        if any(isinstance(one, str) for one in (told.start, told.stop)):
            reading.refuse("names columns by a range of names")
        return list(range(count))[told]
    listed = list(told)
    if listed and all(isinstance(one, bool | np.bool_) for one in listed):
        return [at for at, one in enumerate(listed) if one]
    found = []
    for one in listed:
        if isinstance(one, str):
            if names is None or one not in list(names):
                reading.refuse("names the column %r" % one)
            found.append(list(names).index(one))
        else:
            found.append(int(one) if one >= 0 else count + int(one))
    return found


def _column(reading: Reading, model: Any, value: str) -> str:
    parts = []
    for name, one, columns in _branches(reading, model):
        if not columns:
            continue
        part = reading.add("columns", ops.Gather(tuple(columns)), [value])
        if not (isinstance(one, str) and one == "passthrough"):
            part = reading.forward(one, part, name)
        parts.append(_weighted(reading, model.transformer_weights, name, part))
    return reading.add("joined", ops.Concat(), parts)


def _column_inverse(reading: Reading, model: Any, value: str) -> str:
    """sklearn has none, its users' models do: where each input column is in one branch, and each branch can be undone."""
    branches = _branches(reading, model)
    order: list[int] = []
    parts: list[str] = []
    at = 0
    if model.transformer_weights:
        raise NotInvertible
    for name, one, columns in branches:
        if not columns:
            continue
        width = len(columns)
        part = reading.add("columns", ops.Gather(tuple(range(at, min(at + width, reading.widths[value])))), [value])
        at += width
        parts.append(part if isinstance(one, str) and one == "passthrough" else reading.inverse(one, part, name))
        order += columns
        if reading.widths[parts[-1]] != width:
            raise NotInvertible
    if sorted(order) != list(range(int(model.n_features_in_))) or at != reading.widths[value]:
        raise NotInvertible
    joined = reading.add("joined", ops.Concat(), parts)
    back: Sequence[int] = [order.index(one) for one in range(len(order))]
    return reading.add("ordered", ops.Gather(tuple(back)), [joined])


_DATA = "sklearn.preprocessing."
FORWARD: Mapping[str, Callable[[Reading, Any, str], str]] = {
    _DATA + "StandardScaler": _standard,
    _DATA + "MinMaxScaler": _min_max,
    _DATA + "MaxAbsScaler": _max_abs,
    _DATA + "RobustScaler": _robust,
    _DATA + "QuantileTransformer": _quantile(inverse=False),
    _DATA + "PowerTransformer": _power,
    _DATA + "FunctionTransformer": _function,
    _DATA + "PolynomialFeatures": _polynomial,
    "sklearn.decomposition.PCA": _principal,
    "sklearn.pipeline.Pipeline": _pipeline,
    "sklearn.pipeline.FeatureUnion": _union,
    "sklearn.compose.ColumnTransformer": _column,
}
INVERSE: Mapping[str, Callable[[Reading, Any, str], str]] = {
    _DATA + "StandardScaler": _standard_inverse,
    _DATA + "MinMaxScaler": _min_max_inverse,
    _DATA + "MaxAbsScaler": _max_abs_inverse,
    _DATA + "RobustScaler": _robust_inverse,
    _DATA + "QuantileTransformer": _quantile(inverse=True),
    _DATA + "PowerTransformer": _power_inverse,
    _DATA + "FunctionTransformer": _function_inverse,
    "sklearn.pipeline.Pipeline": _pipeline_inverse,
    "sklearn.compose.ColumnTransformer": _column_inverse,
}
