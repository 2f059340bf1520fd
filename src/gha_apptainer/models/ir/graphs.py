"""Graphs of operations, and programs: what one library holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.ir.ops import DOUBLE, EXACT_MAPS, KEEPING, Constant, Map, Op, Quantile, Scale, Select

MAX_WIDTH = 8192
"""The widest value; the emitted code keeps values on the stack."""
_C_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_C_WORDS = frozenset(
    [
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "register",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
        "volatile",
        "while",
        "main",
        "asm",
        "typeof",
    ]
)


def c_name(text: str) -> str:
    """The text if it can name a C function, else InputError."""
    if not _C_NAME.fullmatch(text) or text in _C_WORDS or text.startswith(("gha_", "__")):
        raise InputError("%r cannot name a C function" % text, remedy="letters, digits and _, no C keyword, not starting with gha_")
    return text


@dataclass(frozen=True)
class Node:
    """One operation, its name, and the names of the values that it takes."""

    name: str
    op: Op
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """A function of one row: `inputs` columns, `noise` standard normal numbers, in; the columns of the value `result`, out.

    The value named `INPUT` is the row, `NOISE` the noise. Nodes stand in the order in which they can be computed.
    """

    name: str
    inputs: tuple[str, ...]
    noise: int
    nodes: tuple[Node, ...]
    result: str
    outputs: tuple[str, ...]
    widths: dict[str, int] = field(init=False, compare=False, repr=False)
    doubles: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        c_name(self.name)
        widths = {INPUT: len(self.inputs)}
        if not self.inputs:
            raise InputError("%s: a function has at least one input" % self.name)
        if self.noise:
            widths[NOISE] = self.noise
        for node in self.nodes:
            if node.name in widths or not node.name:
                raise InputError("%s: two values are named %r" % (self.name, node.name))
            missing = [one for one in node.inputs if one not in widths]
            if missing:
                raise InputError("%s: node %r takes %r, which is not computed before it" % (self.name, node.name, missing[0]))
            try:
                width = node.op.width([widths[one] for one in node.inputs])
            except InputError as error:
                raise InputError("%s: node %r: %s" % (self.name, node.name, error.what), remedy=error.remedy) from error
            widths[node.name] = width
        too_wide = [name for name, width in widths.items() if width > MAX_WIDTH]
        if too_wide:
            raise InputError("%s: value %r has more than %d columns" % (self.name, too_wide[0], MAX_WIDTH))
        if self.result not in widths:
            raise InputError("%s: there is no value %r" % (self.name, self.result))
        if len(self.outputs) != widths[self.result]:
            raise InputError("%s: %d output names for %d outputs" % (self.name, len(self.outputs), widths[self.result]))
        for kind, names in (("input", self.inputs), ("output", self.outputs)):
            if len(set(names)) != len(names):
                raise InputError("%s: two %ss have one name" % (self.name, kind))
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "doubles", frozenset(_doubles(self.nodes)))
        _check_ties(self)


def _doubles(nodes: Sequence[Node]) -> set[str]:
    """The values that are float64."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node.op, DOUBLE) or (isinstance(node.op, KEEPING) and found.intersection(_moved(node))):
            found.add(node.name)
    return found


def _moved(node: Node) -> tuple[str, ...]:
    return node.inputs[1:] if isinstance(node.op, Select) else node.inputs


def _check_ties(graph: Graph) -> None:
    """Equal quantiles are met only by equal numbers: behind a function that is not exact to the last bit nobody can promise that."""
    vague: set[str] = set()
    for node in graph.nodes:
        behind = bool(vague.intersection(node.inputs))
        if isinstance(node.op, Quantile):
            if behind and not node.op.inverse and np.any(np.diff(node.op.quantiles, axis=0) == 0):
                raise InputError(
                    "%s: node %r: a quantile transform with equal quantiles stands behind a function that is not exact"
                    % (graph.name, node.name),
                    cause="a discrete column is transformed by a power, a logarithm or the like first, and the last bit then decides",
                    remedy="let the quantile transform have the discrete column as it is",
                )
            behind = True
        elif isinstance(node.op, KEEPING):
            pass
        elif isinstance(node.op, Map):
            behind = behind or node.op.kind not in EXACT_MAPS
        elif not isinstance(node.op, Scale | Constant):
            behind = True
        if behind:
            vague.add(node.name)


INPUT = "input"
NOISE = "noise"


@dataclass(frozen=True)
class Program:
    """What one library holds: functions, and what is told about them. `sources` are name, SHA-256 and reader of each file read."""

    name: str
    functions: tuple[Graph, ...]
    sources: tuple[tuple[str, str, str], ...] = ()

    def __post_init__(self) -> None:
        c_name(self.name)
        if not self.functions:
            raise InputError("%s: a library without functions" % self.name)
        names = [one.name for one in self.functions]
        if len(set(names)) != len(names):
            raise InputError("%s: two functions have one name" % self.name)

    def function(self, name: str) -> Graph:
        """The function of that name."""
        for one in self.functions:
            if one.name == name:
                return one
        raise InputError("%s has no function %r; there are: %s" % (self.name, name, ", ".join(one.name for one in self.functions)))


def numbered(prefix: str, count: int) -> tuple[str, ...]:
    """Names for columns that have none."""
    return tuple("%s%d" % (prefix, at) for at in range(count))


def used(graph: Graph) -> Graph:
    """The graph without the nodes that its result does not need."""
    wanted = {graph.result}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return Graph(graph.name, graph.inputs, graph.noise, tuple(reversed(kept)), graph.result, graph.outputs)


class Builder:
    """Collects nodes under fresh names, for front ends."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._taken = {INPUT, NOISE}

    def add(self, name: str, op: Op, inputs: Sequence[str]) -> str:
        """Append a node and give the name of its value; a name that is taken gets a number."""
        fresh, at = name, 1
        while fresh in self._taken:
            at += 1
            fresh = "%s.%d" % (name, at)
        self._taken.add(fresh)
        self.nodes.append(Node(fresh, op, tuple(inputs)))
        return fresh

    def graph(self, name: str, inputs: Sequence[str], noise: int, result: str, outputs: Sequence[str]) -> Graph:
        """The graph of all nodes that the result needs."""
        return used(Graph(name, tuple(inputs), noise, tuple(self.nodes), result, tuple(outputs)))

    def inline(self, graph: Graph, row: str, noise: str, prefix: str) -> str:
        """Append another graph's nodes, with `row` and `noise` in the place of its inputs; the name of its result."""
        names = {INPUT: row, NOISE: noise}
        for node in graph.nodes:
            names[node.name] = self.add("%s%s" % (prefix, node.name), node.op, [names[one] for one in node.inputs])
        return names[graph.result]
