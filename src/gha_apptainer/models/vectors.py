"""Golden and edge vectors: rows with the answers that every released file has to give.

They are made once, from the float64 meaning of the program, and stored beside it. Golden rows are ordinary ones. Edge rows stand at what
decides: thresholds of trees, quantiles and the numbers next to them, bounds of clipping, both zeros, denormal, large and infinite numbers,
and NaN.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gha_apptainer.domain.errors import Untrusted
from gha_apptainer.models.ir import interpret, ops
from gha_apptainer.models.ir.graphs import INPUT, Graph, Program

GOLDEN_ROWS = 256
EDGE_ROWS = 512
SEED = 20251
Array = np.ndarray[Any, Any]
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Vectors:
    """Rows of one function, and what it has to give: `wanted` within `slack`."""

    rows: Array
    noise: Array | None
    wanted: Array
    slack: Array

    def bad(self, got: Array) -> int:
        """How many numbers are wrong."""
        with np.errstate(invalid="ignore"):
            good = (np.isnan(got) & np.isnan(self.wanted)) | (got == self.wanted) | (np.abs(got - self.wanted) <= self.slack)
        return int(np.size(good) - np.count_nonzero(good))

    def worst(self, got: Array) -> float:
        """The largest error, in parts of what is allowed."""
        with np.errstate(invalid="ignore"):
            found = np.where(np.isnan(got) & np.isnan(self.wanted) | (got == self.wanted), 0.0, np.abs(got - self.wanted) / self.slack)
        return float(np.max(np.where(np.isnan(found), np.inf, found), initial=0.0))


def make(graph: Graph) -> tuple[Vectors, Vectors]:
    """Golden and edge vectors of one function."""
    rng = np.random.default_rng(SEED)
    around = _typical(graph)
    spread = np.array([np.std(one) if len(one) > 1 else 1.0 for one in around])
    middle = np.array([np.mean(one) if len(one) else 0.0 for one in around])
    spread[spread == 0] = 1.0
    golden = (middle + spread * rng.standard_normal((GOLDEN_ROWS, len(graph.inputs)))).astype(np.float32)
    return _answered(graph, golden, rng), _answered(graph, _edges(graph, around, golden, rng), rng)


def _answered(graph: Graph, rows: Array, rng: np.random.Generator) -> Vectors:
    noise = rng.standard_normal((len(rows), graph.noise)).astype(np.float32) if graph.noise else None
    return Vectors(rows, noise, interpret.evaluate(graph, rows, noise), interpret.tolerance(graph, rows, noise))


def _typical(graph: Graph) -> list[Array]:
    """For each input the numbers at which something decides, as far as the row reaches an operation without being changed before."""
    direct: dict[str, list[int]] = {INPUT: list(range(len(graph.inputs)))}
    found: list[list[float]] = [[] for _ in graph.inputs]
    for node in graph.nodes:
        if isinstance(node.op, ops.Gather) and node.inputs[0] in direct:
            direct[node.name] = [direct[node.inputs[0]][at] for at in node.op.columns]
        elif isinstance(node.op, ops.Select) and node.inputs[0] in direct:
            found[direct[node.inputs[0]][0]].append(node.op.limit)
        elif node.inputs and node.inputs[0] in direct:
            for at, column in enumerate(direct[node.inputs[0]]):
                found[column] += _deciding(node.op, at)
    return [np.array(one, np.float64) for one in found]


def _deciding(op: ops.Op, at: int) -> list[float]:
    if isinstance(op, ops.Quantile) and not op.inverse:
        return [float(one) for one in op.quantiles[:: max(1, len(op.quantiles) // 60), at]] + [
            float(op.quantiles[0, at]),
            float(op.quantiles[-1, at]),
        ]
    if isinstance(op, ops.Trees):
        return [float(one) for one in op.threshold[op.feature == at][:200] if np.isfinite(one)]
    if isinstance(op, ops.Scale):
        center = float(op.center[at])
        reach = float(op.divisor[at] / op.factor[at]) if op.factor[at] else 1.0
        bounds = [one for one in (op.low[at], op.high[at]) if np.isfinite(one)]
        return [center - reach, center + reach, *(float((one - op.offset[at]) * reach + center) for one in bounds)]
    return []


def _edges(graph: Graph, around: list[Array], golden: Array, rng: np.random.Generator) -> Array:
    rows = golden[rng.integers(0, len(golden), EDGE_ROWS)].copy()
    special = np.array([0.0, -0.0, 1e-40, -1e-40, 1e-30, 1e4, -1e4, np.inf, -np.inf, np.nan], np.float32)
    width = len(graph.inputs)
    for at in range(EDGE_ROWS):
        column = at % width
        deciding = around[column]
        if len(deciding) and at % 3:
            chosen = np.float32(deciding[int(rng.integers(len(deciding)))])
            rows[at, column] = (chosen, np.nextafter(chosen, np.float32(np.inf)), np.nextafter(chosen, np.float32(-np.inf)))[at // 3 % 3]
        else:
            rows[at, column] = special[int(rng.integers(len(special)))]
    rows[:6] = special[[0, 1, 2, 7, 8, 9], None]
    return rows


def encode(program: Program) -> bytes:
    """The vectors of all functions as one zip of numpy arrays, the same bytes for the same program."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as file:
        for graph in program.functions:
            for kind, one in zip(("golden", "edge"), make(graph), strict=True):
                for name in ("rows", "noise", "wanted", "slack"):
                    array = getattr(one, name)
                    if array is not None:
                        held = io.BytesIO()
                        np.save(held, array, allow_pickle=False)
                        file.writestr(zipfile.ZipInfo("%s/%s/%s.npy" % (graph.name, kind, name), _TIME), held.getvalue())
    return data.getvalue()


def decode(data: bytes, where: str) -> Mapping[str, tuple[Vectors, Vectors]]:
    """The vectors of each function. Raises Untrusted where the file is no such zip."""
    found: dict[str, dict[str, dict[str, Array]]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            for name in file.namelist():
                function, kind, array = name.removesuffix(".npy").split("/")
                found.setdefault(function, {}).setdefault(kind, {})[array] = np.load(io.BytesIO(file.read(name)), allow_pickle=False)
        return {function: (_held(kinds["golden"]), _held(kinds["edge"])) for function, kinds in found.items()}
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, OSError) as error:
        raise Untrusted("%s holds no golden vectors: %s" % (where, error)) from error


def _held(arrays: Mapping[str, Array]) -> Vectors:
    return Vectors(arrays["rows"], arrays.get("noise"), arrays["wanted"], arrays["slack"])
