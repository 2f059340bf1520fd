"""Compiled functions beside the objects that they come from: one library for many, judged on ordinary and on special rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gha_apptainer.models import loading
from gha_apptainer.models.emit.program import EXACT, Options, emit
from gha_apptainer.models.ir import interpret, saving
from gha_apptainer.models.ir.graphs import Graph, Program
from gha_apptainer.models.toolchain import compilers
from gha_apptainer.models.toolchain.building import build


def library(graphs: Sequence[Graph], place: Path) -> loading.Library:
    """All functions compiled, after they were saved and read as a release is."""
    program = Program("judged", tuple(graphs))
    place.mkdir(parents=True, exist_ok=True)
    program = saving.read(saving.save(program, place)[0])
    options = Options(EXACT, 3)
    return loading.load(build(emit(program, options), program.name, compilers.local(), options, place).path)


def differences(one: Graph, wanted: Any, x: Any, compiled: loading.Function, noise: Any = None, *, slack: float = 0.0) -> str:
    """Empty, or the worst difference between the original and the interpreter, or the interpreter and the compiled function.

    `slack` is what the original itself may be off by, for an original that computes in float32.
    """
    with np.errstate(all="ignore"):
        meant = interpret.evaluate(one, x, noise)
        near = interpret.tolerance(one, x, noise)
    wanted = np.asarray(wanted, np.float64).reshape(meant.shape)
    for what, got, beside, allowed in (
        ("interpreter and original", meant, wanted, near + slack * (1 + np.abs(np.nan_to_num(wanted, posinf=0, neginf=0)))),
        ("compiled and interpreter", compiled(x, noise), meant, near),
        ("compiled row by row and interpreter", compiled.row_by_row(x, noise), meant, near),
    ):
        with np.errstate(all="ignore"):
            good = (np.isnan(got) & np.isnan(beside)) | (got == beside) | (np.abs(got - beside) <= allowed)
        if not good.all():
            row, column = np.argwhere(~good)[0]
            told = (what, one.name, (~good).sum(), row, column, got[row, column], beside[row, column], allowed[row, column])
            return "%s of %s differ in %d places; row %d column %d: %r and %r, allowed %r" % told
    return ""
