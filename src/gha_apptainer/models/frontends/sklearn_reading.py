"""The walk over sklearn objects: who reads which class, and the nodes that have been made so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.ir import ops
from gha_apptainer.models.ir.graphs import Builder


class NotInvertible(Exception):
    """There is no inverse, and that is no error."""


def class_of(model: Any) -> str:
    """The class with the package that it belongs to: `sklearn.preprocessing.StandardScaler`, whatever private module defines it."""
    kind = type(model)
    public = kind.__module__.partition("._")[0]
    return "%s.%s" % (public, kind.__qualname__)


class Reading:
    """Nodes made from one object."""

    def __init__(
        self, where: str, forward: Mapping[str, Callable[..., str]], inverse: Mapping[str, Callable[..., str]], widths: dict[str, int]
    ) -> None:
        self.where = where
        self.builder = Builder()
        self.widths = dict(widths)
        self._rules = forward, inverse
        self._path: list[str] = []

    def refuse(self, what: str) -> NoReturn:
        """The one error for what is not understood, naming the step."""
        raise InputError("%s: %s %s, which is not understood" % (self.where, " / ".join(self._path) or "it", what))

    def forward(self, model: Any, value: str, step: str = "") -> str:
        """The value that the object makes of a value."""
        return self._apply(self._rules[0], model, value, step)

    def inverse(self, model: Any, value: str, step: str = "") -> str:
        """The value that the object's inverse makes of a value; NotInvertible where there is none."""
        if class_of(model) in self._rules[0] and class_of(model) not in self._rules[1]:
            raise NotInvertible
        return self._apply(self._rules[1], model, value, step)

    def _apply(self, rules: Mapping[str, Callable[..., str]], model: Any, value: str, step: str) -> str:
        kind = class_of(model)
        self._path.append("%s (%s)" % (step, kind) if step else kind)
        if kind not in rules:
            self.refuse("is of a class")
        found = rules[kind](self, model, value)
        self._path.pop()
        return found

    def options(self, model: Any, read: str, idle: str = "") -> dict[str, Any]:
        """The parameters that are read, given as words; those of `idle` change nothing. Any other is refused."""
        told = model.get_params(deep=False)
        known = set(read.split()) | set(idle.split()) | _IDLE
        extra = sorted(set(told) - known)
        if extra:
            self.refuse("has the option %s=%r" % (extra[0], told[extra[0]]))
        return {name: told.get(name) for name in read.split()}

    def add(self, name: str, op: ops.Op, inputs: Sequence[str]) -> str:
        """Append a node; the name of its value."""
        try:
            width = op.width([self.widths[one] for one in inputs])
        except InputError as error:
            raise InputError("%s: %s: %s" % (self.where, " / ".join(self._path), error.what)) from error
        found = self.builder.add(name, op, inputs)
        self.widths[found] = width
        return found


_IDLE = frozenset(["copy", "n_jobs", "random_state", "verbose", "memory"])
