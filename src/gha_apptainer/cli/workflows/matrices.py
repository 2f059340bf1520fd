"""The combinations of a `strategy.matrix`, as GitHub computes them.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#jobsjob_idstrategymatrix
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

Combination = Mapping[str, object]


def has_expression(value: object) -> bool:
    """Whether the value, or anything in it, is known only while the workflow runs."""
    if isinstance(value, str):
        return "${{" in value
    if isinstance(value, Mapping):
        return any(has_expression(item) for item in value.values())
    if isinstance(value, Sequence):
        return any(has_expression(item) for item in value)
    return False


def combinations(matrix: object) -> Sequence[Combination] | None:
    """Every combination, `[{}]` where there is no matrix; None where it is known only while the workflow runs."""
    if matrix is None:
        return ({},)
    if not isinstance(matrix, Mapping) or has_expression(matrix):
        return None
    include = [one for one in _list(matrix.get("include")) if isinstance(one, Mapping)]
    exclude = [one for one in _list(matrix.get("exclude")) if isinstance(one, Mapping)]
    axes = {str(key): _list(values) for key, values in matrix.items() if key not in ("include", "exclude")}
    base: list[dict[str, object]] = []
    if axes:
        base = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    base = [one for one in base if not any(_covers(rule, one) for rule in exclude)]
    return _included(base, include, set(axes)) or ({},)


def _included(base: list[dict[str, object]], include: Sequence[Combination], axes: set[str]) -> Sequence[Combination]:
    """Each `include` entry extends the combinations whose own values it does not change, or else is one more."""
    extended = [dict(one) for one in base]
    extra: list[Combination] = []
    for entry in include:
        own = {key: value for key, value in entry.items() if key in axes}
        fitting = [at for at, one in enumerate(base) if all(one[key] == value for key, value in own.items())]
        if fitting:
            for at in fitting:
                extended[at].update(entry)
        else:
            extra.append(dict(entry))
    return (*extended, *extra)


def _covers(rule: Combination, one: Combination) -> bool:
    return all(key in one and one[key] == value for key, value in rule.items())


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [] if value is None else [value]
