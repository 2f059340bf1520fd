"""Keras files as Keras writes them, against Keras itself."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
import keras
from model_judging import differences, library

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.frontends import Request
from gha_apptainer.models.frontends.keras import read
from gha_apptainer.models.frontends.keras_layers import NAMED
from gha_apptainer.models.ir.graphs import Graph

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
L = keras.layers


def saved(model: Any, place: Path, name: str = "model") -> Graph:
    path = place / (name + ".keras")
    model.save(path)
    (found,) = read(Request(path, name))
    return found


def rows(width: int, count: int = 60) -> Any:
    x = np.random.default_rng(1).normal(size=(count, width)).astype(np.float32) * 2
    x[5], x[6], x[7, 0] = 0.0, -0.0, np.nan
    return x


def test_every_activation_of_keras(tmp_path: Path) -> None:
    """Whatever keras.activations offers is either compiled and equal, or refused by name."""
    graphs, originals = [], []
    offered = sorted(
        one for one in dir(keras.activations) if one[0] != "_" and one.islower() and one not in ("deserialize", "get", "serialize", "glu")
    )
    refused = []
    for at, name in enumerate(offered):
        try:
            model = keras.Sequential([keras.Input((6,)), L.Dense(8), L.Activation(name), L.Dense(3, activation="linear")])
        except (ValueError, TypeError):  # needs parameters, or changes the width
            refused.append(name)
            continue
        model.layers[0].set_weights([np.random.default_rng(at).normal(size=(6, 8)), np.linspace(-2, 2, 8)])
        try:
            graphs.append(saved(model, tmp_path, "a%d" % at))
        except InputError as error:
            refused.append(name if name in str(error) else str(error))
            continue
        originals.append(model)
    assert set(refused) <= {"sparsemax", "threshold"}
    assert len(graphs) >= len(NAMED)
    made = library(graphs, tmp_path)
    for one, model in zip(graphs, originals, strict=True):
        x = rows(6)
        assert differences(one, model(x), x, made[one.name], slack=3e-6) == "", model.layers[1].activation


def test_a_trained_network_with_residuals_two_inputs_and_everything_else(tmp_path: Path) -> None:
    """The shape of a generator: conditions and noise, residual blocks, normalisation, a model inside; trained, then saved by Keras."""
    keras.utils.set_random_seed(3)
    x, noise = keras.Input((5,), name="conditions"), keras.Input((7,), name="noise")
    h = L.Concatenate()([x, noise])
    h = L.Dense(24, activation="tanh")(h)
    for _ in range(3):
        h = L.Add()([h, L.Dense(24, activation="tanh")(h)])
    h = L.BatchNormalization()(L.Dense(24)(h))
    h = L.PReLU()(h)
    h = L.LeakyReLU(0.2)(L.Dropout(0.2)(h) + L.Dense(24, use_bias=False)(h))
    h = h * 0.5
    inner = keras.Sequential(
        [keras.Input((24,)), L.Dense(16, activation="gelu"), L.BatchNormalization(), L.ReLU(max_value=4.0)], name="inner"
    )
    shared = L.Dense(16, activation=L.LeakyReLU(0.05))
    a = shared(inner(h))
    b = shared(a)
    h = L.Average()([a, b, L.Subtract()([a, b]), L.Maximum()([a, b])])
    h = L.Multiply()([h, L.Activation("softmax")(h)])
    model = keras.Model([x, noise], L.Dense(3, name="out")(h))
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    model.fit([rng.normal(size=(64, 5)), rng.normal(size=(64, 7))], rng.normal(size=(64, 3)), epochs=3, verbose=0)
    one = saved(model, tmp_path)
    assert (len(one.inputs), one.noise, len(one.outputs)) == (5, 7, 3)
    data, drawn = rows(5), rng.normal(size=(60, 7)).astype(np.float32)
    compiled = library([one], tmp_path)["model"]
    assert differences(one, model([data, drawn]), data, compiled, drawn, slack=1e-5) == ""


def test_two_inputs_without_noise_are_the_columns_of_one_row(tmp_path: Path) -> None:
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    model = keras.Model([b, a], L.Dense(2)(L.Concatenate()([a, b])))
    one = saved(model, tmp_path)
    assert one.inputs == ("b_0", "b_1", "b_2", "a_0", "a_1")
    x = rows(5)
    assert differences(one, model([x[:, :3], x[:, 3:]]), x, library([one], tmp_path)["model"], slack=1e-6) == ""


def test_batch_normalisation_becomes_part_of_the_product_before_it(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((4,)), L.Dense(6), L.BatchNormalization(), L.Activation("relu"), L.BatchNormalization(center=False)]
    )
    for layer in (model.layers[1], model.layers[3]):
        layer.set_weights([np.random.default_rng(len(layer.weights)).uniform(0.5, 2, size=w.shape) for w in layer.weights])
    one = saved(model, tmp_path)
    assert [node.op.op for node in one.nodes] == ["affine", "activation", "scale"]
    x = rows(4)
    assert differences(one, model(x), x, library([one], tmp_path)["model"], slack=1e-6) == ""


def two_outputs() -> Any:
    x = keras.Input((4,))
    return keras.Model(x, [L.Dense(1)(x), L.Dense(2)(x)])


def refusals() -> dict[str, tuple[Callable[[], Any], str]]:
    def after(layer: Any, **more: Any) -> Callable[[], Any]:
        def make() -> Any:
            x = keras.Input((4,))
            return keras.Model(x, layer()(L.Dense(4, name="first")(x), **more))

        return make

    return {
        "layer": (after(lambda: L.LayerNormalization(name="odd")), "'odd'.*LayerNormalization"),
        "activation": (after(lambda: L.Dense(4, activation="sparsemax", name="odd")), "'odd'.*sparsemax"),
        "training": (after(lambda: L.Dropout(0.5, name="odd"), training=True), "'odd'.*training"),
        "precision": (after(lambda: L.Dense(4, dtype="float16", name="odd")), "'odd'.*float16"),
        "shared": (lambda: keras.Sequential([keras.Input((4, 2), name="odd"), L.PReLU(shared_axes=[1])]), "'odd'.*shape"),
        "axis": (after(lambda: L.Softmax(axis=0, name="odd")), "'odd'.*another axis"),
        "outputs": (two_outputs, "2 outputs"),
    }


@pytest.mark.parametrize("what", ["layer", "activation", "training", "precision", "shared", "axis", "outputs"])
def test_what_is_not_understood_is_refused_by_name(what: str, tmp_path: Path) -> None:
    make, told = refusals()[what]
    with pytest.raises(InputError, match=told):
        saved(make(), tmp_path)


def rewritten(path: Path, change: Callable[[Any], None]) -> Path:
    """The file with its configuration changed, as another version of Keras might write it."""
    other = path.with_name("other.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                change(config)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return other


def test_an_option_of_the_future_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="one")])
    saved(model, tmp_path)

    def change(config: Any) -> None:
        config["config"]["layers"][1]["config"]["gated"] = True

    with pytest.raises(InputError, match=r"'one' has the option gated=True"):
        read(Request(rewritten(tmp_path / "model.keras", change), "model"))


def test_a_class_of_somebody_s_own_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="one")])
    saved(model, tmp_path)

    def change(config: Any) -> None:
        config["config"]["layers"][1]["registered_name"] = "mine>Dense"

    with pytest.raises(InputError, match="somebody's own"):
        read(Request(rewritten(tmp_path / "model.keras", change), "model"))


def test_numbers_of_another_shape_or_another_layer_are_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), L.Dense(3, name="one"), L.Dense(3, name="two")])
    saved(model, tmp_path)

    def wider(config: Any) -> None:
        config["config"]["layers"][1]["config"]["units"] = 4

    with pytest.raises(InputError, match="'one' has numbers of shapes"):
        read(Request(rewritten(tmp_path / "model.keras", wider), "model"))

    def swapped(config: Any) -> None:
        layers = config["config"]["layers"]
        layers[1], layers[2] = layers[2], layers[1]

    with pytest.raises(InputError, match="belong to 'one', not to 'two'"):
        read(Request(rewritten(tmp_path / "model.keras", swapped), "model"))


def test_what_is_no_keras_file_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "x.keras"
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match="no Keras 3 file"):
        read(Request(path, "model"))
    shutil.copy(__file__, path)
    with pytest.raises(InputError, match="no Keras 3 file"):
        read(Request(path, "model"))
