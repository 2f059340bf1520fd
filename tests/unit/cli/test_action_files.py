from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gha_apptainer.cli import action_files
from gha_apptainer.domain.action_inputs import INPUTS, OUTPUTS

TOP = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["action.yml", "container/action.yml"])
def test_action_files_are_what_the_table_says(name: str) -> None:
    assert (TOP / name).read_text(encoding="utf-8") == action_files.render_action(name)


@pytest.mark.parametrize("name", ["action.yml", "container/action.yml"])
@pytest.mark.case("action-3")
def test_no_input_is_interpolated_into_a_script(name: str) -> None:
    raw = yaml.safe_load((TOP / name).read_text(encoding="utf-8"))
    (step,) = raw["runs"]["steps"]
    assert "${{" not in step["run"]
    assert raw["runs"]["using"] == "composite"
    assert {value for value in step["env"].values() if "inputs." in value} == {"${{ inputs.%s }}" % row.name for row in INPUTS}
    assert set(raw["inputs"]) == {row.name for row in INPUTS}
    assert {row["value"] for row in raw["outputs"].values()} == {"${{ steps.container.outputs.%s }}" % name for name, _ in OUTPUTS}


@pytest.mark.case("action-4")
def test_both_paths_take_the_same_inputs() -> None:
    own, forwarded = (yaml.safe_load((TOP / name).read_text(encoding="utf-8")) for name in ("action.yml", "container/action.yml"))
    assert own["inputs"] == forwarded["inputs"]
    assert own["outputs"] == forwarded["outputs"]


@pytest.mark.parametrize("name", [row.name for row in INPUTS if row.deprecated])
def test_old_spellings_say_so(name: str) -> None:
    raw = yaml.safe_load((TOP / "action.yml").read_text(encoding="utf-8"))
    assert raw["inputs"][name]["deprecationMessage"]
    assert raw["inputs"][name]["default"] == ""
