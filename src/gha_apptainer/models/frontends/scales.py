"""Scales with most of their parts left out."""

from __future__ import annotations

from typing import Any

import numpy as np

from gha_apptainer.models.ir import ops

INFINITY = float("inf")


def scale(width: int, **given: Any) -> ops.Scale:
    """A Scale with what is not given left out."""
    neutral = {"center": 0.0, "factor": 1.0, "divisor": 1.0, "offset": 0.0, "low": -INFINITY, "high": INFINITY}
    return ops.Scale(
        **{key: np.broadcast_to(np.asarray(given.get(key, value), np.float64), (width,)).copy() for key, value in neutral.items()}
    )
