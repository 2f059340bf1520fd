"""ONNX files against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from model_judging import differences, library
from onnx import TensorProto, helper, numpy_helper

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.frontends import Request, read
from gha_apptainer.models.frontends.onnx import RULES
from gha_apptainer.models.ir.graphs import Graph

WIDE = 12
PLAIN = [
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "Tanh",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Softplus",
    "Softsign",
    "Mish",
    "Exp",
]


def made(
    nodes: list[Any], numbers: dict[str, Any], place: Path, *, inputs: dict[str, int] | None = None, out: int = WIDE, name: str = "m"
) -> Path:
    given = [helper.make_tensor_value_info(one, TensorProto.FLOAT, [None, width]) for one, width in (inputs or {"x": WIDE}).items()]
    ends = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, [None, out])]
    held = [numpy_helper.from_array(np.asarray(array), one) for one, array in numbers.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", given, ends, held), opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    path = place / (name + ".onnx")
    onnx.save(model, path)
    return path


def original(path: Path, given: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)[0]


def weights(rng: np.random.Generator, rows: int, columns: int) -> Any:
    return (rng.normal(size=(rows, columns)) / np.sqrt(rows)).astype(np.float32)


def test_every_operation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = helper.make_node
    one = rng.normal(size=WIDE).astype(np.float32)
    cases: dict[str, tuple[list[Any], dict[str, Any]]] = {kind: ([n(kind, ["x"], ["y"])], {}) for kind in PLAIN}
    cases["GeluTanh"] = ([n("Gelu", ["x"], ["y"], approximate="tanh")], {})
    cases["Gemm"] = (
        [n("Gemm", ["x", "w", "b"], ["y"], alpha=0.5, beta=2.0, transB=1)],
        {"w": weights(rng, WIDE, WIDE), "b": one},
    )
    cases["MatMul"] = ([n("MatMul", ["x", "w"], ["m"]), n("Add", ["m", "b"], ["y"])], {"w": weights(rng, WIDE, WIDE), "b": one})
    for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"):
        cases[kind] = (
            [
                n("Tanh", ["x"], ["t"]),
                n(kind, ["x", "c"], ["a"]) if kind != "Sum" else n(kind, ["x", "t", "x"], ["a"]),
                n("Max", ["a", "t"], ["y"]),
            ],
            {"c": one},
        )
    cases["PRelu"] = ([n("PRelu", ["x", "c"], ["y"])], {"c": one})
    cases["Softmax"] = ([n("Softmax", ["x"], ["y"], axis=1)], {})
    cases["LogSoftmax"] = ([n("LogSoftmax", ["x"], ["y"])], {})
    cases["Gather"] = (
        [n("Gather", ["x", "i"], ["g"], axis=1), n("Concat", ["g", "g"], ["y"], axis=-1)],
        {"i": np.array([0, -1, 3, 3, 7, 2])},
    )
    cases["Clip"] = ([n("Clip", ["x", "l", "h"], ["y"])], {"l": np.float32(-0.5), "h": np.float32(1)})
    cases["BatchNormalization"] = (
        [n("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"], epsilon=1e-3)],
        {"g": one, "b": one[::-1].copy(), "m": one * 2, "v": np.abs(one) + 0.1},
    )
    cases["Identity"] = ([n("Identity", ["x"], ["i"]), n("Dropout", ["i"], ["d"]), n("Tanh", ["d"], ["y"])], {})
    used = {node.op_type for nodes, _ in cases.values() for node in nodes}
    assert used >= set(RULES), sorted(set(RULES) - used)
    graphs: list[Graph] = []
    paths = []
    for name, (nodes, numbers) in cases.items():
        paths.append(made(nodes, numbers, tmp_path, name=name))
        graphs += read(Request(paths[-1], "f_" + name))[0]
    compiled = library(graphs, tmp_path)
    x = (rng.normal(size=(60, WIDE)) * 2).astype(np.float32)
    x[3], x[4] = 0.0, -0.0
    for graph, path in zip(graphs, paths, strict=True):
        assert differences(graph, original(path, {"x": x}), x, compiled[graph.name], slack=5e-6) == "", graph.name


@pytest.mark.parametrize("seed", range(3))
def test_random_networks_with_noise(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    n = helper.make_node
    numbers: dict[str, Any] = {}
    nodes = [n("Concat", ["x", "noise"], ["v0"], axis=1)]
    wide, value = WIDE + 5, "v0"
    for at in range(6):
        out = int(rng.choice([8, 20, 64])) if at < 5 else 3
        numbers |= {"w%d" % at: weights(rng, wide, out), "b%d" % at: rng.normal(size=out).astype(np.float32)}
        nodes.append(n("Gemm", [value, "w%d" % at, "b%d" % at], ["g%d" % at]))
        nodes.append(n(str(rng.choice(PLAIN[:-1])), ["g%d" % at], ["a%d" % at]))
        before, value = value, "a%d" % at
        if out == wide:
            nodes.append(n("Add", [value, before], ["r%d" % at]))
            value = "r%d" % at
        wide = out
    path = made(nodes, numbers, tmp_path, inputs={"x": WIDE, "noise": 5}, out=3)
    (graph,) = read(Request(path, "f"))[0]
    assert graph.noise == 5
    x, noise = rng.normal(size=(50, WIDE)).astype(np.float32), rng.normal(size=(50, 5)).astype(np.float32)
    assert differences(graph, original(path, {"x": x, "noise": noise}), x, library([graph], tmp_path)["f"], noise, slack=1e-5) == ""


@pytest.mark.parametrize(
    ("node", "numbers", "told"),
    [
        (helper.make_node("Sin", ["x"], ["y"], name="odd"), {}, r"'odd' \(Sin\) is an operation"),
        (helper.make_node("Softmax", ["x"], ["y"], axis=0, name="odd"), {}, "'odd'.*another axis"),
        (helper.make_node("MatMul", ["x", "x"], ["y"], name="odd"), {}, "'odd'.*no fixed matrix"),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, name="odd"), {"w": np.ones((WIDE, WIDE), np.float32)}, "'odd'.*transposes"),
        (helper.make_node("Dropout", ["x", "r", "t"], ["y"], name="odd"), {"r": np.float32(0.5), "t": np.array(True)}, "'odd'.*training"),
        (helper.make_node("PRelu", ["x", "x"], ["y"], name="odd"), {}, "'odd'.*slopes"),
        (helper.make_node("Add", ["x", "c"], ["y"], name="odd"), {"c": np.ones((3, WIDE), np.float32)}, "'odd'.*numbers of shape"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(node: Any, numbers: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        read(Request(made([node], numbers, tmp_path), "f"))


def test_what_is_no_onnx_file_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no protobuf")
    with pytest.raises(InputError, match="no valid ONNX file"):
        read(Request(path, "f"))
