"""Keras layers as operations: which options each may have, and what it becomes.

A class names the options that it reads; some, such as initialisers and regularisers, change nothing here in any class. An option that is
neither is an error: it may mean something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.frontends.scales import scale
from gha_apptainer.models.ir import ops

Steps = list[tuple[ops.Op, list[int]]]
"""Operations of one layer; operands are numbers of the layer's inputs, or -1 - k for the result of step k."""
IDENTITY: Steps = []
_IDLE = frozenset(("name", "trainable", "dtype", "seed", "momentum", "activity_regularizer")) | {
    "%s_%s" % (what, how)
    for what in ("kernel", "bias", "beta", "gamma", "moving_mean", "moving_variance", "alpha")
    for how in ("initializer", "regularizer", "constraint")
}
INFINITY = float("inf")


def refuse(where: str, name: str, what: str) -> NoReturn:
    """The one error for what is not understood."""
    raise InputError("%s: layer %r %s, which is not understood" % (where, name, what))


@dataclass(frozen=True)
class Layer:
    """One layer as its file has it."""

    where: str
    name: str
    kind: str
    config: Mapping[str, Any]
    numbers: Sequence[np.ndarray[Any, Any]]
    widths: Sequence[int]

    def refuse(self, what: str) -> NoReturn:
        """Raise, naming the layer."""
        refuse(self.where, self.name, what)

    def options(self, **defaults: Any) -> dict[str, Any]:
        """The options that are read, with defaults for files that do not have them yet; any other is refused."""
        extra = set(self.config) - _IDLE - set(defaults)
        if extra:
            self.refuse("has the option %s=%r" % (min(extra), self.config[min(extra)]))
        dtype = self.config.get("dtype", "float32")
        if isinstance(dtype, Mapping):
            dtype = dtype.get("config", {}).get("name")
        if dtype not in ("float32", None):
            self.refuse("computes in %s" % dtype)
        return {**defaults, **{key: value for key, value in self.config.items() if key in defaults}}

    def one_input(self) -> int:
        """The width of the only input."""
        if len(self.widths) != 1:
            self.refuse("has %d inputs" % len(self.widths))
        return self.widths[0]

    def arrays(self, *shapes: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
        """The layer's numbers, checked for their shapes."""
        found = [one.shape for one in self.numbers]
        if found != list(shapes):
            self.refuse("has numbers of shapes %s where %s are wanted" % (found, list(shapes)))
        return [np.asarray(one, np.float32) for one in self.numbers]


def activation_steps(layer: Layer, told: Any, width: int) -> Steps:
    """What an activation given by name, or as a layer, becomes."""
    if isinstance(told, Mapping):
        if told.get("class_name") == "function" and told.get("registered_name") in (None, told.get("config")):
            return activation_steps(layer, told["config"], width)
        if told.get("module") == "keras.layers" and told.get("class_name") in _AS_ACTIVATION:
            inner = Layer(layer.where, layer.name, told["class_name"], told["config"], (), [width])
            return LAYERS[told["class_name"]](inner)
        layer.refuse("has the activation %r" % (told,))
    if told in (None, "linear"):
        return IDENTITY
    if told in NAMED:
        return [(ops.Activation(*NAMED[told]), [0])]
    if told in ("softmax", "log_softmax"):
        return [(ops.Softmax(told == "log_softmax"), [0])]
    if told == "glu":
        half = width // 2
        if width % 2:
            layer.refuse("has the activation glu on an odd width")
        return [
            (ops.Gather(tuple(range(half))), [0]),
            (ops.Gather(tuple(range(half, width))), [0]),
            (ops.Activation("sigmoid", ()), [-2]),
            (ops.Combine("multiply"), [-1, -3]),
        ]
    return layer.refuse("has the activation %r" % (told,))


NAMED: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "relu": ("relu", (0.0, 0.0, INFINITY)),
    "relu6": ("relu", (0.0, 0.0, 6.0)),
    "leaky_relu": ("relu", (0.2, 0.0, INFINITY)),
    "elu": ("elu", (1.0, 1.0)),
    "selu": ("elu", (1.0507009873554805, 1.6732632423543772)),
    "celu": ("celu", (1.0,)),
    "tanh": ("tanh", ()),
    "sigmoid": ("sigmoid", ()),
    "hard_sigmoid": ("hard_sigmoid", (1 / 6, 0.5)),
    "silu": ("silu", ()),
    "swish": ("silu", ()),
    "hard_silu": ("hard_silu", (1 / 6, 0.5)),
    "hard_swish": ("hard_silu", (1 / 6, 0.5)),
    "gelu": ("gelu", ()),
    "softplus": ("softplus", ()),
    "softsign": ("softsign", ()),
    "exponential": ("exponential", ()),
    "mish": ("mish", ()),
    "log_sigmoid": ("log_sigmoid", ()),
    "tanh_shrink": ("tanh_shrink", ()),
    "hard_shrink": ("hard_shrink", (0.5,)),
    "soft_shrink": ("soft_shrink", (0.5,)),
    "sparse_plus": ("sparse_plus", ()),
    "sparse_sigmoid": ("hard_sigmoid", (0.5, 0.5)),
    "squareplus": ("squareplus", (4.0,)),
    "hard_tanh": ("clip", (-1.0, 1.0)),
}
"""Keras' activations by name, with Keras' own defaults."""
_AS_ACTIVATION = ("ReLU", "LeakyReLU", "ELU", "Softmax", "Activation")


def _after(steps: Steps, follow: Steps) -> Steps:
    """One after the other: input 0 of what follows is the last result."""
    last, shift = -len(steps), len(steps)
    return steps + [(op, [last if one == 0 else one - shift for one in taken]) for op, taken in follow]


def _dense(layer: Layer) -> Steps:
    told = layer.options(units=0, activation="linear", use_bias=True, lora_rank=None, lora_alpha=None, quantization_config=None)
    if told["lora_rank"] is not None or told["quantization_config"] is not None:
        layer.refuse("is quantised or has a low-rank adaptation")
    width, units = layer.one_input(), int(told["units"])
    arrays = layer.arrays((width, units), *([(units,)] if told["use_bias"] else []))
    bias = arrays[1] if told["use_bias"] else np.zeros(units, np.float32)
    return _after([(ops.Affine(arrays[0], bias), [0])], activation_steps(layer, told["activation"], units))


def _activation(layer: Layer) -> Steps:
    return activation_steps(layer, layer.options(activation=None)["activation"], layer.one_input())


def _relu(layer: Layer) -> Steps:
    told = layer.options(max_value=None, negative_slope=0.0, threshold=0.0)
    top = INFINITY if told["max_value"] is None else float(told["max_value"])
    return [(ops.Activation("relu", (float(told["negative_slope"] or 0.0), float(told["threshold"] or 0.0), top)), [0])]


def _leaky(layer: Layer) -> Steps:
    told = layer.options(negative_slope=None, alpha=None)
    slope = told["alpha"] if told["negative_slope"] is None else told["negative_slope"]
    if slope is None:
        layer.refuse("does not tell its slope")
    return [(ops.Activation("relu", (float(slope), 0.0, INFINITY)), [0])]


def _elu(layer: Layer) -> Steps:
    return [(ops.Activation("elu", (1.0, float(layer.options(alpha=1.0)["alpha"]))), [0])]


def _prelu(layer: Layer) -> Steps:
    if layer.options(shared_axes=None)["shared_axes"] is not None:
        layer.refuse("shares its slopes")
    return [(ops.PRelu(layer.arrays((layer.one_input(),))[0]), [0])]


def _softmax(layer: Layer) -> Steps:
    if layer.options(axis=-1)["axis"] not in (-1, 1):
        layer.refuse("is over another axis than the columns")
    return [(ops.Softmax(log=False), [0])]


def _idle(*options: str) -> Callable[[Layer], Steps]:
    def steps(layer: Layer) -> Steps:
        layer.options(**dict.fromkeys(options))
        layer.one_input()
        return IDENTITY

    return steps


def _batch_norm(layer: Layer) -> Steps:
    told = layer.options(
        axis=-1, epsilon=None, center=True, scale=True, synchronized=False, renorm=False, renorm_clipping=None, renorm_momentum=None
    )
    if told["axis"] not in (-1, 1, [-1], [1]) or told["epsilon"] is None or told["renorm"]:
        layer.refuse("normalises over another axis, or in a way")
    width = layer.one_input()
    arrays = [one.astype(np.float64) for one in layer.arrays(*[(width,)] * (2 + bool(told["scale"]) + bool(told["center"])))]
    gamma = arrays.pop(0) if told["scale"] else np.ones(width)
    beta = arrays.pop(0) if told["center"] else np.zeros(width)
    mean, variance = arrays
    return [(scale(width, center=mean, factor=gamma, divisor=np.sqrt(variance + float(told["epsilon"])), offset=beta), [0])]


def _rescaling(layer: Layer) -> Steps:
    told = layer.options(scale=1.0, offset=0.0)
    return [(scale(layer.one_input(), factor=told["scale"], offset=told["offset"]), [0])]


def _concatenate(layer: Layer) -> Steps:
    if layer.options(axis=-1)["axis"] not in (-1, 1):
        layer.refuse("joins another axis than the columns")
    return [(ops.Concat(), list(range(len(layer.widths))))]


def _fold(kind: str, *, mean: bool = False, exactly: int = 0) -> Callable[[Layer], Steps]:
    """Several inputs, combined one after the other."""

    def steps(layer: Layer) -> Steps:
        layer.options()
        count = len(layer.widths)
        if count < 2 or exactly not in (0, count) or len(set(layer.widths)) != 1:
            layer.refuse("combines values of widths %s" % list(layer.widths))
        found: Steps = [(ops.Combine(kind), [0, 1])]
        for one in range(2, count):
            found.append((ops.Combine(kind), [-len(found), one]))
        if mean:
            found.append((scale(layer.widths[0], divisor=float(count)), [-len(found)]))
        return found

    return steps


LAYERS: Mapping[str, Callable[[Layer], Steps]] = {
    "Dense": _dense,
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": _leaky,
    "PReLU": _prelu,
    "ELU": _elu,
    "Softmax": _softmax,
    "BatchNormalization": _batch_norm,
    "Rescaling": _rescaling,
    "Dropout": _idle("rate", "noise_shape"),
    "AlphaDropout": _idle("rate", "noise_shape"),
    "GaussianDropout": _idle("rate"),
    "GaussianNoise": _idle("stddev"),
    "ActivityRegularization": _idle("l1", "l2"),
    "Identity": _idle(),
    "Flatten": _idle("data_format"),
    "Concatenate": _concatenate,
    "Add": _fold("add"),
    "Subtract": _fold("subtract", exactly=2),
    "Multiply": _fold("multiply"),
    "Maximum": _fold("maximum"),
    "Minimum": _fold("minimum"),
    "Average": _fold("add", mean=True),
}
"""Class of layer, or of operation on tensors: what it becomes."""
