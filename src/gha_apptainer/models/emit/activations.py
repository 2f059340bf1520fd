"""Activations as C expressions over one vector `x`; what they mean stands in `ir.activations`."""

from __future__ import annotations

import math

import numpy as np

from gha_apptainer.models.emit.tables import literal
from gha_apptainer.models.ir.ops import Activation


def expression(op: Activation) -> str:
    """The expression of one activation."""
    given = [_of(one) for one in op.parameters]
    if op.kind == "relu":
        return _relu(*op.parameters)
    if op.kind == "clip":
        return "v_clip(x, %s, %s)" % tuple(literal(np.float32(one)) for one in op.parameters)
    if op.kind == "squareplus":
        return "v_squareplus(x, %s)" % literal(np.float32(op.parameters[0]))
    return _FIXED[op.kind].format(*given)


def _of(value: float) -> str:
    return "v_of(%s)" % literal(np.float32(value))


def _relu(slope: float, threshold: float, top: float) -> str:
    if threshold == 0 and slope == 0:
        found = "v_max(v_of(0.0f), x)"
    elif threshold == 0 and 0 < slope <= 1:
        found = "v_max(x * %s, x)" % _of(slope)
    else:
        low = "%s * (x - %s)" % (_of(slope), _of(threshold)) if slope else "v_of(0.0f)"
        found = "v_sel(x < %s, %s, x)" % (_of(threshold), low)
    return found if math.isinf(top) else "v_sel(x >= %s, %s, %s)" % (_of(top), _of(top), found)


_FIXED = {
    "elu": "v_sel(x > v_of(0.0f), {0} * x, {0} * {1} * v_expm1(v_min(v_of(0.0f), x)))",
    "celu": "v_sel(x > v_of(0.0f), x, {0} * v_expm1(v_min(v_of(0.0f), x) / {0}))",
    "tanh": "v_tanh(x)",
    "sigmoid": "v_sigmoid(x)",
    "hard_sigmoid": "v_clip({0} * x + {1}, 0.0f, 1.0f)",
    "silu": "x * v_sigmoid(x)",
    "hard_silu": "x * v_clip({0} * x + {1}, 0.0f, 1.0f)",
    "gelu": "x * v_phi(x)",
    "gelu_tanh": "x * v_sigmoid(v_of(0x1.988454p+0f) * (x + v_of(0.044715f) * x * x * x))",
    "softplus": "v_softplus(x)",
    "log_sigmoid": "-v_softplus(-x)",
    "softsign": "x / (v_of(1.0f) + v_abs(x))",
    "exponential": "v_exp(x)",
    "mish": "v_mish(x)",
    "tanh_shrink": "x - v_tanh(x)",
    "hard_shrink": "v_sel(v_abs(x) > {0}, x, v_of(0.0f))",
    "soft_shrink": "v_sel(x > {0}, x - {0}, v_sel(x < -{0}, x + {0}, v_of(0.0f)))",
    "sparse_plus": "v_sel(x <= v_of(-1.0f), v_of(0.0f), v_sel(x < v_of(1.0f), v_of(0.25f) * (x + v_of(1.0f)) * (x + v_of(1.0f)), x))",
    "threshold": "v_sel(x <= {0}, {1}, x)",
}
