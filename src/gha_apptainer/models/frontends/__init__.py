"""Files of trained models, read into the IR: one module a format, one row in `READERS` each.

Rule: an operation, attribute or option that is not understood is an error naming the node. Nothing is skipped, guessed or approximated. No
training software runs: a Keras file is read as what it is, a zip with JSON and HDF5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.ir.graphs import Graph


@dataclass(frozen=True)
class Request:
    """What a reader gets: the file, the name of the function, the input layer that is noise, and whether a pickle may be opened."""

    path: Path
    name: str
    noise_input: str = "noise"
    allow_pickle: bool = False


Reader = Callable[[Request], tuple[Graph, ...]]

READERS: Mapping[str, str] = {
    ".keras": "keras",
    ".skops": "sklearn",
    ".pkl": "pickles",
    ".pickle": "pickles",
    ".joblib": "pickles",
    ".onnx": "onnx",
    ".treelite": "treelite",
    ".ubj": "treelite",
    ".json": "treelite",
}
"""Suffix: module. `.json` is an XGBoost model; a saved IR ends in `.ir.json` and is no model to be read here."""


def read(request: Request) -> tuple[tuple[Graph, ...], tuple[str, str, str]]:
    """The functions that a file holds, and the file's name, SHA-256 and reader."""
    suffix = request.path.suffix.lower()
    if suffix not in READERS:
        raise InputError(
            "%s: no reader for %r" % (request.path, suffix or "a file without suffix"), remedy="known: %s" % ", ".join(READERS)
        )
    if not request.path.is_file():
        raise InputError("%s: no such file" % request.path)
    module = import_module("gha_apptainer.models.frontends.%s" % READERS[suffix])
    reader: Reader = module.read
    digest = hashlib.sha256(request.path.read_bytes()).hexdigest()
    return reader(request), (request.path.name, digest, READERS[suffix])
