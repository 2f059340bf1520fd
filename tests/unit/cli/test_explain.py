from __future__ import annotations

import os
from pathlib import Path

import pytest

from gha_apptainer.cli import explaining
from gha_apptainer.cli.workflows import documents
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings

HERE = Path(__file__).parent / "explained"
GOLDEN = HERE / "workflow.txt"
HOST = HostFacts(hostname="node", boot_id="b", machine="x86_64", kernel="6.1", uid=1000, gid=1000, state_dir="/nonexistent", cvmfs=True)
SETTINGS = NodeSettings(routes=("alias", "path", "registry"))


def _explained(path: Path) -> list[dict[str, object]]:
    return explaining.explain_workflow(documents.load_yaml(path), documents.read_workflow(path), path.parent, SETTINGS, HOST)


def test_golden() -> None:
    path = HERE / "workflow.yml"
    document = {"name": "explained", "workflow": "workflow.yml", "jobs": _explained(path)}
    text = "\n".join(explaining.render(document)) + "\n"
    if os.environ.get("GHA_APPTAINER_REWRITE_GOLDEN") == "1":
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_no_value_of_a_variable_is_shown() -> None:
    assert "secrets.TOKEN" not in repr(_explained(HERE / "workflow.yml"))


@pytest.mark.parametrize(("uses", "ours"), [("./", True), ("./container", True), (".//container/", True), ("./other", False)])
def test_a_checkout_of_this_project_is_itself(uses: str, ours: bool, tmp_path: Path) -> None:
    (tmp_path / "src" / "gha_apptainer").mkdir(parents=True)
    for folder in ("", "container", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "action.yml").touch()
    path = tmp_path / "w.yml"
    path.write_text("on: push\njobs: {a: {runs-on: x, steps: [{uses: %s, with: {run: ls}}]}}\n" % uses, encoding="utf-8")
    (job,) = _explained(path)
    assert job["steps"][0]["kind"] == ("container" if ours else "runner")  # type: ignore[index]  # a JSON document
