"""Workflow files, matrices and labels as values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.cli.workflows.documents import Job, read_workflow
from gha_apptainer.cli.workflows.matrices import combinations
from gha_apptainer.cli.workflows.runner_labels import labels
from gha_apptainer.domain.errors import InputError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "w.yml"
    path.write_text(text, encoding="utf-8")
    return path


def job(runs_on: object, matrix: object = None) -> Job:
    return Job("j", "j", runs_on, matrix, (), False, ())


def test_on_is_a_word_and_dates_stay_text(tmp_path: Path) -> None:
    found = read_workflow(write(tmp_path, "on: {push: {branches: [on, 2024-01-01]}}\njobs: {a: {runs-on: yes, steps: [{run: x}]}}\n"))
    assert found.events == ("push",)
    assert found.jobs[0].runs_on == "yes"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "has no jobs"),
        ("on: push\njobs: {}", "has no jobs"),
        ("jobs: {a: {runs-on: x, steps: [{run: a}]}}", "has no `on:`"),
        ("on: push\njobs: {a: {runs-on: x}}", "job 'a' has no steps"),
        ("on: push\njobs: {a: {steps: [{run: a}]}}", "job 'a' has no `runs-on`"),
        ("on: push\njobs: {a: {runs-on: x, steps: [{name: a}]}}", "step 1 must have either"),
        ("on: push\njobs: {a: {runs-on: x, steps: [{run: a, uses: b}]}}", "step 1 must have either"),
        ("on: push\njobs: {a: {runs-on: x, needs: b, steps: [{run: a}]}}", "needs 'b', which does not exist"),
        ("on: push\non: push\njobs: {}", "given twice"),
        ("on: [push\n", "no valid YAML"),
        ("on: push\njobs: {a: 3}", "job 'a' is no mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=r"w\.yml") as caught:
        read_workflow(write(tmp_path, text))
    assert says in caught.value.what


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yml"):
        read_workflow(tmp_path / "nowhere.yml")


def test_the_matrix_of_github_s_own_documentation() -> None:
    """https://docs.github.com/en/actions/how-tos/write-workflows/choose-what-workflows-do/run-job-variations: fruit and animal."""
    found = combinations(
        {
            "fruit": ["apple", "pear"],
            "animal": ["cat", "dog"],
            "include": [
                {"color": "green"},
                {"color": "pink", "animal": "cat"},
                {"fruit": "apple", "shape": "circle"},
                {"fruit": "banana"},
                {"fruit": "banana", "animal": "cat"},
            ],
        }
    )
    assert found is not None
    assert sorted(map(str, found)) == sorted(
        map(
            str,
            [
                {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
                {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
                {"fruit": "pear", "animal": "cat", "color": "pink"},
                {"fruit": "pear", "animal": "dog", "color": "green"},
                {"fruit": "banana"},
                {"fruit": "banana", "animal": "cat"},
            ],
        )
    )


def test_excluded_combinations_are_gone() -> None:
    found = combinations({"a": [1, 2], "b": [3, 4], "exclude": [{"a": 1}, {"a": 2, "b": 3}]})
    assert found == ({"a": 2, "b": 4},)


@given(st.lists(st.integers(), min_size=1, max_size=4, unique=True), st.lists(st.text(), min_size=1, max_size=4, unique=True))
def test_axes_multiply(first: list[int], second: list[str]) -> None:
    found = combinations({"a": first, "b": [one.replace("$", "") for one in second]})
    assert found is not None
    assert len(found) == len(first) * len(second)


@pytest.mark.parametrize("matrix", ["${{ fromJSON(needs.a.outputs.m) }}", {"a": "${{ x }}"}, {"a": [1], "include": ["${{ x }}"]}])
def test_a_matrix_of_expressions_is_not_known(matrix: object) -> None:
    assert combinations(matrix) is None


@pytest.mark.parametrize(
    ("runs_on", "matrix", "wanted"),
    [
        pytest.param("ubuntu-latest", None, ("ubuntu-latest",), id="workflow-1-text"),
        pytest.param(["self-hosted", "gpu"], None, ("gpu", "self-hosted"), id="workflow-1-list"),
        pytest.param({"group": "big", "labels": ["a", "b"]}, None, ("a", "b"), id="workflow-1-group-labels"),
        pytest.param({"group": "big"}, None, ("big",), id="workflow-1-group"),
        pytest.param("${{ matrix.os }}", {"os": ["a", "b"], "include": [{"os": "c"}]}, ("a", "b", "c"), id="workflow-2-matrix"),
        pytest.param("${{ matrix['os'] }}", {"os": ["a"]}, ("a",), id="workflow-2-brackets"),
        pytest.param("${{ matrix.on.label }}", {"on": [{"label": "x"}, {"label": ["y", "z"]}]}, ("x", "y", "z"), id="workflow-2-nested"),
        pytest.param("ubuntu-${{ matrix.v }}", {"v": ["22.04", "24.04"]}, ("ubuntu-22.04", "ubuntu-24.04"), id="workflow-2-mixed"),
        pytest.param("${{ matrix.os }}", {"os": ["a"], "v": "${{ fromJSON(x) }}"}, ("a",), id="workflow-2-one-axis-literal"),
        pytest.param('${{ fromJSON(\'["a","b"]\') }}', None, ("a", "b"), id="workflow-2-json"),
        pytest.param("${{ github.event_name == 'push' && 'a' || 'b' }}", None, ("a", "b", "push"), id="workflow-2-choice"),
        pytest.param("${{ inputs.on || 'b' }}", None, ("b", "from-input"), id="workflow-2-inputs"),
        pytest.param("${{ needs.a.outputs.label }}", None, None, id="workflow-3-output"),
        pytest.param("${{ vars.RUNNER }}", None, None, id="workflow-3-variable"),
        pytest.param(["self-hosted", "${{ vars.RUNNER }}"], None, None, id="workflow-3-one-of-a-list"),
        pytest.param("${{ matrix.os }}", "${{ fromJSON(needs.a.outputs.m) }}", None, id="workflow-3-dynamic-matrix"),
    ],
)
def test_labels(runs_on: object, matrix: object, wanted: tuple[str, ...] | None) -> None:
    assert labels(job(runs_on, matrix), {"on": "from-input"}) == wanted
