"""Trained models: trees and ensembles of them, perceptrons, linear models. A classifier gives what its predict_proba gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gha_apptainer.models.frontends.scales import scale
from gha_apptainer.models.frontends.sklearn_reading import Reading
from gha_apptainer.models.frontends.tree_tables import Forest
from gha_apptainer.models.ir import ops

_GROWING = (
    "criterion splitter max_depth min_samples_split min_samples_leaf min_weight_fraction_leaf max_features max_leaf_nodes"
    " min_impurity_decrease class_weight ccp_alpha monotonic_cst n_estimators bootstrap oob_score warm_start max_samples"
)
"""Parameters that steered the growth of trees and mean nothing afterwards."""


def _tree(forest: Forest, tree: Any, leaves: Any, target: int) -> None:
    """One of sklearn's own trees; they look at float32 rows."""
    missing = getattr(tree, "missing_go_to_left", None)
    right = np.zeros(tree.node_count, np.int32) if missing is None else 1 - np.asarray(missing, np.int32)
    forest.add(tree.children_left, tree.children_right, tree.feature, tree.threshold, right, leaves, target)


def _forest(*, classifier: bool) -> Callable[[Reading, Any, str], str]:
    def rule(reading: Reading, model: Any, value: str) -> str:
        reading.options(model, "", _GROWING)
        trees = [one.tree_ for one in getattr(model, "estimators_", [model])]
        if int(model.n_outputs_) != 1:
            reading.refuse("has more than one output")
        wide = len(model.classes_) if classifier else 1
        forest = Forest(reading.widths[value], wide)
        for tree in trees:
            leaves = np.asarray(tree.value, np.float64)[:, 0, :]
            _tree(forest, tree, leaves / leaves.sum(axis=1, keepdims=True) if classifier else leaves, 0)
        return reading.add("trees", forest.op(np.zeros(wide), len(trees)), [value])

    return rule


def _boosting(*, classifier: bool) -> Callable[[Reading, Any, str], str]:
    def rule(reading: Reading, model: Any, value: str) -> str:
        told = reading.options(model, "loss init learning_rate", _GROWING + " subsample alpha validation_fraction n_iter_no_change tol")
        if told["init"] not in (None, "zero"):
            reading.refuse("starts from another model")
        estimators = np.asarray(model.estimators_)
        count = estimators.shape[1]
        forest = Forest(reading.widths[value], 1)
        for stage in estimators:
            for target, one in enumerate(stage):
                _tree(forest, one.tree_, float(told["learning_rate"]) * np.asarray(one.tree_.value, np.float64)[:, 0, :], target)
        start = model._raw_predict_init(np.zeros((1, reading.widths[value])))  # noqa: SLF001  # the prior stands nowhere else
        raw = reading.add("trees", forest.op(np.asarray(start, np.float64).reshape(-1), 1.0), [value])
        if not classifier:
            return raw
        if count == 1:
            return _two_classes(reading, raw, 2.0 if told["loss"] == "exponential" else 1.0)
        return reading.add("probabilities", ops.Softmax(log=False), [raw])

    return rule


def _two_classes(reading: Reading, raw: str, factor: float = 1.0) -> str:
    """Probabilities of both classes from the logit of the second."""
    both = reading.add("both", ops.Gather((0, 0)), [raw])
    signed = reading.add("signed", scale(2, factor=[-factor, factor]), [both])
    return reading.add("probabilities", ops.Activation("sigmoid", ()), [signed])


def _histogram(*, classifier: bool) -> Callable[[Reading, Any, str], str]:
    def rule(reading: Reading, model: Any, value: str) -> str:
        told = reading.options(
            model,
            "loss",
            "learning_rate max_iter max_leaf_nodes max_depth min_samples_leaf l2_regularization max_features max_bins"
            " categorical_features monotonic_cst interaction_cst warm_start early_stopping scoring validation_fraction"
            " n_iter_no_change tol class_weight quantile",
        )
        stages = model._predictors  # noqa: SLF001  # histogram boosting shows its trees nowhere else
        start = np.asarray(model._baseline_prediction, np.float64).reshape(-1)  # noqa: SLF001
        if getattr(model, "_preprocessor", None) is not None:
            reading.refuse("has categorical features")
        forest = Forest(reading.widths[value], 1)
        for stage in stages:
            for target, one in enumerate(stage):
                nodes = one.nodes
                if np.any(nodes["is_categorical"]):
                    reading.refuse("has categorical features")
                leaf = nodes["is_leaf"].astype(bool)
                left, right = (np.where(leaf, -1, nodes[side].astype(np.int64)) for side in ("left", "right"))
                missing = 1 - nodes["missing_go_to_left"].astype(np.int32)
                forest.add(left, right, nodes["feature_idx"], nodes["num_threshold"], missing, nodes["value"][:, None], target)
        raw = reading.add("trees", forest.op(start, 1.0, single=False), [value])
        if classifier:
            return _two_classes(reading, raw) if len(start) == 1 else reading.add("probabilities", ops.Softmax(log=False), [raw])
        if told["loss"] in ("poisson", "gamma"):
            return reading.add("exponential", ops.Map("exp", 0.0), [raw])
        if told["loss"] not in ("squared_error", "absolute_error", "quantile"):
            reading.refuse("has the option loss=%r" % told["loss"])
        return raw

    return rule


_HIDDEN: Mapping[str, tuple[str, tuple[float, ...]] | None] = {
    "identity": None,
    "logistic": ("sigmoid", ()),
    "tanh": ("tanh", ()),
    "relu": ("relu", (0.0, 0.0, float("inf"))),
}


def _perceptron(*, classifier: bool) -> Callable[[Reading, Any, str], str]:
    def rule(reading: Reading, model: Any, value: str) -> str:
        told = reading.options(
            model,
            "activation",
            "hidden_layer_sizes loss solver alpha batch_size learning_rate learning_rate_init power_t max_iter shuffle tol"
            " warm_start momentum nesterovs_momentum early_stopping validation_fraction beta_1 beta_2 epsilon n_iter_no_change max_fun",
        )
        if told["activation"] not in _HIDDEN:
            reading.refuse("has the option activation=%r" % told["activation"])
        weights = [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
        hidden = _HIDDEN[told["activation"]]
        for weight, bias in weights[:-1]:
            value = _product(reading, "layer", weight, bias, value)
            if hidden is not None:
                value = reading.add("activated", ops.Activation(*hidden), [value])
        return _output(reading, weights[-1][0], weights[-1][1], model.out_activation_, value, classifier=classifier)

    return rule


def _output(reading: Reading, weight: Any, bias: Any, activation: str, value: str, *, classifier: bool) -> str:
    if activation == "logistic" and classifier and weight.shape[1] == 1:  # both classes, each from its own sign
        weight, bias = np.concatenate([-weight, weight], axis=1), np.concatenate([-bias, bias])
    value = _product(reading, "output", weight, bias, value)
    if activation == "logistic":
        return reading.add("probabilities", ops.Activation("sigmoid", ()), [value])
    if activation == "softmax":
        return reading.add("probabilities", ops.Softmax(log=False), [value])
    if activation != "identity":
        reading.refuse("ends in %r" % activation)
    return value


def _product(reading: Reading, name: str, weight: Any, bias: Any, value: str) -> str:
    return reading.add(name, ops.Affine(weight.astype(np.float32), np.asarray(bias).astype(np.float32)), [value])


def _linear(reading: Reading, model: Any, value: str) -> str:
    reading.options(
        model,
        "",
        "fit_intercept positive alpha max_iter tol solver l1_ratio precompute warm_start selection copy_X",
    )
    weight = np.atleast_2d(np.asarray(model.coef_, np.float64)).T
    return _product(
        reading, "linear", weight, np.broadcast_to(np.asarray(model.intercept_, np.float64).reshape(-1), (weight.shape[1],)), value
    )


def _logistic(reading: Reading, model: Any, value: str) -> str:
    told = reading.options(
        model,
        "multi_class",
        "penalty dual tol C fit_intercept intercept_scaling class_weight solver max_iter warm_start l1_ratio",
    )
    if told["multi_class"] not in (None, "auto", "deprecated", "multinomial"):
        reading.refuse("has the option multi_class=%r" % told["multi_class"])
    weight, bias = np.asarray(model.coef_, np.float64).T, np.asarray(model.intercept_, np.float64)
    if told["multi_class"] == "multinomial" and len(model.classes_) == 2:
        reading.refuse("has the option multi_class='multinomial' for two classes")
    return _output(reading, weight, bias, "logistic" if len(model.classes_) == 2 else "softmax", value, classifier=True)


def _rows(names: Sequence[str], rule: Callable[[Reading, Any, str], str]) -> dict[str, Callable[[Reading, Any, str], str]]:
    return dict.fromkeys(("sklearn." + one for one in names), rule)


FORWARD: Mapping[str, Callable[[Reading, Any, str], str]] = {
    **_rows(("tree.DecisionTreeClassifier", "tree.ExtraTreeClassifier"), _forest(classifier=True)),
    **_rows(("ensemble.RandomForestClassifier", "ensemble.ExtraTreesClassifier"), _forest(classifier=True)),
    **_rows(("tree.DecisionTreeRegressor", "tree.ExtraTreeRegressor"), _forest(classifier=False)),
    **_rows(("ensemble.RandomForestRegressor", "ensemble.ExtraTreesRegressor"), _forest(classifier=False)),
    **_rows(("ensemble.GradientBoostingClassifier",), _boosting(classifier=True)),
    **_rows(("ensemble.GradientBoostingRegressor",), _boosting(classifier=False)),
    **_rows(("ensemble.HistGradientBoostingClassifier",), _histogram(classifier=True)),
    **_rows(("ensemble.HistGradientBoostingRegressor",), _histogram(classifier=False)),
    **_rows(("neural_network.MLPClassifier",), _perceptron(classifier=True)),
    **_rows(("neural_network.MLPRegressor",), _perceptron(classifier=False)),
    **_rows(("linear_model.LinearRegression", "linear_model.Ridge", "linear_model.Lasso", "linear_model.ElasticNet"), _linear),
    **_rows(("linear_model.LogisticRegression",), _logistic),
}
