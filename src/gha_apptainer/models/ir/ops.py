"""The operations. Each is a frozen value that knows which widths it accepts and gives; `interpret` and `emit` know what it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.ir.activations import MEANING

Floats = np.ndarray[Any, np.dtype[np.float64]]
Singles = np.ndarray[Any, np.dtype[np.float32]]
Indices = np.ndarray[Any, np.dtype[np.int32]]

COMBINATIONS = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
MAPS = (
    "log",
    "log10",
    "log2",
    "log1p",
    "exp",
    "expm1",
    "sqrt",
    "cbrt",
    "square",
    "reciprocal",
    "abs",
    "negative",
    "power",
    "tanh",
    "arctanh",
)
COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal")


def _same(name: str, widths: Sequence[int], count: int) -> int:
    if len(widths) != count or len(set(widths)) > 1:
        raise InputError("%s takes %d values of one width, not widths %s" % (name, count, list(widths)))
    return widths[0]


def _finite(name: str, *arrays: Any) -> None:
    if not all(np.all(np.isfinite(one)) for one in arrays):
        raise InputError("%s has a parameter that is not finite" % name)


def _vector(name: str, array: Any, length: int) -> None:
    if array.ndim != 1 or len(array) != length:
        raise InputError("%s has parameters of shape %s for a width of %d" % (name, array.shape, length))


@dataclass(frozen=True, eq=False)
class Affine:
    """`x @ weight + bias`; weight is float32 of shape (inputs, outputs)."""

    op: ClassVar[str] = "affine"
    weight: Singles
    bias: Singles

    def width(self, widths: Sequence[int]) -> int:
        """Outputs."""
        _finite(self.op, self.weight, self.bias)
        if self.weight.ndim != 2 or [self.weight.shape[0]] != list(widths) or self.bias.shape != (self.weight.shape[1],):
            raise InputError(
                "affine has weights of shape %s and bias of %s for widths %s" % (self.weight.shape, self.bias.shape, list(widths))
            )
        return int(self.weight.shape[1])


@dataclass(frozen=True, eq=False)
class Activation:
    """One function of `activations.MEANING` on each number."""

    op: ClassVar[str] = "activation"
    kind: str
    parameters: tuple[float, ...]

    def width(self, widths: Sequence[int]) -> int:
        """As the input."""
        if self.kind not in MEANING:
            raise InputError("no activation is named %r" % self.kind)
        if len(self.parameters) != MEANING[self.kind][0] or any(one != one for one in self.parameters):
            raise InputError("activation %s takes %d parameters, not %s" % (self.kind, MEANING[self.kind][0], self.parameters))
        return _same(self.kind, widths, 1)


@dataclass(frozen=True, eq=False)
class PRelu:
    """`x` where it is not negative, else `alpha * x`, with an alpha for each column."""

    op: ClassVar[str] = "prelu"
    alpha: Singles

    def width(self, widths: Sequence[int]) -> int:
        """As the input."""
        _finite(self.op, self.alpha)
        _vector(self.op, self.alpha, _same(self.op, widths, 1))
        return widths[0]


@dataclass(frozen=True, eq=False)
class Softmax:
    """Exponentials over their sum; `log` gives the logarithm of that."""

    op: ClassVar[str] = "softmax"
    log: bool

    def width(self, widths: Sequence[int]) -> int:
        """As the input."""
        return _same(self.op, widths, 1)


@dataclass(frozen=True, eq=False)
class Combine:
    """Two values of one width, element by element."""

    op: ClassVar[str] = "combine"
    kind: str

    def width(self, widths: Sequence[int]) -> int:
        """As the inputs."""
        if self.kind not in COMBINATIONS:
            raise InputError("no combination is named %r" % self.kind)
        return _same(self.kind, widths, 2)


@dataclass(frozen=True, eq=False)
class Concat:
    """Values one after the other."""

    op: ClassVar[str] = "concat"

    def width(self, widths: Sequence[int]) -> int:
        """The sum of the widths."""
        if not widths:
            raise InputError("concat of nothing")
        return sum(widths)


@dataclass(frozen=True, eq=False)
class Gather:
    """Columns of one value, in the order given; one may occur more than once."""

    op: ClassVar[str] = "gather"
    columns: tuple[int, ...]

    def width(self, widths: Sequence[int]) -> int:
        """The number of columns."""
        if len(widths) != 1 or not self.columns or not all(0 <= one < widths[0] for one in self.columns):
            raise InputError("gather takes columns %s of a value of width %s" % (self.columns, list(widths)))
        return len(self.columns)


@dataclass(frozen=True, eq=False)
class Constant:
    """The same numbers for each row."""

    op: ClassVar[str] = "constant"
    values: Singles

    def width(self, widths: Sequence[int]) -> int:
        """The number of values."""
        if widths or self.values.ndim != 1 or not len(self.values):
            raise InputError("constant takes no input and has at least one value")
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Scale:
    """`clip((x - center) * factor / divisor + offset, low, high)` in float64; infinite bounds do not clip."""

    op: ClassVar[str] = "scale"
    center: Floats
    factor: Floats
    divisor: Floats
    offset: Floats
    low: Floats
    high: Floats

    def width(self, widths: Sequence[int]) -> int:
        """As the input."""
        length = _same(self.op, widths, 1)
        _finite(self.op, self.center, self.factor, self.divisor, self.offset)
        for array in (self.center, self.factor, self.divisor, self.offset, self.low, self.high):
            _vector(self.op, array, length)
        if np.any(self.divisor == 0) or not np.all(self.low <= self.high):
            raise InputError("scale divides by zero or has a lower bound above the upper")
        return length


@dataclass(frozen=True, eq=False)
class Quantile:
    """sklearn's QuantileTransformer: `quantiles` of shape (levels, columns), `references` the levels; ties are averaged as there."""

    op: ClassVar[str] = "quantile"
    quantiles: Floats
    references: Floats
    normal: bool
    inverse: bool

    def width(self, widths: Sequence[int]) -> int:
        """As the input."""
        length = _same(self.op, widths, 1)
        _finite(self.op, self.quantiles, self.references)
        if self.quantiles.ndim != 2 or self.quantiles.shape != (len(self.references), length) or len(self.references) < 2:
            raise InputError(
                "quantile has tables of shape %s and %d levels for a width of %d" % (self.quantiles.shape, len(self.references), length)
            )
        if np.any(np.diff(self.quantiles, axis=0) < 0) or np.any(np.diff(self.references) <= 0):
            raise InputError("quantile has a table that does not rise")
        return length


@dataclass(frozen=True, eq=False)
class Power:
    """Yeo-Johnson or Box-Cox with an exponent for each column, in float64."""

    op: ClassVar[str] = "power"
    method: str
    lambdas: Floats
    inverse: bool

    def width(self, widths: Sequence[int]) -> int:
        """As the input."""
        if self.method not in ("yeo-johnson", "box-cox"):
            raise InputError("no power transform is named %r" % self.method)
        _finite(self.op, self.lambdas)
        _vector(self.op, self.lambdas, _same(self.op, widths, 1))
        return widths[0]


@dataclass(frozen=True, eq=False)
class Map:
    """One function of a fixed list on each number, in float64; `parameter` is the exponent of `power`, else 0."""

    op: ClassVar[str] = "map"
    kind: str
    parameter: float

    def width(self, widths: Sequence[int]) -> int:
        """As the input."""
        if self.kind not in MAPS:
            raise InputError("no function is named %r; there are: %s" % (self.kind, ", ".join(MAPS)))
        return _same(self.kind, widths, 1)


@dataclass(frozen=True, eq=False)
class Trees:
    """Sums of leaves of decision trees, in float64.

    All trees lie one after the other. Node `i` goes to `left[i]` if `x[feature[i]] <= threshold[i]`, else to `left[i] + 1`; a NaN goes to
    the right if `missing_right[i]`. A leaf has feature -1 and `left[i]` is its row in `leaves`. Tree `t` starts at node `roots[t]` and adds
    its leaf to the outputs from `targets[t]` on. `base` is what the sums start from, `divisor` divides them. `single` says that features
    are rounded to float32 before they are compared, as sklearn's own trees do.
    """

    op: ClassVar[str] = "trees"
    features: int
    feature: Indices
    threshold: Floats
    left: Indices
    missing_right: Indices
    roots: Indices
    targets: Indices
    leaves: Floats
    base: Floats
    divisor: float
    single: bool

    def width(self, widths: Sequence[int]) -> int:
        """The number of sums."""
        if list(widths) != [self.features]:
            raise InputError("trees over %d features get widths %s" % (self.features, list(widths)))
        nodes, inner = len(self.feature), self.feature >= 0
        _finite(self.op, self.leaves, self.base)
        if np.any(np.isnan(self.threshold[inner])):
            raise InputError("trees have a threshold that is no number")
        if not nodes == len(self.threshold) == len(self.left) == len(self.missing_right) or len(self.roots) != len(self.targets):
            raise InputError("trees have tables of different lengths")
        if np.any(self.feature >= self.features) or self.divisor == 0 or not len(self.roots):
            raise InputError("trees name a feature that there is not, or there are no trees")
        if np.any(self.left[inner] <= np.flatnonzero(inner)) or np.any(self.left[inner] + 1 >= nodes) or np.any(self.roots >= nodes):
            raise InputError("trees have a node that does not lead onwards")
        if np.any(self.left[~inner] >= len(self.leaves)) or np.any(self.targets + self.leaves.shape[1] > len(self.base)):
            raise InputError("trees have a leaf outside the outputs")
        return len(self.base)


@dataclass(frozen=True, eq=False)
class Select:
    """`then` for rows whose first value, one column, compares so with `limit`, else `otherwise`; NaN compares with nothing."""

    op: ClassVar[str] = "select"
    comparison: str
    limit: float

    def width(self, widths: Sequence[int]) -> int:
        """As the two."""
        if self.comparison not in COMPARISONS:
            raise InputError("no comparison is named %r" % self.comparison)
        if len(widths) != 3 or widths[0] != 1 or widths[1] != widths[2]:
            raise InputError("select takes one column and two values of one width, not widths %s" % list(widths))
        return widths[1]


Op = Affine | Activation | PRelu | Softmax | Combine | Concat | Gather | Constant | Scale | Quantile | Power | Map | Trees | Select
OPS: dict[str, Any] = {
    kind.op: kind
    for kind in (Affine, Activation, PRelu, Softmax, Combine, Concat, Gather, Constant, Scale, Quantile, Power, Map, Trees, Select)
}
DOUBLE = (Scale, Quantile, Power, Map, Trees)
"""Operations that compute in float64 and give float64."""
KEEPING = (Gather, Concat, Select)
"""Operations that only move numbers: they give float64 if one of what they move is that."""
EXACT_MAPS = frozenset(("sqrt", "square", "reciprocal", "abs", "negative"))
"""Functions whose result IEEE 754 defines to the last bit."""
