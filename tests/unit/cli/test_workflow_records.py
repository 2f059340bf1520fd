"""What container steps leave for whoever runs the workflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from gha_apptainer.cli.workflows.launch import read_results
from gha_apptainer.domain.documents import to_json
from gha_apptainer.domain.step_records import StepRecord


def write(folder: Path, text: str) -> None:
    (folder / "one.json").write_text(text, encoding="utf-8")


def test_a_record_is_read(tmp_path: Path) -> None:
    write(tmp_path, to_json(StepRecord(step="s", image="i", digest="d", route="store", exit_code=7, word="FAILED")))
    (found,) = read_results(tmp_path)
    assert (found.step, found.image, found.digest, found.route, found.exit_code) == ("s", "i", "d", "store", 7)


@pytest.mark.case("workflow-48")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 1, "exit_code": 0, "word": "SUCCEEDED", "more": 1}',
        '{"version": 99, "exit_code": 0, "word": "SUCCEEDED"}',
        to_json(StepRecord(exit_code=0, word="FAILED")),
        to_json(StepRecord(exit_code=0)),
        "\u00e4",
    ],
)
def test_what_proves_nothing_has_no_exit_code(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    (found,) = read_results(tmp_path)
    assert found.exit_code is None


def test_no_record_is_no_result(tmp_path: Path) -> None:
    assert read_results(tmp_path) == ()
