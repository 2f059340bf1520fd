"""Models put together to functions: preprocessing, noise, network, inverse; chains of several; sentinels where a row has no answer.

What people write is checked by the schema `models-pipeline.json` before it comes here; this module gives it meaning, and every width and
name is checked once more when the graph is made. Columns are named, never counted, so that two steps cannot disagree about an order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.frontends import Request, read
from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.graphs import INPUT, NOISE, Builder, Graph, Program

Source = tuple[str, str, str]


def program(document: Mapping[str, Any], place: Path, name: str, *, allow_pickle: bool) -> Program:
    """The library that a pipeline file describes; `place` is the directory of that file."""
    models: dict[str, dict[str, Graph]] = {}
    sources: list[Source] = []
    for key, told in document["models"].items():
        path = place / told["file"]
        graphs, source = read(Request(path, "m", told.get("noise", "noise"), allow_pickle))
        models[key] = {graph.name: graph for graph in graphs}
        sources.append(source)
    functions = tuple(_Function(one, told, models).graph() for one, told in document["functions"].items())
    return Program(name, functions, tuple(sources))


class _Function:
    """One function while it is put together."""

    def __init__(self, name: str, told: Mapping[str, Any], models: Mapping[str, Mapping[str, Graph]]) -> None:
        self._name, self._told, self._models = name, told, models
        self._builder = Builder()
        self._columns: dict[str, tuple[str, ...]] = {INPUT: tuple(told["inputs"])}
        self._values: dict[str, str] = {INPUT: INPUT}
        if told.get("noise"):
            self._columns[NOISE] = tuple(str(at) for at in range(told["noise"]))
            self._values[NOISE] = NOISE

    def graph(self) -> Graph:
        for step in self._told["steps"]:
            if step["name"] in self._values:
                self._refuse("two steps are named %r" % step["name"])
            kind = next(one for one in ("model", "join", "constant", "if") if one in step)
            getattr(self, "_" + kind)(step)
        result = self._told["result"]
        if result not in self._values:
            self._refuse("there is no step %r" % result)
        outputs = tuple(self._told.get("outputs") or self._columns[result])
        if len(set(outputs)) != len(outputs):
            self._refuse("two outputs have one name; give names with `outputs:`")
        self._check_noise()
        return self._builder.graph(self._name, self._told["inputs"], self._told.get("noise", 0), self._values[result], outputs)

    def _refuse(self, what: str) -> NoReturn:
        raise InputError("function %s: %s" % (self._name, what))

    def _check_noise(self) -> None:
        """Noise that nobody uses is as wrong as noise that two models share."""
        used: list[int] = []
        for step in self._told["steps"]:
            if "noise" in step:
                used += range(*step["noise"])
        if len(set(used)) != len(used):
            self._refuse("two models get the same noise")
        if used and sorted(used) != list(range(self._told.get("noise", 0))):
            self._refuse("it takes %d numbers of noise, its steps use %d of them" % (self._told.get("noise", 0), len(used)))

    def _keep(self, name: str, value: str, columns: Sequence[str]) -> None:
        self._values[name], self._columns[name] = value, tuple(columns)

    def _take(self, told: Sequence[str], name: str) -> tuple[str, tuple[str, ...]]:
        """The value that a list of steps and columns means, and the names of its columns."""
        parts = [self._part(one, name) for one in told]
        if len(parts) == 1:
            return parts[0]
        return self._builder.add(name + ".in", ops.Concat(), [one for one, _ in parts]), tuple(c for _, names in parts for c in names)

    def _part(self, told: str, name: str) -> tuple[str, tuple[str, ...]]:
        if told in self._values:
            return self._values[told], self._columns[told]
        step, _, column = told.partition(".")
        if step not in self._values:
            self._refuse("step %r takes %r, which is no step before it" % (name, told))
        if column not in self._columns[step]:
            self._refuse("%r has no column %r; it has: %s" % (step, column, ", ".join(self._columns[step])))
        at = self._columns[step].index(column)
        return self._builder.add(told, ops.Gather((at,)), [self._values[step]]), (column,)

    def _model(self, step: Mapping[str, Any]) -> None:
        name, key = step["name"], step["model"]
        if key not in self._models:
            self._refuse("step %r uses the model %r, which is not among: %s" % (name, key, ", ".join(self._models)))
        wanted = "m_inverse" if step.get("inverse") else "m"
        if wanted not in self._models[key]:
            self._refuse("step %r: the model %r has no inverse" % (name, key))
        graph = self._models[key][wanted]
        value, columns = self._take(step["of"], name)
        if len(columns) != len(graph.inputs):
            self._refuse("step %r gives %d columns to the model %r, which takes %d" % (name, len(columns), key, len(graph.inputs)))
        noise = ""
        if graph.noise:
            first, end = step.get("noise", (0, -1))
            if end - first != graph.noise or end > self._told.get("noise", 0):
                self._refuse("step %r: the model %r takes %d numbers of noise; say which: noise: [first, end]" % (name, key, graph.noise))
            noise = self._builder.add(name + ".noise", ops.Gather(tuple(range(first, end))), [NOISE])
        elif "noise" in step:
            self._refuse("step %r: the model %r takes no noise" % (name, key))
        inlined = self._builder.inline(graph, value, noise, name + "/")
        self._keep(name, inlined, graph.outputs)

    def _join(self, step: Mapping[str, Any]) -> None:
        value, columns = self._take(step["join"], step["name"])
        self._keep(step["name"], value, columns)

    def _constant(self, step: Mapping[str, Any]) -> None:
        values = np.array(step["constant"], np.float32)
        self._keep(step["name"], self._builder.add(step["name"], ops.Constant(values), []), ["c%d" % at for at in range(len(values))])

    def _if(self, step: Mapping[str, Any]) -> None:
        name = step["name"]
        (comparison, limit) = next((key, value) for key, value in step["if"].items() if key != "column")
        condition, names = self._part(step["if"]["column"], name)
        then, columns = self._part(step["then"], name)
        otherwise, others = self._part(step["else"], name)
        if len(names) != 1 or len(columns) != len(others):
            self._refuse("step %r decides by one column between two of the same width, not %d and %d" % (name, len(columns), len(others)))
        self._keep(name, self._builder.add(name, ops.Select(comparison, float(limit)), [condition, then, otherwise]), columns)
