"""What the bundled examples need without a registry, and what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gha_apptainer.cli.workflow import DEFAULT_WORKFLOW
from gha_apptainer.cli.workflows import examples, options, plans
from gha_apptainer.cli.workflows.commands import Scratch
from gha_apptainer.cli.workflows.documents import load_yaml, read_workflow
from gha_apptainer.domain.errors import HostUnfit
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import host
from gha_apptainer.node.provision import base_images

ROOT = Path(__file__).parents[3]
VIEWS = ROOT / "examples/views/views.yml"


def plan(path: Path) -> plans.RunPlan:
    return plans.plan(read_workflow(path), ROOT, options.ActOptions(), lambda name: name)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """No registry, no CVMFS, no settings; the packages of each base image that is asked for."""
    asked: list[tuple[str, ...]] = []

    def image(_environ: object, _tell: object, packages: tuple[str, ...] = ()) -> str:
        asked.append(packages)
        return "/images/one"

    monkeypatch.setattr(examples, "reaches", lambda _registry: False)
    monkeypatch.setattr(examples, "_cvmfs_answers", lambda _repository: False)
    monkeypatch.setattr(base_images, "debian_image", image)
    monkeypatch.setattr(host, "load_settings", lambda _environ: NodeSettings())
    return asked


def prepare(tmp_path: Path, path: Path, *, wanted: bool = False, log: Callable[[str], None] = print) -> dict[str, object] | None:
    found = examples.prepare(plan(path), Scratch(tmp_path), ROOT, {}, log, wanted=wanted)
    return None if found is None else json.loads(found.read_text(encoding="utf-8"))


@pytest.mark.case("workflow-80")
def test_an_example_gets_its_image_by_an_alias_and_says_so(tmp_path: Path, offline: list[tuple[str, ...]]) -> None:
    said: list[str] = []
    found = prepare(tmp_path, ROOT / DEFAULT_WORKFLOW, log=said.append)
    assert found is not None
    assert found["aliases"] == {"docker://docker.io/library/ubuntu:latest": "/images/one"}
    assert found["cvmfs_aliases"] == {}
    assert said == [
        "no registry reached: using a Debian base image built from packages for 'docker://docker.io/library/ubuntu:latest' (route alias)"
    ]
    assert offline == [()]


@pytest.mark.case("workflow-81")
def test_a_view_gets_a_compiler_and_a_stand_in_for_its_repository(tmp_path: Path, offline: list[tuple[str, ...]]) -> None:
    found = prepare(tmp_path, VIEWS)
    assert found is not None
    assert found["aliases"] == {"docker://ghcr.io/aidasoft/el9:latest": "/images/one"}
    assert found["cvmfs_aliases"] == {"sft.cern.ch": str(VIEWS.parent / "cvmfs/sft.cern.ch")}
    assert offline == [("g++", "make")]
    assert (VIEWS.parent / "cvmfs/sft.cern.ch/lcg/views/LCG_106/x86_64-el9-gcc13-opt/setup.sh").is_file()


@pytest.mark.case("workflow-82")
def test_a_workflow_of_one_s_own_keeps_its_images(tmp_path: Path, offline: list[tuple[str, ...]]) -> None:
    own = tmp_path / "own.yml"
    own.write_bytes((ROOT / DEFAULT_WORKFLOW).read_bytes())
    assert prepare(tmp_path, own) is None
    assert offline == []
    assert prepare(tmp_path, own, wanted=True) is not None


@pytest.mark.case("workflow-83")
def test_nothing_is_changed_where_registry_and_cvmfs_answer(
    tmp_path: Path, offline: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "reaches", lambda _registry: True)
    monkeypatch.setattr(examples, "_cvmfs_answers", lambda _repository: True)
    assert prepare(tmp_path, VIEWS) is None
    assert offline == []


def test_a_site_s_own_aliases_win(tmp_path: Path, offline: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    site = NodeSettings(aliases={"ubuntu": "/site/ubuntu.sif"}, store="/site/store")
    monkeypatch.setattr(host, "load_settings", lambda _environ: site)
    assert prepare(tmp_path, ROOT / DEFAULT_WORKFLOW) is None
    monkeypatch.setattr(host, "load_settings", lambda _environ: NodeSettings(store="/site/store"))
    found = prepare(tmp_path, ROOT / DEFAULT_WORKFLOW)
    assert found is not None
    assert found["store"] == "/site/store"


@pytest.mark.case("workflow-84")
def test_a_host_without_packages_is_told_what_to_do(
    tmp_path: Path, offline: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise HostUnfit("no apt")

    monkeypatch.setattr(base_images, "debian_image", refuse)
    with pytest.raises(HostUnfit, match="no registry is reached, and no image can be built") as caught:
        prepare(tmp_path, ROOT / DEFAULT_WORKFLOW)
    assert "aliases" in caught.value.remedy
    assert offline == []


def test_a_registry_that_is_not_there_is_not_reached() -> None:
    assert not examples.reaches("127.0.0.1:1")
    assert not examples.reaches("no-such-host.invalid")


class _Asks(BaseHTTPRequestHandler):
    """A registry's first answer."""

    def do_GET(self) -> None:
        self.send_response(401 if self.path == "/v2/" else 500)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quietly."""


def test_a_registry_that_asks_for_credentials_is_reached() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Asks) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            assert examples.reaches(f"127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join(10)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/*.yml")), ids=lambda one: one.stem)
def test_every_example_can_be_planned(path: Path) -> None:
    found = plan(path)
    assert found.labels == ("ubuntu-latest",)
    assert found.repositories == ("OWNER/apptainer-gha-runner@main",)
    assert found.containers
    raw = load_yaml(path)
    assert isinstance(raw, dict)
    assert raw["permissions"] == {}


def test_the_starter_workflow_and_its_properties_belong_together() -> None:
    """https://docs.github.com/en/actions/how-tos/reuse-automations/create-workflow-templates"""
    folder = ROOT / "workflows-templates"
    for path in folder.glob("*.yml"):
        properties = json.loads(path.with_suffix(".properties.json").read_text(encoding="utf-8"))
        assert {"name", "description", "iconName", "categories"} <= set(properties)
        assert plan(path).containers
