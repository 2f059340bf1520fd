"""Ensembles of trees from other libraries, by treelite: XGBoost's `.json` and `.ubj`, treelite's own `.treelite`.

LightGBM's text files have no suffix of their own; treelite converts them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.extra import require
from gha_apptainer.models.frontends import Request
from gha_apptainer.models.frontends.scales import scale
from gha_apptainer.models.frontends.tree_tables import Forest
from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.graphs import INPUT, Builder, Graph, numbered


def read(request: Request) -> tuple[Graph, ...]:
    """The one function of an ensemble."""
    treelite = require("treelite")
    try:
        if request.path.suffix == ".treelite":
            model = treelite.Model.deserialize(str(request.path))
        else:
            model = treelite.frontend.load_xgboost_model(str(request.path))
        told = json.loads(model.dump_as_json(pretty_print=False))
    except treelite.TreeliteError as error:
        raise InputError("%s cannot be read by treelite: %s" % (request.path, str(error).splitlines()[0])) from error
    return (_graph(request, told),)


def _refuse(where: str, what: str) -> NoReturn:
    raise InputError("%s: %s, which is not understood" % (where, what))


def _graph(request: Request, told: Mapping[str, Any]) -> Graph:
    where, features = str(request.path), int(told["num_feature"])
    if told["num_target"] != 1:
        _refuse(where, "the ensemble has %d targets" % told["num_target"])
    outputs, wide = int(told["num_class"][0]), int(told["leaf_vector_shape"][1])
    forest = Forest(features, wide)
    for at, (tree, kind) in enumerate(zip(told["trees"], told["class_id"], strict=True)):
        if wide == 1 and kind < 0:
            _refuse(where, "tree %d belongs to every class and has one number in a leaf" % at)
        _tree(where, at, tree, forest, wide, 0 if wide > 1 else int(kind))
    base = np.zeros(outputs)
    base[:] = told["base_scores"]
    average = bool(told["average_tree_output"])
    if average and base.any():
        _refuse(where, "trees are averaged and a prior is added")
    divisor = len(told["trees"]) / (1 if wide > 1 else outputs) if average else 1.0
    builder = Builder()
    value = builder.add("trees", forest.op(base, divisor), [INPUT])
    value = _finish(where, told, builder, value, outputs)
    return builder.graph(request.name, numbered("x", features), 0, value, numbered("y", outputs))


def _finish(where: str, told: Mapping[str, Any], builder: Builder, value: str, outputs: int) -> str:
    kind = told["postprocessor"]
    if kind in ("identity", "identity_multiclass"):
        return value
    if kind in ("sigmoid", "multiclass_ova"):
        if told["sigmoid_alpha"] != 1.0:
            value = builder.add("scaled", scale(outputs, factor=float(told["sigmoid_alpha"])), [value])
        return builder.add("probabilities", ops.Activation("sigmoid", ()), [value])
    if kind == "softmax":
        return builder.add("probabilities", ops.Softmax(log=False), [value])
    if kind == "exponential":
        return builder.add("exponential", ops.Map("exp", 0.0), [value])
    return _refuse(where, "the outputs go through %r" % kind)


def _tree(where: str, at: int, tree: Mapping[str, Any], forest: Forest, wide: int, target: int) -> None:
    nodes = tree["nodes"]
    place = {node["node_id"]: row for row, node in enumerate(nodes)}
    count = len(nodes)
    left, right, feature = (np.full(count, -1, np.int64) for _ in range(3))
    threshold, missing, leaves = np.zeros(count), np.zeros(count, np.int64), np.zeros((count, wide))
    for row, node in enumerate(nodes):
        if "leaf_value" in node:
            leaves[row] = node["leaf_value"]
            continue
        if node["node_type"] != "numerical_test_node" or node["comparison_op"] not in ("<", "<="):
            _refuse(where, "node %d of tree %d decides by %s" % (node["node_id"], at, node.get("comparison_op") or node["node_type"]))
        left[row], right[row] = place[node["left_child"]], place[node["right_child"]]
        feature[row], missing[row] = node["split_feature_id"], not node["default_left"]
        limit = float(node["threshold"])
        threshold[row] = limit if node["comparison_op"] == "<=" else np.nextafter(limit, -np.inf)
    forest.add(left, right, feature, threshold, missing, leaves, target)
