"""Trees of any library into the tables of the IR, where the right child stands behind the left one."""

from __future__ import annotations

from typing import Any

import numpy as np

from gha_apptainer.models.ir.ops import Trees


class Forest:
    """Collects trees over `features` columns whose leaves have `wide` numbers."""

    def __init__(self, features: int, wide: int) -> None:
        self._features, self._wide = features, wide
        self._feature: list[int] = []
        self._threshold: list[float] = []
        self._left: list[int] = []
        self._missing: list[int] = []
        self._roots: list[int] = []
        self._targets: list[int] = []
        self._leaves: list[Any] = []

    def add(self, left: Any, right: Any, feature: Any, threshold: Any, missing_right: Any, leaves: Any, target: int) -> None:
        """One tree: tables over its nodes, children -1 in leaves, rows of `leaves` by node; node 0 is the root."""
        self._roots.append(len(self._feature))
        self._targets.append(target)
        self._row()
        todo = [(0, self._roots[-1])]
        while todo:
            node, at = todo.pop()
            if left[node] < 0:
                self._left[at] = len(self._leaves)
                self._leaves.append(np.asarray(leaves[node], np.float64).reshape(self._wide))
                continue
            self._feature[at], self._threshold[at] = int(feature[node]), float(threshold[node])
            self._missing[at], self._left[at] = int(missing_right[node]), len(self._feature)
            for child in (int(left[node]), int(right[node])):
                todo.append((child, len(self._feature)))
                self._row()

    def _row(self) -> None:
        self._feature.append(-1)
        self._threshold.append(0.0)
        self._left.append(0)
        self._missing.append(0)

    def op(self, base: Any, divisor: float, *, single: bool = True) -> Trees:
        """The ensemble; `single` as in the IR."""
        whole = np.int32
        return Trees(
            self._features,
            np.array(self._feature, whole),
            np.array(self._threshold, np.float64),
            np.array(self._left, whole),
            np.array(self._missing, whole),
            np.array(self._roots, whole),
            np.array(self._targets, whole),
            np.stack(self._leaves),
            np.asarray(base, np.float64),
            float(divisor),
            single,
        )
