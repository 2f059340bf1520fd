"""Functions of one number that networks apply to each of their values: names, parameters and what they mean in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import special

Array = np.ndarray[Any, np.dtype[np.float64]]


def _sigmoid(x: Array) -> Array:
    return np.asarray(special.expit(x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, 0.0)


def _relu(x: Array, slope: float, threshold: float, top: float) -> Array:
    low = slope * (x - threshold) if slope else np.where(np.isnan(x), x, 0.0)
    return np.asarray(np.where(x >= top, top, np.where(x < threshold, low, x)))


def _gelu(x: Array) -> Array:
    return np.asarray(x * special.ndtr(x))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(x * special.expit(2.0 * np.sqrt(2.0 / np.pi) * (x + 0.044715 * x * x * x)))


def _mish(x: Array) -> Array:
    return np.asarray(x * np.tanh(_softplus(x)))


def _silu(x: Array) -> Array:
    return np.asarray(x * _sigmoid(x))


def _hard_sigmoid(x: Array, slope: float, offset: float) -> Array:
    return np.clip(slope * x + offset, 0.0, 1.0)


def _hard_silu(x: Array, slope: float, offset: float) -> Array:
    return np.asarray(x * _hard_sigmoid(x, slope, offset))


def _softsign(x: Array) -> Array:
    return x / (1.0 + np.abs(x))


def _tanh_shrink(x: Array) -> Array:
    return x - np.tanh(x)


def _sparse_plus(x: Array) -> Array:
    return np.asarray(np.where(x <= -1.0, 0.0, np.where(x < 1.0, 0.25 * (x + 1.0) ** 2, x)))


def _squareplus(x: Array, b: float) -> Array:
    return np.asarray(np.where(x < 0.0, (b / 2) / (np.sqrt(x * x + b) - x), (x + np.sqrt(x * x + b)) / 2))


MEANING: Mapping[str, tuple[int, Callable[..., Array]]] = {
    "relu": (3, _relu),  # slope below, threshold, top
    "elu": (2, lambda x, scale, alpha: np.where(x > 0.0, scale * x, scale * alpha * np.expm1(np.minimum(x, 0.0)))),
    "celu": (1, lambda x, alpha: np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))),
    "tanh": (0, np.tanh),
    "sigmoid": (0, _sigmoid),
    "hard_sigmoid": (2, _hard_sigmoid),
    "silu": (0, _silu),
    "hard_silu": (2, _hard_silu),
    "gelu": (0, _gelu),
    "gelu_tanh": (0, _gelu_tanh),
    "softplus": (0, _softplus),
    "log_sigmoid": (0, lambda x: -_softplus(-x)),
    "softsign": (0, _softsign),
    "exponential": (0, np.exp),
    "mish": (0, _mish),
    "tanh_shrink": (0, _tanh_shrink),
    "hard_shrink": (1, lambda x, limit: np.where(np.abs(x) > limit, x, 0.0)),
    "soft_shrink": (1, lambda x, limit: np.where(x > limit, x - limit, np.where(x < -limit, x + limit, 0.0))),
    "sparse_plus": (0, _sparse_plus),
    "squareplus": (1, _squareplus),
    "threshold": (2, lambda x, limit, value: np.where(x > limit, x, np.where(np.isnan(x), x, value))),
    "clip": (2, np.clip),
}
"""Name: number of parameters, the function of an array and the parameters."""
