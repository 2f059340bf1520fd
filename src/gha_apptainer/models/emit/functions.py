"""A graph as two C functions: one row, and a block of rows.

In the row function a value is an array of floats, filled up with zeros to whole panels; in the block function it is NV vectors of rows for
each column. Values that the graph keeps as doubles are arrays of doubles of the same order. Values live in slots on the stack that are
used again when nobody needs the value any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gha_apptainer.models.emit import activations, trees
from gha_apptainer.models.emit.kernels import BLOCK, Kernels, is_narrow
from gha_apptainer.models.emit.tables import PANEL, Tables, literal, padded, panels, round_up
from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.graphs import INPUT, NOISE, Graph, Node
from gha_apptainer.models.ir.interpret import rounds


@dataclass(frozen=True)
class _Step:
    """Nodes that are computed together: one, or a product and what follows it."""

    nodes: tuple[Any, ...]

    @property
    def result(self) -> str:
        return str(self.nodes[-1].name)

    def inputs(self) -> list[str]:
        made = {one.name for one in self.nodes}
        return [name for one in self.nodes for name in one.inputs if name not in made]


@dataclass(frozen=True)
class _Round:
    """A float64 value as float32."""

    op: ClassVar[str] = "round"


def _lowered(graph: Graph) -> tuple[list[Any], str]:
    """The nodes with a rounding wherever an operation of float32 takes a float64 value; and the name of the result as float32."""
    found: list[Any] = []
    made: set[str] = set()

    def single(name: str) -> str:
        if name not in graph.doubles:
            return name
        if name not in made:
            made.add(name)
            found.append(_Rounding(name + "/float", _Round(), (name,)))
        return name + "/float"

    for node in graph.nodes:
        inputs = tuple(single(one) for one in node.inputs) if rounds(node.op) else node.inputs
        found.append(Node(node.name, node.op, inputs))
    return found, single(graph.result)


@dataclass(frozen=True)
class _Rounding:
    name: str
    op: _Round
    inputs: tuple[str, ...]


def _steps(nodes: Sequence[Any], result: str) -> list[_Step]:
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    found: dict[str, _Step] = {}
    taken: dict[str, str] = {}  # node: the product that it follows
    for node in nodes:
        if node.name in taken:
            continue
        chain = [node]
        added = False
        while isinstance(node.op, ops.Affine):
            last = chain[-1]
            after = users.get(last.name, [])
            if len(after) != 1 or last.name == result:
                break
            follow = after[0]
            if isinstance(follow.op, ops.Combine) and follow.op.kind == "add" and not added and follow.inputs[0] != follow.inputs[1]:
                added = True
            elif not isinstance(follow.op, ops.Activation):
                break
            chain.append(follow)
            taken[follow.name] = node.name
        found[chain[-1].name] = _Step(tuple(chain))
    return [found[node.name] for node in nodes if node.name in found]


class Emitter:
    """Writes the functions of one program; tables and kernels are shared by them."""

    def __init__(self, prefix: str) -> None:
        self.tables = Tables(prefix)
        self.kernels = Kernels()
        self._trees: dict[tuple[int, bool], str] = {}
        self.tree_text: list[str] = []

    def function(self, graph: Graph, *, batch: bool) -> str:
        """`F(row_NAME)(out, in, noise)` or `F(block_NAME)(out, in, noise, n)`."""
        return _Writer(self, graph, batch).text()

    def trees(self, op: ops.Trees, *, double: bool) -> str:
        """The function of an ensemble, written once."""
        key = (id(op), double)
        if key not in self._trees:
            self._trees[key] = name = "trees_%d" % len(self._trees)
            self.tree_text.append(trees.function(op, name, self.tables, double=double))
        return self._trees[key]


def has_products(graph: Graph) -> bool:
    """Whether computing rows together is worth turning them into lanes."""
    return any(isinstance(node.op, ops.Affine) for node in graph.nodes)


def _up(width: int, to: int) -> int:
    return -(-width // to) * to


class _Writer:
    """One function."""

    def __init__(self, emitter: Emitter, graph: Graph, batch: bool) -> None:
        self._emitter, self._graph, self._batch = emitter, graph, batch
        self._tables, self._kernels = emitter.tables, emitter.kernels
        self._slots: list[int] = []
        self._free: list[int] = []
        self._place: dict[str, int] = {}
        self._lines: list[str] = []
        self._nodes, self._result = _lowered(graph)
        self._widths = {**graph.widths, **{name + "/float": width for name, width in graph.widths.items()}}

    def text(self) -> str:
        graph = self._graph
        steps = _steps(self._nodes, self._result)
        last = {name: at for at, step in enumerate(steps) for name in step.inputs()}
        last[self._result] = len(steps)
        for name, source in ((INPUT, "in"), (NOISE, "noise")):
            if name in last:
                self._take(name)
                self._load(name, source)
        for at, step in enumerate(steps):
            self._take(step.result)
            self._step(step)
            for name in dict.fromkeys((*step.inputs(), step.result)):  # a set would have another order each time
                if last.get(name, -1) <= at:
                    self._free.append(self._place.pop(name))
        self._store()
        kind, extra = ("block", ", int n") if self._batch else ("row", "")
        slots = "".join("  float b%d[%s] ALIGNED;\n" % (at, self._count(size)) for at, size in enumerate(self._slots))
        head = "NOINL void F(%s_%s)(float *out, const float *in, const float *noise%s) {\n  (void)noise;\n" % (kind, graph.name, extra)
        return head + slots + "\n".join("  " + one for one in self._lines) + "\n}\n"

    # places

    def _size(self, width: int) -> int:
        return _up(width, BLOCK if self._batch else PANEL)

    def _count(self, size: int) -> str:
        return "%d * EB" % size if self._batch else str(size)

    def _take(self, name: str) -> None:
        size = self._size(self._width(name)) * (2 if self._is_double(name) else 1)
        fitting = [one for one in self._free if self._slots[one] >= size]
        if fitting:
            slot = min(fitting, key=lambda one: self._slots[one])
            self._free.remove(slot)
        elif self._free:
            slot = max(self._free, key=lambda one: self._slots[one])
            self._free.remove(slot)
            self._slots[slot] = size
        else:
            slot = len(self._slots)
            self._slots.append(size)
        self._place[name] = slot

    def _at(self, name: str) -> str:
        return "b%d" % self._place[name]

    def _width(self, name: str) -> int:
        return self._widths[name]

    def _is_double(self, name: str) -> bool:
        return name in self._graph.doubles

    def _array(self, name: str) -> str:
        """The value as an array of its type."""
        return "((double *)%s)" % self._at(name) if self._is_double(name) else self._at(name)

    def _say(self, line: str) -> None:
        self._lines.append(line)

    def _zero_rest(self, name: str) -> None:
        width = self._width(name)
        if not self._batch and width % PANEL and not self._is_double(name):
            self._say("for (int k = %d; k < %d; k++) %s[k] = 0.0f;" % (width, _up(width, PANEL), self._at(name)))

    # rows in and out

    def _load(self, name: str, source: str) -> None:
        width = self._width(name)
        if self._batch:
            self._say(
                "for (int e = 0; e < EB; e++) { const float *p = %s + (long)(e < n ? e : n - 1) * %d; "
                "for (int k = 0; k < %d; k++) %s[k * EB + e] = p[k]; }" % (source, width, width, self._at(name))
            )
        else:
            self._say("for (int k = 0; k < %d; k++) %s[k] = %s[k];" % (width, self._at(name), source))
            self._zero_rest(name)

    def _store(self) -> None:
        name = self._result
        width, place = self._width(name), self._at(name)
        vectors = "%d * NV" % width if self._batch else "%d / VL" % _up(width, PANEL)
        self._say("for (int i = 0; i < %s; i++) ((vf *)%s)[i] = v_canonical(((vf *)%s)[i]);" % (vectors, place, place))
        if self._batch:
            self._say("for (int e = 0; e < n; e++) for (int k = 0; k < %d; k++) out[e * %d + k] = %s[k * EB + e];" % (width, width, place))
        else:
            self._say("for (int k = 0; k < %d; k++) out[k] = %s[k];" % (width, place))

    # operations

    def _step(self, step: _Step) -> None:
        node = step.nodes[0]
        if isinstance(node.op, ops.Affine):
            self._affine(step, node.op)
        else:
            taken = [self._array(one) for one in node.inputs]
            getattr(self, "_" + node.op.op)(node.op, node, self._array(node.name), taken)

    def _affine(self, step: _Step, op: ops.Affine) -> None:
        inputs, outputs = op.weight.shape
        epilogue, other = [], "0"
        made = {one.name for one in step.nodes}
        for node in step.nodes[1:]:
            if isinstance(node.op, ops.Activation):
                epilogue.append(activations.expression(node.op))
            else:
                epilogue.append("add")
                other = "(const vf *)%s" % self._at(next(one for one in node.inputs if one not in made))
        narrow = is_narrow(outputs)
        kernel = self._kernels.name(batch=self._batch, narrow=narrow, epilogue=epilogue)
        computed = outputs if narrow and self._batch else self._size(outputs)
        self._say(
            "%s((vf *)%s, (const vf *)%s, %s, %s, %d, %d, %s);"
            % (
                kernel,
                self._at(step.result),
                self._at(step.nodes[0].inputs[0]),
                self._tables.add(panels(op.weight)),
                self._tables.add(padded(op.bias)),
                inputs,
                computed,
                other,
            )
        )

    def _vectors(self, name: str, out: str, body: str) -> None:
        """A loop over vectors; `body` is an expression over the vector number `i`."""
        width = self._width(name)
        count = "%d * NV" % width if self._batch else "%d / VL" % _up(width, PANEL)
        self._say("for (int i = 0; i < %s; i++) ((vf *)%s)[i] = %s;" % (count, out, body))

    def _elements(self, name: str, out: str, body: str) -> None:
        """A loop over single numbers; `body` is an expression over the column `k` and the place `i`."""
        width = self._width(name)
        if self._batch:
            self._say("for (int k = 0; k < %d; k++) for (int i = k * EB; i < k * EB + EB; i++) %s[i] = %s;" % (width, out, body))
        else:
            self._say("for (int k = 0; k < %d; k++) { const int i = k; %s[i] = %s; }" % (width, out, body))
            self._zero_rest(name)

    def _activation(self, op: ops.Activation, node: Node, out: str, taken: Sequence[str]) -> None:
        width = self._width(node.name)
        count = "%d * NV" % width if self._batch else "%d / VL" % _up(width, PANEL)
        self._say(
            "for (int i = 0; i < %s; i++) { const vf x = ((const vf *)%s)[i]; ((vf *)%s)[i] = %s; }"
            % (count, taken[0], out, activations.expression(op))
        )

    def _prelu(self, op: ops.PRelu, node: Node, out: str, taken: Sequence[str]) -> None:
        table = self._tables.add(padded(op.alpha))
        alpha = "v_of(%s[i / NV])" % table if self._batch else "((const vf *)%s)[i]" % table
        x = "((const vf *)%s)[i]" % taken[0]
        self._vectors(node.name, out, "v_sel(%s < v_of(0.0f), %s * %s, %s)" % (x, alpha, x, x))

    def _combine(self, op: ops.Combine, node: Node, out: str, taken: Sequence[str]) -> None:
        a, b = ("((const vf *)%s)[i]" % one for one in taken)
        if op.kind == "divide":  # not where the filling would divide by zero
            self._elements(node.name, out, "%s[i] / %s[i]" % (taken[0], taken[1]))
        elif op.kind in ("maximum", "minimum"):
            self._vectors(node.name, out, "v_%s(%s, %s)" % (op.kind, a, b))
        else:
            self._vectors(node.name, out, "%s %s %s" % (a, {"add": "+", "subtract": "-", "multiply": "*"}[op.kind], b))

    def _round(self, _: _Round, node: Node, out: str, taken: Sequence[str]) -> None:
        self._elements(node.name, out, "(float)%s[i]" % taken[0])

    def _concat(self, _: ops.Concat, node: Node, out: str, taken: Sequence[str]) -> None:
        at = 0
        for name, place in zip(node.inputs, taken, strict=True):
            width = self._width(name)
            unit = " * EB" if self._batch else ""
            self._say("for (int k = 0; k < %d%s; k++) %s[%d%s + k] = %s[k];" % (width, unit, out, at, unit, place))
            at += width
        self._zero_rest(node.name)

    def _gather(self, op: ops.Gather, node: Node, out: str, taken: Sequence[str]) -> None:
        table = self._tables.add(np.array(op.columns, np.uint16))
        place = "%s[k] * EB + i %% EB" % table if self._batch else "%s[k]" % table
        self._elements(node.name, out, "%s[%s]" % (taken[0], place))

    def _constant(self, op: ops.Constant, node: Node, out: str, _: Sequence[str]) -> None:
        table = self._tables.add(padded(op.values))
        self._vectors(node.name, out, "v_of(%s[i / NV])" % table if self._batch else "((const vf *)%s)[i]" % table)

    def _softmax(self, op: ops.Softmax, node: Node, out: str, taken: Sequence[str]) -> None:
        width, x = self._width(node.name), taken[0]
        if self._batch:
            self._say("for (int q = 0; q < NV; q++) {")
            self._say("  const vf *x = (const vf *)%s + q; vf *y = (vf *)%s + q, m = x[0], s = v_of(0.0f);" % (x, out))
            self._say("  for (int k = 1; k < %d; k++) m = v_sel(x[k * NV] > m, x[k * NV], m);" % width)
            self._say("  for (int k = 0; k < %d; k++) { y[k * NV] = v_exp(x[k * NV] - m); s += y[k * NV]; }" % width)
            if op.log:
                self._say("  s = v_log(s); for (int k = 0; k < %d; k++) y[k * NV] = (x[k * NV] - m) - s;" % width)
            else:
                self._say("  for (int k = 0; k < %d; k++) y[k * NV] = y[k * NV] / s;" % width)
        else:
            self._say("{ float m = %s[0], s = 0.0f;" % x)
            self._say("  for (int k = 1; k < %d; k++) m = %s[k] > m ? %s[k] : m;" % (width, x, x))
            pad = _up(width, PANEL)
            self._say("  for (int i = 0; i < %d / VL; i++) ((vf *)%s)[i] = v_exp(((const vf *)%s)[i] - v_of(m));" % (pad, out, x))
            self._say("  for (int k = 0; k < %d; k++) s += %s[k];" % (width, out))
            if op.log:
                self._say("  s = v_log(v_of(s))[0]; for (int k = 0; k < %d; k++) %s[k] = (%s[k] - m) - s;" % (width, out, x))
            else:
                self._say("  for (int k = 0; k < %d; k++) %s[k] = %s[k] / s;" % (width, out, out))
            self._zero_rest(node.name)
        self._say("}")

    def _scale(self, op: ops.Scale, node: Node, out: str, taken: Sequence[str]) -> None:
        tables = [self._tables.add(one) for one in (op.center, op.factor, op.divisor, op.offset, op.low, op.high)]
        self._elements(node.name, out, "one_scale(%s[i], %s)" % (taken[0], ", ".join("%s[k]" % one for one in tables)))

    def _power(self, op: ops.Power, node: Node, out: str, taken: Sequence[str]) -> None:
        table = self._tables.add(op.lambdas)
        name = "one_%s%s" % (op.method.replace("-", "_"), "_inverse" if op.inverse else "")
        self._elements(node.name, out, "%s(%s[i], %s[k])" % (name, taken[0], table))

    def _map(self, op: ops.Map, node: Node, out: str, taken: Sequence[str]) -> None:
        self._elements(node.name, out, _MAPS[op.kind].format(x="(double)%s[i]" % taken[0], p=literal(np.float64(op.parameter))))

    def _select(self, op: ops.Select, node: Node, out: str, taken: Sequence[str]) -> None:
        sign = {"less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "=="}[op.comparison]
        seen = "%s[i %% EB]" % taken[0] if self._batch else "%s[0]" % taken[0]
        self._elements(node.name, out, "%s %s %s ? %s[i] : %s[i]" % (seen, sign, literal(np.float64(op.limit)), taken[1], taken[2]))

    def _quantile(self, op: ops.Quantile, node: Node, out: str, taken: Sequence[str]) -> None:
        columns = np.ascontiguousarray(op.quantiles.T)
        table, level, levels = self._tables.add(columns), self._tables.add(op.references), len(op.references)
        given = (table, level, levels, int(op.normal))
        kind = "double" if self._is_double(node.inputs[0]) else "float"
        if op.inverse:
            call = "F(quantile_inverse_%s)(%%s, %%s, %%s, %s, %s, %d, %d);" % (kind, *given)
        else:
            same = np.diff(columns, axis=1) == 0
            begins = np.arange(levels) * np.ones((len(columns), 1), np.int64)
            begins[:, 1:][same] = 0
            tied = self._tables.add(np.maximum.accumulate(begins, axis=1).astype(np.uint16)) if same.any() else "0"
            key = table if kind == "double" else self._tables.add(round_up(columns))
            call = "F(quantile_%s)(%%s, %%s, %%s, %s, %s, %s, %s, %d, %d);" % (kind, key, table, level, tied, levels, int(op.normal))
        if self._batch:
            places = ("%s + k * EB" % out, "%s + k * EB" % taken[0], "EB, k, 0")
            self._say("for (int k = 0; k < %d; k++) %s" % (len(columns), call % places))
        else:
            self._say(call % (out, taken[0], "%d, 0, 1" % len(columns)))
            self._zero_rest(node.name)

    def _trees(self, op: ops.Trees, node: Node, out: str, taken: Sequence[str]) -> None:
        double = self._is_double(node.inputs[0])
        name = self._emitter.trees(op, double=double)
        if not self._batch:
            self._say("F(%s)(%s, %s);" % (name, out, taken[0]))
            return
        width = self._width(node.name)
        kind = "double" if double else "float"
        self._say("for (int e = 0; e < EB; e++) { %s x[%d]; double y[%d];" % (kind, op.features, width))
        self._say("  for (int k = 0; k < %d; k++) x[k] = %s[k * EB + e];" % (op.features, taken[0]))
        self._say("  F(%s)(y, x);" % name)
        self._say("  for (int k = 0; k < %d; k++) %s[k * EB + e] = y[k]; }" % (width, out))


_MAPS = {
    "log": "d_log({x})",
    "log10": "d_log({x}) * 0x1.bcb7b1526e50ep-2",
    "log2": "d_log({x}) * 0x1.71547652b82fep+0",
    "log1p": "d_log1p({x})",
    "exp": "d_exp({x})",
    "expm1": "d_expm1({x})",
    "sqrt": "__builtin_sqrt({x})",
    "cbrt": "d_cbrt({x})",
    "square": "({x}) * ({x})",
    "reciprocal": "1.0 / ({x})",
    "abs": "__builtin_fabs({x})",
    "negative": "-({x})",
    "power": "d_power({x}, {p})",
    "tanh": "d_tanh({x})",
    "arctanh": "0.5 * (d_log1p({x}) - d_log1p(-({x})))",
}
