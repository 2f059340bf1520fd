"""sklearn objects, loaded by skops: transformers with their inverses, trees and ensembles of them, perceptrons, linear models.

An object is read by its exact class, never by its name alone, and each class has the list of its parameters that are understood; one that
is in no list is an error, since a newer sklearn may mean something by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gha_apptainer.domain.errors import InputError, Untrusted
from gha_apptainer.models.extra import require
from gha_apptainer.models.frontends import Request, sklearn_models, sklearn_transformers
from gha_apptainer.models.frontends.sklearn_reading import NotInvertible, Reading, class_of
from gha_apptainer.models.ir.graphs import INPUT, Graph, numbered

Rule = Callable[[Reading, Any, str], str]

FORWARD: Mapping[str, Rule] = {**sklearn_transformers.FORWARD, **sklearn_models.FORWARD}
INVERSE: Mapping[str, Rule] = sklearn_transformers.INVERSE


def read(request: Request) -> tuple[Graph, ...]:
    """The functions of a `.skops` file. Only classes of sklearn, numpy and scipy are loaded; others are Untrusted."""
    io = require("skops.io")
    foreign = [name for name in io.get_untrusted_types(file=request.path) if not name.startswith(("sklearn.", "numpy.", "scipy."))]
    if foreign:
        raise Untrusted("%s holds objects of other packages: %s" % (request.path, ", ".join(foreign)))
    trusted = io.get_untrusted_types(file=request.path)
    return graphs(io.load(request.path, trusted=trusted), request)


def graphs(model: Any, request: Request) -> tuple[Graph, ...]:
    """The function of an object, and its inverse `NAME_inverse` where it has one."""
    where = str(request.path)
    inputs = input_names(model, where)
    reading = Reading(where, FORWARD, INVERSE, {INPUT: len(inputs)})
    result = reading.forward(model, INPUT)
    outputs = output_names(model, reading.widths[result])
    found = [reading.builder.graph(request.name, inputs, 0, result, outputs)]
    backward = Reading(where, FORWARD, INVERSE, {INPUT: len(outputs)})
    try:
        result = backward.inverse(model, INPUT)
    except NotInvertible:
        return tuple(found)
    if backward.widths[result] != len(inputs):
        raise InputError("%s: the inverse gives %d columns for %d inputs" % (where, backward.widths[result], len(inputs)))
    found.append(backward.builder.graph(request.name + "_inverse", outputs, 0, result, inputs))
    return tuple(found)


def input_names(model: Any, where: str) -> tuple[str, ...]:
    """The names that the object was trained with, or x0, x1, …"""
    named = getattr(model, "feature_names_in_", None)
    if named is not None:
        return tuple(str(one) for one in named)
    count = getattr(model, "n_features_in_", None)
    if count is None:
        raise InputError("%s: a %s that is not fitted does not tell how many inputs it takes" % (where, class_of(model)))
    return numbered("x", int(count))


def output_names(model: Any, width: int) -> tuple[str, ...]:
    """What a classifier or transformer calls its outputs, or y0, y1, …"""
    classes = getattr(model, "classes_", None)
    if isinstance(classes, np.ndarray) and classes.ndim == 1 and len(classes) == width:
        return tuple("p_%s" % one for one in classes)
    names: Sequence[Any] = ()
    if hasattr(model, "get_feature_names_out"):
        try:
            names = model.get_feature_names_out()
        except (ValueError, AttributeError, NotImplementedError):
            names = ()
    if len(names) == width and len(set(names)) == width:
        return tuple(str(one) for one in names)
    return numbered("y", width)
