"""The IR: shapes and names are checked, files are exact and damage is found, the noise generator is the published one."""

from __future__ import annotations

import json
from pathlib import Path

import model_graphs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gha_apptainer.domain.errors import InputError, Untrusted
from gha_apptainer.models.ir import draws, explain, interpret, ops, saving
from gha_apptainer.models.ir.graphs import INPUT, Graph, Node, Program, numbered

TANH = Node("t", ops.Activation("tanh", ()), (INPUT,))


def product(rows: int, columns: int) -> ops.Affine:
    return ops.Affine(np.ones((rows, columns), np.float32), np.zeros(columns, np.float32))


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([Node("a", product(4, 2), (INPUT,))], "weights of shape"),
        ([Node("a", ops.Activation("tanh", ()), ("b",))], "not computed before"),
        ([TANH, Node("t", ops.Activation("tanh", ()), (INPUT,))], "two values are named"),
        ([Node("t", ops.Activation("tangens", ()), (INPUT,))], "no activation is named 'tangens'"),
        ([Node("t", ops.Activation("elu", (1.0,)), (INPUT,))], "takes 2 parameters"),
        ([Node("g", ops.Gather((3,)), (INPUT,))], "gather takes columns"),
        ([Node("c", ops.Combine("modulo"), (INPUT, INPUT))], "no combination is named"),
        ([TANH, Node("g", ops.Gather((0,)), (INPUT,)), Node("c", ops.Combine("add"), ("t", "g"))], "one width"),
        ([Node("p", ops.PRelu(np.ones(2, np.float32)), (INPUT,))], "for a width of 3"),
        ([Node("a", ops.Affine(np.full((3, 1), np.nan, np.float32), np.zeros(1, np.float32)), (INPUT,))], "not finite"),
        ([Node("m", ops.Map("arccosh", 0.0), (INPUT,))], "no function is named 'arccosh'"),
        ([Node("q", ops.Quantile(np.ones((2, 3))[::-1].cumsum(0)[::-1], np.linspace(0, 1, 2), True, False), (INPUT,))], "does not rise"),
    ],
)
def test_a_graph_that_does_not_fit_together_is_refused_by_the_name_of_its_node(nodes: list[Node], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        Graph("f", numbered("x", 3), 0, tuple(nodes), nodes[-1].name, numbered("y", 3))
    assert str(caught.value).startswith("f: ")


@pytest.mark.parametrize("name", ["", "2x", "a-b", "while", "gha_x", "a b"])
def test_a_function_has_a_name_that_c_takes(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a C function"):
        Graph(name, ("x",), 0, (), INPUT, ("y",))


@pytest.mark.parametrize("change", ["feature", "left", "leaf", "target"])
def test_trees_that_lead_nowhere_are_refused(change: str) -> None:
    tables = {
        "feature": [0, -1, -1],
        "left": [1, 0, 1],
        "targets": [0],
        "leaves": [[1.0], [2.0]],
    }
    tables.update(
        {"feature": {"feature": [7, -1, -1]}, "left": {"left": [0, 0, 1]}, "leaf": {"left": [1, 0, 9]}, "target": {"targets": [3]}}[change]
    )
    whole = np.int32
    op = ops.Trees(
        2,
        np.array(tables["feature"], whole),
        np.zeros(3),
        np.array(tables["left"], whole),
        np.zeros(3, whole),
        np.zeros(1, whole),
        np.array(tables["targets"], whole),
        np.array(tables["leaves"]),
        np.zeros(1),
        1.0,
        True,
    )
    with pytest.raises(InputError, match=r"trees have|trees name"):
        Graph("f", numbered("x", 2), 0, (Node("t", op, (INPUT,)),), "t", ("y",))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_saved_program_is_the_same_program(seed: int) -> None:
    program = model_graphs.program(seed, 2)
    text, blob = saving.encode(program)
    again = saving.decode(text, blob, "file")
    assert saving.encode(again) == (text, blob)
    assert saving.content_hash(again) == saving.content_hash(program)
    for one, other in zip(program.functions, again.functions, strict=True):
        x, noise = model_graphs.rows(np.random.default_rng(seed), one, 40)
        assert interpret.evaluate(one, x, noise).tobytes() == interpret.evaluate(other, x, noise).tobytes()


def test_the_content_hash_knows_each_number_but_not_the_sources() -> None:
    one = Program("m", (Graph("f", numbered("x", 3), 0, (Node("a", product(3, 2), (INPUT,)),), "a", numbered("y", 2)),))
    weight = np.ones((3, 2), np.float32)
    weight[2, 1] = np.nextafter(np.float32(1), np.float32(2))
    node = Node("a", ops.Affine(weight, np.zeros(2, np.float32)), (INPUT,))
    other = Program("m", (Graph("f", numbered("x", 3), 0, (node,), "a", numbered("y", 2)),))
    assert saving.content_hash(one) != saving.content_hash(other)
    assert saving.content_hash(Program("m", one.functions, (("a.keras", "0" * 64, "keras"),))) == saving.content_hash(one)


def test_damaged_files_are_not_read(tmp_path: Path) -> None:
    program = model_graphs.program(3, 2, "model")
    text, blob = saving.save(program, tmp_path)
    assert saving.content_hash(saving.read(text)) == saving.content_hash(program)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Untrusted, match="do not belong together"):
        saving.read(text)
    blob.unlink()
    with pytest.raises(Untrusted, match="is missing"):
        saving.read(text)
    blob.write_bytes(whole)
    good = json.loads(text.read_text())
    for change in ({"version": 99}, {"functions": "none"}, {"functions": [{**good["functions"][0], "result": "nothing"}]}):
        text.write_text(json.dumps({**good, **change}))
        with pytest.raises(Untrusted):
            saving.read(text)
    field = {**good["functions"][0]["nodes"][0], "surprise": 1}
    text.write_text(json.dumps({**good, "functions": [{**good["functions"][0], "nodes": [field]}]}))
    with pytest.raises(Untrusted, match="surprise"):
        saving.read(text)


def test_philox_gives_the_published_numbers() -> None:
    """The known answers of the authors' own Random123 library."""
    ones = (1 << 32) - 1
    pi = ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], (0xA4093822, 0x299F31D0))
    for counter, key, wanted in (
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([ones] * 4, (ones, ones), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (pi[0], pi[1], "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ):
        assert " ".join("%08x" % word for word in draws.philox(np.array([counter], np.uint64), key)[0]) == wanted


def test_drawn_numbers_are_normal_and_independent_of_the_batch() -> None:
    drawn = draws.normals(5, 0, 4000, 50)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert np.max(np.abs(np.corrcoef(drawn[:, :8].T) - np.eye(8))) < 0.06
    assert np.array_equal(drawn[100:110, :7], draws.normals(5, 100, 10, 7))
    assert not np.array_equal(drawn[:10], draws.normals(6, 0, 10, 50))


def test_explain_names_every_node() -> None:
    program = model_graphs.program(1, 4)
    text = "\n".join(explain.lines(program))
    assert saving.content_hash(program) in text
    for one in program.functions:
        assert "function %s: %d inputs" % (one.name, len(one.inputs)) in text
        assert all(node.name in text for node in one.nodes)


def test_the_tolerance_follows_the_model() -> None:
    """Ten times the numbers in between, ten times the tolerance; and far smaller than what a wrong weight would do."""
    rng = np.random.default_rng(0)
    found = []
    for scale in (1.0, 100.0):
        big = ops.Affine((rng.normal(size=(5, 40)) * scale).astype(np.float32), np.zeros(40, np.float32))
        small = ops.Affine((rng.normal(size=(40, 1)) / scale).astype(np.float32), np.zeros(1, np.float32))
        nodes = (Node("a", big, (INPUT,)), Node("n", ops.Activation("softplus", ()), ("a",)), Node("b", small, ("n",)))
        one = Graph("f", numbered("x", 5), 0, nodes, "b", ("y",))
        x = rng.normal(size=(50, 5))
        slack = interpret.tolerance(one, x)
        found.append(float(np.median(slack)))
        assert np.all(slack < 1e-4)
        assert np.all(slack > 0)
    assert 0.05 < found[0] / found[1] < 20
