"""A program as text that people read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from gha_apptainer.models.ir.graphs import Graph, Program
from gha_apptainer.models.ir.ops import Affine, Op, Trees
from gha_apptainer.models.ir.saving import content_hash


def lines(program: Program) -> Iterator[str]:
    """One line for each node, with its width and what it costs."""
    yield "model %s, content %s" % (program.name, content_hash(program))
    for name, digest, reader in program.sources:
        yield "  read from %s by %s, sha256 %s" % (name, reader, digest)
    for graph in program.functions:
        yield from _graph(graph)


def _graph(graph: Graph) -> Iterator[str]:
    yield ""
    yield "function %s: %d inputs%s -> %d outputs, %d numbers, %.1f kFLOP a row" % (
        graph.name,
        len(graph.inputs),
        ", %d noise" % graph.noise if graph.noise else "",
        len(graph.outputs),
        sum(_numbers(node.op) for node in graph.nodes),
        flops(graph) / 1e3,
    )
    yield "  inputs: %s" % ", ".join(graph.inputs)
    for node in graph.nodes:
        taken = ", ".join(node.inputs)
        yield "  %-28s = %s(%s)%s  [%d]" % (node.name, node.op.op, taken, _settings(node.op), graph.widths[node.name])
    yield "  outputs: %s = %s" % (", ".join(graph.outputs), graph.result)


def flops(graph: Graph) -> int:
    """Multiplications and additions of the matrix products of one row."""
    return sum(2 * node.op.weight.size for node in graph.nodes if isinstance(node.op, Affine))


def _numbers(op: Op) -> int:
    return sum(value.size for value in vars(op).values() if isinstance(value, np.ndarray))


def _settings(op: Op) -> str:
    found = []
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        if isinstance(value, np.ndarray):
            found.append("%s %s" % (field.name, "x".join(str(one) for one in value.shape)))
        else:
            text = str(value)
            found.append("%s=%s" % (field.name, text if len(text) < 60 else text[:57] + "..."))
    if isinstance(op, Trees):
        found.append("%d trees" % len(op.roots))
    return " {%s}" % ", ".join(found) if found else ""
