"""sklearn's transformers and models, saved by skops, against sklearn itself; and the silent errors of other compilers, by number."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from model_judging import differences, library
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import (
    AdaBoostRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeRegressor

from gha_apptainer.domain.errors import InputError, Refused, Untrusted
from gha_apptainer.models.frontends import Request, read
from gha_apptainer.models.ir import interpret
from gha_apptainer.models.ir.graphs import Graph

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::UserWarning", "ignore::FutureWarning")


def data(seed: int = 0, count: int = 3000) -> Any:
    """Five columns: ordinary, skewed, discrete, flag, wide."""
    rng = np.random.default_rng(seed)
    columns = (
        rng.normal(size=count),
        rng.exponential(size=count),
        rng.poisson(3, count),
        rng.integers(0, 2, count),
        1000 + 50 * rng.normal(size=count),
    )
    return np.stack(columns, axis=1).astype(np.float32).astype(np.float64)


def special(x: Any) -> Any:
    """Rows of the data, and such as lie outside, between, at the edges, and are not numbers."""
    found = np.concatenate(
        [x[:200], x[:60] + 0.5, x.min(axis=0)[None], x.max(axis=0)[None], 3 * x[:20], np.zeros((1, x.shape[1])), -x[:20]]
    )
    found[30, 1] = np.nan
    return found.astype(np.float32)


def skops_graphs(model: Any, place: Path, name: str) -> tuple[Graph, ...]:
    path = place / (name + ".skops")
    skops.io.dump(model, path)
    return read(Request(path, name))[0]


def transformers() -> dict[str, Any]:
    return {
        "standard": StandardScaler(),
        "only_mean": StandardScaler(with_std=False),
        "min_max": MinMaxScaler((-1, 2)),
        "max_abs": MaxAbsScaler(),
        "robust": RobustScaler(unit_variance=True),
        "quantile_normal": QuantileTransformer(n_quantiles=200, output_distribution="normal", random_state=0),
        "quantile_uniform": QuantileTransformer(n_quantiles=1000, random_state=0),
        "yeo_johnson": PowerTransformer(),
        "yeo_johnson_raw": PowerTransformer(standardize=False),
        "root": FunctionTransformer(np.cbrt, None),
        "logarithm": make_pipeline(FunctionTransformer(np.abs), FunctionTransformer(np.log1p, np.expm1)),
        "nothing": FunctionTransformer(),
        "polynomial": PolynomialFeatures(2),
        "principal": make_pipeline(StandardScaler(), PCA(3, whiten=True)),
        "nested": Pipeline([("first", make_pipeline(RobustScaler(), StandardScaler())), ("pass", "passthrough"), ("last", MinMaxScaler())]),
        "joined": FeatureUnion([("a", StandardScaler()), ("b", "passthrough"), ("c", MinMaxScaler())], transformer_weights={"c": 2.0}),
        "columns": ColumnTransformer(
            [
                ("q", QuantileTransformer(n_quantiles=100, output_distribution="normal"), [4, 1]),
                ("p", "passthrough", [3]),
                ("s", StandardScaler(), [0]),
            ],
            remainder=MinMaxScaler(),
        ),
    }


def test_every_transformer_and_its_inverse(tmp_path: Path) -> None:
    x = data()
    graphs: list[Graph] = []
    fitted = {name: one.fit(x) for name, one in transformers().items()}
    for name, one in fitted.items():
        graphs += skops_graphs(one, tmp_path, name)
    made = library(graphs, tmp_path)
    inverses = set()
    rows = special(x)
    with np.errstate(all="ignore"):
        for graph in graphs:
            stem, inverse, _ = graph.name.partition("_inverse")
            one = fitted[stem]
            if not inverse:
                given = np.nan_to_num(rows) if stem in ("polynomial", "principal") else rows
                assert differences(graph, one.transform(given.astype(np.float64)), given, made[graph.name]) == "", stem
                continue
            inverses.add(stem)
            back = one.transform(x[:300]).astype(np.float32)
            back[:5] += 0.01
            if stem == "columns":
                given = one.transform(x[:300])
                assert np.allclose(interpret.evaluate(graph, given), x[:300], rtol=1e-3, atol=1e-3)
                continue
            assert differences(graph, one.inverse_transform(back.astype(np.float64)), back, made[graph.name]) == "", graph.name
    assert inverses == set(fitted) - {"root", "logarithm", "polynomial", "principal", "joined"}


def test_box_cox(tmp_path: Path) -> None:
    x = np.abs(data()) + 0.1
    one = PowerTransformer("box-cox").fit(x)
    forward, backward = skops_graphs(one, tmp_path, "box_cox")
    made = library([forward, backward], tmp_path)
    rows = x[:300].astype(np.float32)
    assert differences(forward, one.transform(rows.astype(np.float64)), rows, made["box_cox"]) == ""
    there = one.transform(x[:300]).astype(np.float32)
    assert differences(backward, one.inverse_transform(there.astype(np.float64)), there, made["box_cox_inverse"]) == ""


def models() -> dict[str, Any]:
    return {
        "boosting": GradientBoostingClassifier(n_estimators=30, max_depth=6, random_state=0),
        "boosting_three": GradientBoostingClassifier(n_estimators=10, random_state=0),
        "boosting_exponential": GradientBoostingClassifier(n_estimators=10, loss="exponential", random_state=0),
        "boosting_regressor": GradientBoostingRegressor(n_estimators=20, loss="huber", random_state=0),
        "boosting_zero": GradientBoostingRegressor(n_estimators=20, init="zero", random_state=0),
        "forest": RandomForestClassifier(20, random_state=0),
        "forest_regressor": RandomForestRegressor(10, max_depth=12, random_state=0),
        "extra": ExtraTreesClassifier(10, random_state=0),
        "tree": DecisionTreeRegressor(random_state=0),
        "histogram": HistGradientBoostingClassifier(max_iter=20, random_state=0),
        "histogram_three": HistGradientBoostingClassifier(max_iter=10, random_state=0),
        "histogram_regressor": HistGradientBoostingRegressor(max_iter=20, random_state=0),
        "histogram_poisson": HistGradientBoostingRegressor(loss="poisson", max_iter=20, random_state=0),
        "perceptron": MLPClassifier(hidden_layer_sizes=(24, 16), max_iter=15, random_state=0),
        "perceptron_three": MLPClassifier(hidden_layer_sizes=(24,), activation="logistic", max_iter=15, random_state=0),
        "perceptron_regressor": MLPRegressor(hidden_layer_sizes=(24, 24, 8), activation="tanh", max_iter=15, random_state=0),
        "logistic": LogisticRegression(),
        "logistic_three": LogisticRegression(),
        "linear": LinearRegression(),
        "pipeline": make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=10, random_state=0)),
    }


def trained(name: str, one: Any, x: Any) -> Any:
    if "regressor" in name or name in ("linear", "tree", "boosting_zero", "histogram_poisson"):
        return one.fit(x, np.abs(x[:, 0]) + 0.1 * x[:, 2])
    kinds = np.where(x[:, 0] + x[:, 2] > 3, 1, 0) + ("three" in name) * (x[:, 1] > 1)
    return one.fit(x, kinds)


def test_every_model(tmp_path: Path) -> None:
    x = (data(1) - [0, 0, 0, 0, 1000]) / [1, 1, 1, 1, 50]
    graphs, originals = [], []
    for name, one in models().items():
        with_gaps = x.copy()
        if name.startswith("histogram"):
            with_gaps[::7, 1] = np.nan  # missing numbers go the way that training found
        originals.append(
            trained(name, one, with_gaps) if name.startswith("histogram") is False else trained_with_gaps(name, one, x, with_gaps)
        )
        (graph,) = skops_graphs(originals[-1], tmp_path, name)
        graphs.append(graph)
    made = library(graphs, tmp_path)
    for graph, one in zip(graphs, originals, strict=True):
        rows = special(x)
        if not graph.name.startswith("histogram"):
            rows = np.nan_to_num(rows)
        given = rows.astype(np.float64)  # of float32 sklearn's scalers compute in float32
        wanted = one.predict_proba(given) if hasattr(one, "predict_proba") else one.predict(given)
        # float64 weights become float32, thresholds and leaves stay what they are
        slack = 2e-6 if graph.name.startswith(("perceptron", "logistic", "linear")) else 0.0
        assert differences(graph, wanted, rows, made[graph.name], slack=slack) == "", graph.name
        if hasattr(one, "classes_"):
            assert graph.outputs == tuple("p_%s" % kind for kind in one.classes_)


def trained_with_gaps(name: str, one: Any, x: Any, with_gaps: Any) -> Any:
    if "regressor" in name or "poisson" in name:
        return one.fit(with_gaps, np.abs(x[:, 0]) + 0.1 * x[:, 2])
    return one.fit(with_gaps, np.where(x[:, 0] + x[:, 2] > 3, 1, 0) + ("three" in name) * (x[:, 1] > 1))


@pytest.mark.case("models-1")
def test_a_scaler_without_mean_subtracts_none(tmp_path: Path) -> None:
    x = data() + 7
    one = StandardScaler(with_mean=False).fit(x)
    forward, backward = skops_graphs(one, tmp_path, "s")
    made = library([forward, backward], tmp_path)
    rows = x[:50].astype(np.float32)
    assert np.allclose(made["s"](rows), x[:50] / one.scale_, rtol=1e-6)
    assert np.allclose(made["s_inverse"](made["s"](rows)), x[:50], rtol=1e-6)


@pytest.mark.case("models-2")
def test_a_clipping_scaler_clips(tmp_path: Path) -> None:
    x = data()
    one = MinMaxScaler(clip=True).fit(x)
    graphs = skops_graphs(one, tmp_path, "s")
    rows = np.stack([x.max(axis=0) * 1.5 + 1, x.min(axis=0) - 5]).astype(np.float32)
    assert library(graphs, tmp_path)["s"](rows).tolist() == [[1.0] * 5, [0.0] * 5]


@pytest.mark.case("models-3")
def test_a_column_in_two_branches_arrives_in_both(tmp_path: Path) -> None:
    x = data()
    one = ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [1, 2]), ("c", "passthrough", [1])]).fit(x)
    graphs = skops_graphs(one, tmp_path, "c")
    assert [graph.name for graph in graphs] == ["c"], "which of the branches would the inverse believe?"
    rows = special(x)
    assert differences(graphs[0], one.transform(rows.astype(np.float64)), rows, library(graphs, tmp_path)["c"]) == ""


@pytest.mark.case("models-4")
def test_ties_among_quantiles_are_averaged(tmp_path: Path) -> None:
    x = np.random.default_rng(0).poisson(3, (50000, 1)).astype(np.float64)
    one = QuantileTransformer(output_distribution="normal", subsample=10**9).fit(x)
    graphs = skops_graphs(one, tmp_path, "q")
    rows = np.arange(-1, 15, dtype=np.float32)[:, None]
    made = library(graphs, tmp_path)
    assert differences(graphs[0], one.transform(rows.astype(np.float64)), rows, made["q"]) == ""
    assert abs(float(made["q"]([[1.0]])[0, 0]) + 1.15) < 0.02


@pytest.mark.case("models-5")
def test_inputs_beside_a_threshold_go_the_right_way_in_deep_trees(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(4000, 4))
    one = GradientBoostingClassifier(n_estimators=25, max_depth=8, random_state=0).fit(
        x, (x[:, 0] * x[:, 1] > x[:, 2] * x[:, 3]).astype(int)
    )
    graphs = skops_graphs(one, tmp_path, "g")
    made = library(graphs, tmp_path)
    rows: list[Any] = []
    for stage in one.estimators_:
        tree = stage[0].tree_
        for feature, threshold in zip(tree.feature, tree.threshold, strict=True):
            if feature >= 0:
                for beside in (np.float32(threshold), *(np.nextafter(np.float32(threshold), np.float32(side)) for side in (-9, 9))):
                    row = x[len(rows) % len(x)].astype(np.float32)
                    row[feature] = beside
                    rows.append(row)
    given = np.array(rows[:6000])
    assert len(given) == 6000, len(rows)
    assert np.max(np.abs(made["g"](given) - one.predict_proba(given))) < 1e-6


@pytest.mark.case("models-6")
def test_a_library_tells_how_many_numbers_it_writes(tmp_path: Path) -> None:
    x = data()
    one = GradientBoostingClassifier(n_estimators=3).fit(x, x[:, 3])
    made = library(skops_graphs(one, tmp_path, "g"), tmp_path)["g"]
    assert made.outputs == ("p_0.0", "p_1.0")
    assert np.allclose(made(x[:5]).sum(axis=1), 1)
    with pytest.raises(InputError, match="takes rows of 5 numbers"):
        made(x[:5, :4])


def test_names_of_columns_come_from_the_training_table(tmp_path: Path) -> None:
    class Frame:
        """Just enough of a table with named columns for sklearn."""

    x = data()
    one = StandardScaler().fit(x)
    one.feature_names_in_ = np.array(["p", "eta", "n", "flag", "z"], dtype=object)
    forward, backward = skops_graphs(one, tmp_path, "s")
    assert forward.inputs == ("p", "eta", "n", "flag", "z")
    assert backward.outputs == forward.inputs
    del Frame


class Odd(StandardScaler):  # type: ignore[misc]  # sklearn has no types
    """A class of somebody's own."""


def twice(x: Any) -> Any:
    return 2 * x


def refused() -> dict[str, tuple[Callable[[Any], Any], str]]:
    return {
        "class": (
            lambda x: make_pipeline(StandardScaler(), TruncatedSVD(2)).fit(x),
            r"truncatedsvd \(sklearn.decomposition.TruncatedSVD\)",
        ),
        "encoder": (lambda x: OneHotEncoder().fit(x[:, 3:4]), "OneHotEncoder"),
        "ensemble": (lambda x: AdaBoostRegressor(n_estimators=2).fit(x, x[:, 0]), "AdaBoostRegressor"),
        "start": (
            lambda x: GradientBoostingRegressor(n_estimators=2, init=LinearRegression()).fit(x, x[:, 0]),
            "starts from another model",
        ),
        "function": (lambda x: FunctionTransformer(np.sin).fit(x), "calls <ufunc 'sin'>"),
        "arguments": (lambda x: FunctionTransformer(np.log1p, kw_args={"where": True}).fit(x), "calls"),
        "outputs": (lambda x: RandomForestRegressor(2).fit(x, x[:, :2]), "more than one output"),
        "categories": (
            lambda x: HistGradientBoostingRegressor(max_iter=2, categorical_features=[3]).fit(x, x[:, 0]),
            "categorical|functools.partial",
        ),
    }


@pytest.mark.parametrize("what", ["class", "encoder", "ensemble", "start", "function", "arguments", "outputs", "categories"])
def test_what_is_not_understood_is_refused_by_name(what: str, tmp_path: Path) -> None:
    make, told = refused()[what]
    with pytest.raises((InputError, Untrusted), match=told):
        skops_graphs(make(data()), tmp_path, "m")


def test_an_option_of_the_future_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = StandardScaler().fit(data())
    path = tmp_path / "s.skops"
    skops.io.dump(one, path)
    told = StandardScaler.get_params
    monkeypatch.setattr(StandardScaler, "get_params", lambda self, deep=True: {**told(self, deep), "shift": 1})
    with pytest.raises(InputError, match=r"sklearn.preprocessing.StandardScaler has the option shift=1"):
        read(Request(path, "s"))


def test_objects_of_other_packages_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "odd.skops"
    skops.io.dump(make_pipeline(Odd().fit(data())), path)
    with pytest.raises(Untrusted, match="Odd"):
        read(Request(path, "odd"))


def test_a_pickle_has_to_be_allowed(tmp_path: Path) -> None:
    x = data()
    one = StandardScaler().fit(x)
    path = tmp_path / "s.pkl"
    path.write_bytes(pickle.dumps(one))
    with pytest.raises(Refused, match="runs the code in it"):
        read(Request(path, "s"))
    graphs, source = read(Request(path, "s", allow_pickle=True))
    assert source[0] == "s.pkl"
    rows = x[:10].astype(np.float32)
    assert differences(graphs[0], one.transform(rows.astype(np.float64)), rows, library(graphs, tmp_path)["s"]) == ""
    path.write_bytes(b"\x80\x05nonsense")
    with pytest.raises(InputError, match="cannot be opened"):
        read(Request(path, "s", allow_pickle=True))


@pytest.mark.case("models-7")
def test_a_discrete_column_keeps_its_ties_through_a_chain(tmp_path: Path) -> None:
    """A third is no float32: rounded between the steps, it would miss the quantiles that it is equal to."""
    x = np.random.default_rng(0).poisson(3, (5000, 2)).astype(np.float64)
    one = make_pipeline(MinMaxScaler((0, 0.7)), StandardScaler(), QuantileTransformer(n_quantiles=300, output_distribution="normal")).fit(x)
    graphs = skops_graphs(one, tmp_path, "q")
    rows = np.repeat(np.arange(0, 12, dtype=np.float32)[:, None], 2, axis=1)
    assert differences(graphs[0], one.transform(rows.astype(np.float64)), rows, library(graphs, tmp_path)["q"]) == ""


@pytest.mark.case("models-8")
def test_ties_behind_a_function_that_is_not_exact_are_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).poisson(3, (5000, 2)).astype(np.float64)
    one = make_pipeline(FunctionTransformer(np.log1p), QuantileTransformer(n_quantiles=300)).fit(x)
    with pytest.raises(InputError, match="'quantile': a quantile transform with equal quantiles"):
        skops_graphs(one, tmp_path, "q")


@pytest.mark.parametrize("seed", range(4))
def test_random_pipelines(seed: int, tmp_path: Path) -> None:
    """Transformers put together at random, some of them in branches."""
    rng = np.random.default_rng(seed)
    x = data(seed)
    steps: list[Callable[[], Any]] = [
        StandardScaler,
        lambda: MinMaxScaler(clip=bool(rng.integers(2))),
        RobustScaler,
        lambda: QuantileTransformer(
            n_quantiles=int(rng.choice([10, 100, 1000])), output_distribution=str(rng.choice(["normal", "uniform"]))
        ),
        PowerTransformer,
        lambda: FunctionTransformer((np.cbrt, np.square, np.tanh)[int(rng.integers(3))]),
    ]

    def chosen() -> Any:
        return steps[int(rng.integers(len(steps)))]()

    graphs: list[Graph] = []
    originals = []
    while len(graphs) < 4:
        branches = [
            ("b%d" % branch, make_pipeline(chosen(), chosen()), sorted(rng.choice(5, int(rng.integers(1, 5)), replace=False).tolist()))
            for branch in range(int(rng.integers(1, 4)))
        ]
        model = make_pipeline(chosen(), ColumnTransformer(branches, remainder=str(rng.choice(["drop", "passthrough"]))), chosen()).fit(x)
        try:
            graphs.append(skops_graphs(model, tmp_path, "p%d" % len(graphs))[0])
        except InputError as refusal:
            if "equal quantiles" not in refusal.what:
                raise
            continue
        originals.append(model)
    made = library(graphs, tmp_path)
    for graph, model in zip(graphs, originals, strict=True):
        rows = np.nan_to_num(special(x)[:250])
        with np.errstate(all="ignore"):
            wanted = model.transform(rows.astype(np.float64))
        assert differences(graph, wanted, rows, made[graph.name], slack=1e-6) == "", [node.op.op for node in graph.nodes]
        assert made[graph.name](rows).tobytes() == made[graph.name].row_by_row(rows).tobytes()
