"""`.keras` files: a zip of `config.json`, the layers and how they are connected, and `model.weights.h5`, their numbers.

Sequential and functional models, one inside the other, with residual connections and several inputs. The input layer named by the request
becomes the noise of the function.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.extra import require
from gha_apptainer.models.frontends import Request
from gha_apptainer.models.frontends.folding import fold
from gha_apptainer.models.frontends.keras_layers import LAYERS, Layer, refuse
from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.graphs import INPUT, NOISE, Builder, Graph, numbered

Config = Mapping[str, Any]
MODELS = ("Sequential", "Functional", "Model")


def read(request: Request) -> tuple[Graph, ...]:
    """The one function of a Keras model."""
    h5py = require("h5py")
    try:
        with zipfile.ZipFile(request.path) as file:
            config = json.loads(file.read("config.json"))
            weights = h5py.File(io.BytesIO(file.read("model.weights.h5")), "r")
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise InputError("%s is no Keras 3 file: %s" % (request.path, error)) from error
    with weights:
        return (_Model(request, config, weights).graph(),)


@dataclass
class _Scope:
    """One model, or one model inside another, while it is read."""

    where: str
    group: Any
    counts: dict[str, int] = field(default_factory=dict)

    def enter(self, class_name: str, name: str) -> Any:
        """The HDF5 group of the next layer of a class; Keras numbers them in the order of the layers."""
        stem = snake_case(class_name)
        at = self.counts.get(stem, 0)
        self.counts[stem] = at + 1
        key = "layers/%s" % (stem if not at else "%s_%d" % (stem, at))
        if key not in self.group:
            return None
        group = self.group[key]
        told = group["vars"].attrs.get("name") if "vars" in group else None
        if told is not None and told != name:
            raise InputError("%s: the numbers under %s belong to %r, not to %r" % (self.where, key, told, name))
        return group


def snake_case(name: str) -> str:
    """As Keras does it: PReLU is p_re_lu."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


class _Model:
    def __init__(self, request: Request, config: Config, weights: Any) -> None:
        self._request, self._config, self._weights = request, config, weights
        self._builder = Builder()
        self._widths: dict[str, int] = {}
        self._normalisations: set[str] = set()

    def graph(self) -> Graph:
        """Read it all."""
        where, inputs = str(self._request.path), self._inputs()
        names: list[str] = []
        noise = 0
        for name, width in inputs:
            if name == self._request.noise_input and len(inputs) > 1:
                noise = width
            else:
                names += numbered("%s_" % name if len(inputs) > 1 else "x", width)
        self._widths = {INPUT: len(names), NOISE: noise}
        values, at = [], 0
        for name, width in inputs:
            if name == self._request.noise_input and len(inputs) > 1:
                values.append(NOISE)
            elif width == len(names):
                values.append(INPUT)
            else:
                values.append(self._add(name, ops.Gather(tuple(range(at, at + width))), [INPUT]))
                at += width
        results = self._model(self._config, values, _Scope(where, self._weights))
        if len(results) != 1:
            raise InputError("%s has %d outputs; one is understood" % (where, len(results)), remedy="concatenate them in the model")
        graph = self._builder.graph(self._request.name, names, noise, results[0], numbered("y", self._widths[results[0]]))
        return fold(graph, self._normalisations)

    def _add(self, name: str, op: ops.Op, inputs: Sequence[str]) -> str:
        try:
            width = op.width([self._widths[one] for one in inputs])
        except InputError as error:
            raise InputError("%s: layer %r: %s" % (self._request.path, name, error.what)) from error
        found = self._builder.add(name, op, inputs)
        self._widths[found] = width
        return found

    def _inputs(self) -> list[tuple[str, int]]:
        config, where = self._config, str(self._request.path)
        if config.get("class_name") not in MODELS:
            raise InputError("%s holds a %s; a Sequential or functional model is understood" % (where, config.get("class_name")))
        inner = config["config"]
        if config["class_name"] == "Sequential":
            first = inner["layers"][0] if inner.get("layers") else {}
            if first.get("class_name") == "InputLayer":
                return [(first["config"]["name"], _width(where, first))]
            shape = (config.get("build_config") or inner.get("build_input_shape") or {}).get("input_shape")
            if not shape or len(shape) != 2 or not isinstance(shape[1], int):
                raise InputError("%s does not say how many inputs it takes" % where, remedy="start the model with keras.Input")
            return [("input", int(shape[1]))]
        layers = {one["name"]: one for one in inner["layers"]}
        return [(name, _width(where, layers[name])) for name, _, _ in _references(inner["input_layers"])]

    # models

    def _model(self, config: Config, values: Sequence[str], scope: _Scope) -> list[str]:
        if config["class_name"] == "Sequential":
            return [self._sequential(config["config"], values, scope)]
        return self._functional(config["config"], values, scope)

    def _sequential(self, inner: Config, values: Sequence[str], scope: _Scope) -> str:
        if len(values) != 1:
            raise InputError("%s: a Sequential model takes one input" % scope.where)
        value = values[0]
        for layer in inner["layers"]:
            if layer["class_name"] == "InputLayer":
                _width(scope.where, layer)  # Keras keeps no numbers for it and does not count it here
                continue
            value = self._layer(layer, [value], scope)[0]
        return value

    def _functional(self, inner: Config, values: Sequence[str], scope: _Scope) -> list[str]:
        starts = [name for name, _, _ in _references(inner["input_layers"])]
        if len(starts) != len(values):
            raise InputError("%s: a model with %d inputs gets %d" % (scope.where, len(starts), len(values)))
        made: dict[tuple[str, int, int], str] = {(name, 0, 0): value for name, value in zip(starts, values, strict=True)}
        groups: dict[str, Any] = {}
        todo: list[tuple[Config, int]] = []
        for layer in inner["layers"]:
            name = layer["name"]
            if is_layer(layer):
                groups[name] = scope.enter(layer["class_name"], layer["config"].get("name", name))
            if layer["class_name"] == "InputLayer":
                if name not in starts:
                    raise InputError("%s: input layer %r is no input of the model" % (scope.where, name))
                _width(scope.where, layer)
                continue
            todo += [(layer, at) for at in range(len(layer["inbound_nodes"]))]
        while todo:
            waiting = []
            for layer, at in todo:
                taken = arguments(scope.where, layer, layer["inbound_nodes"][at])
                if any(isinstance(one, tuple) and one not in made for one in taken):
                    waiting.append((layer, at))
                    continue
                given = [made[one] if isinstance(one, tuple) else one for one in taken]
                for position, value in enumerate(self._apply(layer, self._constants(layer, given), scope.where, groups.get(layer["name"]))):
                    made[layer["name"], at, position] = value
            if len(waiting) == len(todo):
                raise InputError("%s: layer %r depends on itself" % (scope.where, waiting[0][0]["name"]))
            todo = waiting
        return [made[one] for one in _references(inner["output_layers"])]

    def _constants(self, layer: Config, given: Sequence[Any]) -> list[str]:
        widths = {self._widths[one] for one in given if isinstance(one, str)}
        found = []
        for one in given:
            if isinstance(one, str):
                found.append(one)
            else:
                values = np.full(max(widths), one, np.float32)
                found.append(self._add("%s.constant" % layer["name"], ops.Constant(values), []))
        return found

    def _layer(self, layer: Config, values: Sequence[str], scope: _Scope) -> list[str]:
        name = layer["config"].get("name", "")
        return self._apply(layer, values, scope.where, scope.enter(layer["class_name"], name))

    def _apply(self, layer: Config, values: Sequence[str], where: str, group: Any) -> list[str]:
        kind, name = layer["class_name"], layer["config"].get("name", "")
        if layer.get("registered_name") not in (None, kind) or not str(layer.get("module", "")).startswith("keras"):
            raise InputError("%s: layer %r is of the class %s of somebody's own" % (where, name, layer.get("registered_name") or kind))
        if kind in MODELS:
            return self._model(layer, values, _Scope("%s: model %r" % (where, name), group))
        if kind not in LAYERS:
            raise InputError(
                "%s: layer %r: layers of class %s are not understood" % (where, name, kind), remedy="known: %s" % ", ".join(LAYERS)
            )
        check_call(where, layer)
        told = Layer(where, name, kind, layer["config"], _numbers(group), [self._widths[one] for one in values])
        made = LAYERS[kind](told)
        steps: list[str] = []
        for at, (op, operands) in enumerate(made):
            taken = [values[one] if one >= 0 else steps[-1 - one] for one in operands]
            steps.append(self._add(name if at == len(made) - 1 else "%s.%d" % (name, at), op, taken))
        if kind == "BatchNormalization":
            self._normalisations.update(steps)
        return [steps[-1] if steps else values[0]]


def is_layer(layer: Config) -> bool:
    """Whether it is a layer, and not an operation such as the sum of two tensors: those own no numbers and are not counted."""
    return not str(layer.get("module", "")).startswith("keras.src.ops")


def check_call(where: str, layer: Config) -> None:
    """A layer that is called as in training would not be what runs here."""
    for node in layer.get("inbound_nodes", ()):
        kwargs = dict(node.get("kwargs", {}))
        if kwargs.pop("training", None) not in (None, False) or kwargs.pop("mask", None) is not None:
            refuse(where, layer["config"].get("name", ""), "is called with training or a mask")
        kwargs = {key: value for key, value in kwargs.items() if not (key in ("axis",) and value == -1)}
        if kwargs:
            refuse(where, layer["config"].get("name", ""), "is called with %s" % ", ".join(sorted(kwargs)))


def arguments(where: str, layer: Config, node: Any) -> list[Any]:
    """What a layer is called with: references to values as (layer, call, position), and numbers."""
    if "args" not in node:
        raise InputError(
            "%s: layer %r is connected as older Keras versions wrote it" % (where, layer["name"]), remedy="save it with Keras 3"
        )
    found: list[Any] = []

    def collect(raw: Any) -> None:
        if isinstance(raw, Mapping) and raw.get("class_name") == "__keras_tensor__":
            name, call, position = raw["config"]["keras_history"]
            found.append((str(name), int(call), int(position)))
        elif isinstance(raw, list):
            for one in raw:
                collect(one)
        elif isinstance(raw, int | float) and not isinstance(raw, bool) and not is_layer(layer):
            found.append(float(raw))
        else:
            refuse(where, layer["name"], "is called with %r" % (raw,))

    for one in node["args"]:
        collect(one)
    return found


def _references(raw: Any) -> list[tuple[str, int, int]]:
    if raw and isinstance(raw[0], str):
        raw = [raw]
    return [(str(name), int(call), int(position)) for name, call, position in raw]


def _width(where: str, layer: Config) -> int:
    config = layer["config"]
    shape = config.get("batch_shape") or config.get("batch_input_shape")
    if config.get("sparse") or config.get("ragged") or config.get("dtype") != "float32":
        refuse(where, config.get("name", ""), "is sparse, ragged or not of float32")
    if not shape or len(shape) != 2 or not isinstance(shape[1], int):
        refuse(where, config.get("name", ""), "has shape %s; rows of numbers are understood" % (shape,))
    return int(shape[1])


def _numbers(group: Any) -> list[np.ndarray[Any, Any]]:
    if group is None or "vars" not in group:
        return []
    held = group["vars"]
    return [np.asarray(held[str(at)]) for at in range(len(held))]
