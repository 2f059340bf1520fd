"""Scales behind matrix products become part of them, where a network means them as one: batch normalisation."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.graphs import Graph, Node


def fold(graph: Graph, scales: Collection[str]) -> Graph:
    """The graph with those of the named scales folded that directly follow a product which nothing else uses."""
    uses: dict[str, int] = {graph.result: 1}
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1
    made = {node.name: node for node in graph.nodes}
    folded: dict[str, Node] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        before = made.get(node.inputs[0]) if node.inputs else None
        if node.name not in scales or not isinstance(node.op, ops.Scale) or before is None or uses[before.name] != 1:
            continue
        if not isinstance(before.op, ops.Affine) or np.any(np.isfinite(node.op.low)) or np.any(np.isfinite(node.op.high)):
            continue
        factor = node.op.factor / node.op.divisor
        weight = before.op.weight.astype(np.float64) * factor
        bias = (before.op.bias.astype(np.float64) - node.op.center) * factor + node.op.offset
        folded[node.name] = Node(node.name, ops.Affine(weight.astype(np.float32), bias.astype(np.float32)), before.inputs)
        dropped.add(before.name)
    nodes = tuple(folded.get(node.name, node) for node in graph.nodes if node.name not in dropped)
    return Graph(graph.name, graph.inputs, graph.noise, nodes, graph.result, graph.outputs)
