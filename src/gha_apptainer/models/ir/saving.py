"""Programs as files: `NAME.ir.json`, which people can read, and `NAME.ir.bin`, the numbers. This pair is the released source of a model.

The content hash covers both: the JSON names the digest of the blob, and its own digest is the program's. Reading checks both, and builds
every operation anew, so that a file cannot hold what a front end could not have made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from gha_apptainer.domain.errors import GhaError, Untrusted
from gha_apptainer.models.ir.graphs import Graph, Node, Program
from gha_apptainer.models.ir.ops import OPS, Op
from gha_apptainer.node import files

VERSION = 1
_TYPES = {"float32": np.float32, "float64": np.float64, "int32": np.int32}
_ALIGN = 64
_LIMIT = 4 << 30


def encode(program: Program) -> tuple[bytes, bytes]:
    """The JSON and the blob."""
    blob = bytearray()
    functions = [
        {
            "name": one.name,
            "inputs": list(one.inputs),
            "noise": one.noise,
            "result": one.result,
            "outputs": list(one.outputs),
            "nodes": [
                {"name": node.name, "op": node.op.op, "inputs": list(node.inputs), **_op_fields(node.op, blob)} for node in one.nodes
            ],
        }
        for one in program.functions
    ]
    document = {
        "version": VERSION,
        "name": program.name,
        "sources": [list(one) for one in program.sources],
        "functions": functions,
        "blob": {"size": len(blob), "sha256": hashlib.sha256(blob).hexdigest()},
    }
    return json.dumps(document, ensure_ascii=True, indent=1, sort_keys=True).encode() + b"\n", bytes(blob)


def content_hash(program: Program) -> str:
    """SHA-256 over the functions and their numbers; where they were read from does not count."""
    return hashlib.sha256(encode(dataclasses.replace(program, sources=()))[0]).hexdigest()


def _op_fields(op: Op, blob: bytearray) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in dataclasses.fields(op):
        value = getattr(op, field.name)
        if isinstance(value, np.ndarray):
            blob.extend(b"\0" * (-len(blob) % _ALIGN))
            kind = next(name for name, one in _TYPES.items() if value.dtype == one)
            found[field.name] = {"type": kind, "shape": list(value.shape), "at": len(blob)}
            blob.extend(np.ascontiguousarray(value, np.dtype(value.dtype).newbyteorder("<")).tobytes())
        elif isinstance(value, float):
            found[field.name] = value.hex()
        elif isinstance(value, tuple):
            found[field.name] = [one.hex() if isinstance(one, float) else one for one in value]
        else:
            found[field.name] = value
    return found


def save(program: Program, directory: Path) -> tuple[Path, Path]:
    """Write both files below the directory; their paths."""
    text, blob = encode(program)
    paths = directory / ("%s.ir.json" % program.name), directory / ("%s.ir.bin" % program.name)
    files.write_whole(str(paths[1]), blob, mode=0o644)
    files.write_whole(str(paths[0]), text, mode=0o644)
    return paths


def read(path: Path) -> Program:
    """The program that `NAME.ir.json` and the blob beside it hold. Raises Untrusted where they do not agree or are damaged."""
    text = files.read_whole(str(path), limit=_LIMIT)
    beside = path.with_name(path.name.removesuffix(".json") + ".bin")
    try:
        blob = files.read_whole(str(beside), limit=_LIMIT)
    except FileNotFoundError as error:
        raise Untrusted("%s is missing beside %s" % (beside.name, path)) from error
    return decode(text, blob, str(path))


def decode(text: bytes, blob: bytes, where: str) -> Program:
    """The program that a JSON and a blob hold."""
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise Untrusted("%s has version %r, this program reads %d" % (where, document["version"], VERSION))
        if document["blob"] != {"size": len(blob), "sha256": hashlib.sha256(blob).hexdigest()}:
            raise Untrusted("%s and the numbers beside it do not belong together, or one is damaged" % where)
        functions = tuple(_read_graph(one, blob) for one in document["functions"])
        return Program(document["name"], functions, tuple((str(a), str(b), str(c)) for a, b, c in document["sources"]))
    except GhaError as error:
        raise Untrusted("%s: %s" % (where, error.what)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Untrusted("%s is not a saved model: %s" % (where, error)) from error


def _read_graph(raw: dict[str, Any], blob: bytes) -> Graph:
    nodes = []
    for one in raw["nodes"]:
        kind = OPS[one["op"]]
        names = {field.name: str(field.type) for field in dataclasses.fields(kind)}
        extra = set(one) - set(names) - {"name", "op", "inputs"}
        if extra:
            raise ValueError("node %r has unknown fields: %s" % (one["name"], ", ".join(sorted(extra))))
        fields = {name: _read_field(one[name], told, blob) for name, told in names.items()}
        nodes.append(Node(one["name"], kind(**fields), tuple(one["inputs"])))
    return Graph(raw["name"], tuple(raw["inputs"]), int(raw["noise"]), tuple(nodes), raw["result"], tuple(raw["outputs"]))


def _read_field(raw: Any, told: str, blob: bytes) -> object:
    if isinstance(raw, dict):
        kind, shape, at = _TYPES[raw["type"]], tuple(int(one) for one in raw["shape"]), int(raw["at"])
        count = int(np.prod(shape, dtype=np.int64))
        if min(shape, default=0) < 0 or at < 0 or at + count * np.dtype(kind).itemsize > len(blob):
            raise ValueError("numbers outside the blob")
        return np.frombuffer(blob, np.dtype(kind).newbyteorder("<"), count, at).astype(kind).reshape(shape)
    if told == "float":
        return float.fromhex(raw)
    if told.startswith("tuple[float"):
        return tuple(float.fromhex(one) for one in raw)
    if told.startswith("tuple[int"):
        return tuple(int(one) for one in raw)
    if told in ("bool", "int", "str") and type(raw).__name__ == told:
        return raw
    raise ValueError("%r where %s is wanted" % (raw, told))
