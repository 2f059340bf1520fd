"""ONNX files of dense networks: rows in, rows out, float32. What is outside the list below is refused by the name of its node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.extra import require
from gha_apptainer.models.frontends import Request
from gha_apptainer.models.frontends.scales import scale
from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.graphs import INPUT, NOISE, Builder, Graph, numbered

INFINITY = float("inf")


def read(request: Request) -> tuple[Graph, ...]:
    """The one function of an ONNX file."""
    onnx = require("onnx")
    try:
        model = onnx.load(str(request.path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise InputError("%s is no valid ONNX file: %s" % (request.path, str(error).splitlines()[0])) from error
    return (_Model(request, model, onnx).graph(),)


class _Node:
    """One node: its attributes are taken one by one, and what nobody took is refused."""

    def __init__(self, where: str, raw: Any, onnx: Any) -> None:
        self.name = raw.name or raw.op_type
        self.kind, self.domain, self.inputs, self.outputs = raw.op_type, raw.domain, list(raw.input), list(raw.output)
        self._where = where
        self._given = {one.name: onnx.helper.get_attribute_value(one) for one in raw.attribute}

    def refuse(self, what: str) -> NoReturn:
        """Raise, naming the node."""
        raise InputError("%s: node %r (%s) %s, which is not understood" % (self._where, self.name, self.kind, what))

    def take(self, name: str, default: Any) -> Any:
        """One attribute, or its default."""
        return self._given.pop(name, default)

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self._given:
            name = min(self._given)
            self.refuse("has the attribute %s=%r" % (name, self._given[name]))


class _Model:
    def __init__(self, request: Request, model: Any, onnx: Any) -> None:
        self.where, self._request, self._graph, self._onnx = str(request.path), request, model.graph, onnx
        self._numbers = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        self._builder = Builder()
        self._values: dict[str, str] = {}
        self._widths: dict[str, int] = {}

    def graph(self) -> Graph:
        inputs = [one for one in self._graph.input if one.name not in self._numbers]
        names: list[str] = []
        noise = 0
        widths = [(one.name, self._width(one)) for one in inputs]
        for name, width in widths:
            if name == self._request.noise_input and len(widths) > 1:
                noise = width
            else:
                names += numbered("%s_" % name if len(widths) > 1 else "x", width)
        self._widths = {INPUT: len(names), NOISE: noise}
        at = 0
        for name, width in widths:
            if name == self._request.noise_input and len(widths) > 1:
                self._values[name] = NOISE
            else:
                columns = tuple(range(at, at + width))
                self._values[name] = INPUT if width == len(names) else self.add(name, ops.Gather(columns), [INPUT])
                at += width
        for raw in self._graph.node:
            self._node(_Node(self.where, raw, self._onnx))
        if len(self._graph.output) != 1:
            raise InputError("%s has %d outputs; one is understood" % (self.where, len(self._graph.output)))
        result = self._values[self._graph.output[0].name]
        return self._builder.graph(self._request.name, names, noise, result, numbered("y", self._widths[result]))

    def _width(self, told: Any) -> int:
        kind = told.type.tensor_type
        shape = [one.dim_value if one.HasField("dim_value") else None for one in kind.shape.dim]
        if kind.elem_type != self._onnx.TensorProto.FLOAT or len(shape) != 2 or not shape[1]:
            raise InputError("%s: input %r is no matrix of float32 with a known number of columns" % (self.where, told.name))
        return int(shape[1])

    def add(self, name: str, op: ops.Op, inputs: Sequence[str]) -> str:
        """Append a node of the IR."""
        try:
            width = op.width([self._widths[one] for one in inputs])
        except InputError as error:
            raise InputError("%s: node %r: %s" % (self.where, name, error.what)) from error
        found = self._builder.add(name, op, inputs)
        self._widths[found] = width
        return found

    def width(self, value: str) -> int:
        """Columns of a value of the IR."""
        return self._widths[value]

    def array(self, name: str) -> Any:
        """The numbers of an initialiser, or None."""
        return self._numbers.get(name)

    def value(self, node: _Node, at: int, width: int = 0) -> str:
        """An input of a node as a value of the IR; numbers become a constant of `width` columns."""
        name = node.inputs[at]
        if name in self._values:
            return self._values[name]
        if name not in self._numbers:
            node.refuse("takes %r" % name)
        numbers = np.asarray(self._numbers[name], np.float32)
        if numbers.size not in (1, width) or numbers.shape not in ((), (1,), (width,), (1, width), (1, 1)):
            node.refuse("takes numbers of shape %s beside %d columns" % (numbers.shape, width))
        return self.add(node.name + ".constant", ops.Constant(np.broadcast_to(numbers.reshape(-1), (width,)).copy()), [])

    def _node(self, node: _Node) -> None:
        if node.domain not in ("", "ai.onnx"):
            node.refuse("is of the domain %s" % node.domain)
        if node.kind == "Constant":
            told = node.take("value", None)
            if told is None:
                node.refuse("is a constant of another kind than a tensor")
            self._numbers[node.outputs[0]] = self._onnx.numpy_helper.to_array(told)
        elif node.kind in RULES:
            self._values[node.outputs[0]] = RULES[node.kind](self, node)
            if len([one for one in node.outputs if one]) > 1:
                node.refuse("has more than one output")
        else:
            node.refuse("is an operation")
        node.finish()


Rule = Callable[[_Model, _Node], str]


def _product(model: _Model, node: _Node, weight: Any, bias: Any) -> str:
    if weight is None or np.ndim(weight) != 2:
        node.refuse("multiplies by something that is no fixed matrix")
    weight = np.asarray(weight, np.float32)
    bias = np.zeros(weight.shape[1], np.float32) if bias is None else np.asarray(bias, np.float32)
    if bias.size not in (1, weight.shape[1]):
        node.refuse("adds numbers of shape %s" % (bias.shape,))
    return model.add(node.name, ops.Affine(weight, np.broadcast_to(bias.reshape(-1), (weight.shape[1],)).copy()), [model.value(node, 0)])


def _gemm(model: _Model, node: _Node) -> str:
    alpha, beta = float(node.take("alpha", 1.0)), float(node.take("beta", 1.0))
    if node.take("transA", 0):
        node.refuse("transposes its rows")
    weight = model.array(node.inputs[1])
    if weight is not None and node.take("transB", 0):
        weight = weight.T
    bias = model.array(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 2 and bias is None:
        node.refuse("adds something that is not fixed")
    scaled = None if weight is None else np.asarray(weight, np.float64) * alpha
    return _product(model, node, scaled, None if bias is None else np.asarray(bias, np.float64) * beta)


def _matmul(model: _Model, node: _Node) -> str:
    return _product(model, node, model.array(node.inputs[1]), None)


def _combine(kind: str) -> Rule:
    def rule(model: _Model, node: _Node) -> str:
        known = [one for one in node.inputs if model.array(one) is None]
        if not known or len(node.inputs) < 2:
            node.refuse("combines %d fixed numbers" % len(node.inputs))
        width = max(model.width(model.value(node, at)) for at, one in enumerate(node.inputs) if model.array(one) is None)
        found = model.value(node, 0, width)
        for at in range(1, len(node.inputs)):
            found = model.add(node.name, ops.Combine(kind), [found, model.value(node, at, width)])
        return found

    return rule


def _activation(kind: str, *parameters: tuple[str, float] | float) -> Rule:
    def rule(model: _Model, node: _Node) -> str:
        given = tuple(float(node.take(*one)) if isinstance(one, tuple) else one for one in parameters)
        return model.add(node.name, ops.Activation(kind, given), [model.value(node, 0)])

    return rule


def _elu(model: _Model, node: _Node) -> str:
    return model.add(node.name, ops.Activation("elu", (1.0, float(node.take("alpha", 1.0)))), [model.value(node, 0)])


def _selu(model: _Model, node: _Node) -> str:
    alpha, gamma = float(node.take("alpha", 1.67326319217681884765625)), float(node.take("gamma", 1.05070102214813232421875))
    return model.add(node.name, ops.Activation("elu", (gamma, alpha)), [model.value(node, 0)])


def _gelu(model: _Model, node: _Node) -> str:
    told = node.take("approximate", b"none")
    kinds = {b"none": "gelu", b"tanh": "gelu_tanh"}
    if told not in kinds:
        node.refuse("has the attribute approximate=%r" % told)
    return model.add(node.name, ops.Activation(kinds[told], ()), [model.value(node, 0)])


def _prelu(model: _Model, node: _Node) -> str:
    value, slope = model.value(node, 0), model.array(node.inputs[1])
    width = model.width(value)
    if slope is None or slope.size not in (1, width):
        node.refuse("has slopes that are not fixed")
    return model.add(node.name, ops.PRelu(np.broadcast_to(np.asarray(slope, np.float32).reshape(-1), (width,)).copy()), [value])


def _softmax(*, log: bool) -> Rule:
    def rule(model: _Model, node: _Node) -> str:
        if node.take("axis", -1) not in (-1, 1):
            node.refuse("is over another axis than the columns")
        return model.add(node.name, ops.Softmax(log), [model.value(node, 0)])

    return rule


def _concat(model: _Model, node: _Node) -> str:
    if node.take("axis", None) not in (-1, 1):
        node.refuse("joins another axis than the columns")
    return model.add(node.name, ops.Concat(), [model.value(node, at) for at in range(len(node.inputs))])


def _gather(model: _Model, node: _Node) -> str:
    columns = model.array(node.inputs[1])
    if node.take("axis", 0) not in (-1, 1) or columns is None or columns.ndim != 1:
        node.refuse("takes something else than fixed columns")
    value = model.value(node, 0)
    wide = model.width(value)
    return model.add(node.name, ops.Gather(tuple(int(one) if one >= 0 else wide + int(one) for one in columns)), [value])


def _identity(*idle: str) -> Rule:
    def rule(model: _Model, node: _Node) -> str:
        for one in idle:
            node.take(one, None)
        return model.value(node, 0)

    return rule


def _dropout(model: _Model, node: _Node) -> str:
    node.take("seed", None)
    if len(node.inputs) > 2 and node.inputs[2] and (model.array(node.inputs[2]) is None or bool(model.array(node.inputs[2]))):
        node.refuse("drops numbers as in training")
    return model.value(node, 0)


def _clip(model: _Model, node: _Node) -> str:
    bounds = []
    for at, default in ((1, -INFINITY), (2, INFINITY)):
        told = model.array(node.inputs[at]) if len(node.inputs) > at and node.inputs[at] else np.array(default)
        if told is None or told.size != 1:
            node.refuse("has bounds that are not fixed")
        bounds.append(float(told.reshape(())))
    return model.add(node.name, ops.Activation("clip", (bounds[0], bounds[1])), [model.value(node, 0)])


def _batch_norm(model: _Model, node: _Node) -> str:
    epsilon = float(node.take("epsilon", 1e-5))
    node.take("momentum", None)
    if node.take("training_mode", 0):
        node.refuse("normalises as in training")
    arrays = [model.array(one) for one in node.inputs[1:5]]
    if len(arrays) != 4 or any(one is None for one in arrays):
        node.refuse("normalises with numbers that are not fixed")
    gamma, beta, mean, variance = (np.asarray(one, np.float64) for one in arrays)
    value = model.value(node, 0)
    return model.add(
        node.name, scale(model.width(value), center=mean, factor=gamma, divisor=np.sqrt(variance + epsilon), offset=beta), [value]
    )


RULES: Mapping[str, Rule] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _combine("add"),
    "Sub": _combine("subtract"),
    "Mul": _combine("multiply"),
    "Div": _combine("divide"),
    "Sum": _combine("add"),
    "Max": _combine("maximum"),
    "Min": _combine("minimum"),
    "Relu": _activation("relu", 0.0, 0.0, INFINITY),
    "LeakyRelu": _activation("relu", ("alpha", 0.01), 0.0, INFINITY),
    "PRelu": _prelu,
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _activation("celu", ("alpha", 1.0)),
    "Gelu": _gelu,
    "Tanh": _activation("tanh"),
    "Sigmoid": _activation("sigmoid"),
    "HardSigmoid": _activation("hard_sigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _activation("hard_silu", 1 / 6, 0.5),
    "Softplus": _activation("softplus"),
    "Softsign": _activation("softsign"),
    "Mish": _activation("mish"),
    "Exp": _activation("exponential"),
    "Softmax": _softmax(log=False),
    "LogSoftmax": _softmax(log=True),
    "Concat": _concat,
    "Gather": _gather,
    "Clip": _clip,
    "BatchNormalization": _batch_norm,
    "Identity": _identity(),
    "Dropout": _dropout,
}
"""Operation: what it becomes."""
