"""Pickles and joblib files of sklearn objects. Opening one runs whatever code its author put there, so it has to be allowed."""

from __future__ import annotations

from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.models.extra import require
from gha_apptainer.models.frontends import Request, sklearn
from gha_apptainer.models.ir.graphs import Graph


def read(request: Request) -> tuple[Graph, ...]:
    """The functions of the object, as for a `.skops` file."""
    if not request.allow_pickle:
        raise Refused(
            "%s is a pickle, and opening a pickle runs the code in it" % request.path,
            remedy="save the model with skops.io.dump, or give --allow-pickle for a file that you made yourself",
        )
    try:
        model = require("joblib").load(request.path)
    except (ValueError, KeyError, AttributeError, ImportError, EOFError, IndexError, OSError, TypeError) as error:
        raise InputError("%s cannot be opened as a pickle: %s" % (request.path, error)) from error
    return sklearn.graphs(model, request)
