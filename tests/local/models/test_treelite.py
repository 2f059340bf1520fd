"""Ensembles that treelite holds, against treelite's own predictor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import treelite
from model_judging import differences, library
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.frontends import Request, read
from gha_apptainer.models.ir.graphs import Graph

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def test_ensembles_of_every_kind(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1500, 4))
    gaps = x.copy()
    gaps[::9, 2] = np.nan
    two, three = (x[:, 0] > 0).astype(int), (x[:, 0] > 0) * 1 + (x[:, 1] > 0)
    models = [
        GradientBoostingClassifier(n_estimators=8, max_depth=4).fit(x, two),
        GradientBoostingClassifier(n_estimators=5, max_depth=3).fit(x, three),
        RandomForestClassifier(9, max_depth=12, random_state=0).fit(x, three),
        HistGradientBoostingRegressor(max_iter=9).fit(gaps, x[:, 0]),
    ]
    graphs: list[Graph] = []
    held: list[Any] = []
    for at, model in enumerate(models):
        held.append(treelite.sklearn.import_model(model))
        path = tmp_path / ("m%d.treelite" % at)
        held[-1].serialize(str(path))
        graphs += read(Request(path, "m%d" % at))[0]
    made = library(graphs, tmp_path)
    rows = x[:300].astype(np.float32)
    rows[5, 2] = np.nan
    for graph, one in zip(graphs, held, strict=True):
        wanted = treelite.gtil.predict(one, rows)
        assert differences(graph, wanted, rows, made[graph.name], slack=1e-6) == "", graph.name


def booster(**learner: Any) -> dict[str, Any]:
    """A small XGBoost model as its JSON files have it: one split `x1 < 0.5`, missing numbers to the right."""
    tree = {
        "base_weights": [0.0, -1.0, 2.0],
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [0, 0, 0],
        "id": 0,
        "left_children": [1, -1, -1],
        "loss_changes": [1.0, 0.0, 0.0],
        "parents": [2147483647, 0, 0],
        "right_children": [2, -1, -1],
        "split_conditions": [0.5, -1.0, 2.0],
        "split_indices": [1, 0, 0],
        "split_type": [0, 0, 0],
        "sum_hessian": [2.0, 1.0, 1.0],
        "tree_param": {"num_deleted": "0", "num_feature": "2", "num_nodes": "3", "size_leaf_vector": "1"},
    }
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": "1"},
        "iteration_indptr": [0, 1],
        "tree_info": [0],
        "trees": [tree],
    }
    held = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {"base_score": "0.5", "boost_from_average": "1", "num_class": "0", "num_feature": "2", "num_target": "1"},
        "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
        **learner,
    }
    return {"learner": held, "version": [2, 1, 0]}


def test_an_xgboost_file_decides_by_less_than(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(booster()))
    (graph,) = read(Request(path, "m"))[0]
    half = np.float32(0.5)
    rows = np.array([[0, one] for one in (0.0, half, np.nextafter(half, half - 1), np.nan, np.inf)], np.float32)
    got = library([graph], tmp_path)["m"](rows)[:, 0]
    low, high = (1 / (1 + np.exp(-one)) for one in (-1.0, 2.0))
    assert np.allclose(got, [low, high, low, high, high], rtol=1e-6)


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(booster(objective={"name": "rank:nothing"})))
    with pytest.raises(InputError, match="cannot be read by treelite"):
        read(Request(path, "m"))
    path.write_text("{}")
    with pytest.raises(InputError, match="cannot be read by treelite"):
        read(Request(path, "m"))
