"""Plans: order of routes, aliases, verdicts and their reasons, and which form new images take; all without network."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

from gha_apptainer.domain.errors import DiskFull, ImageFailed, InputError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import CHOSEN, LOST, STANDBY, RoutePlan, explain_lines, plan_document
from gha_apptainer.domain.image_refs import parse
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import images
from gha_apptainer.node.images import forms
from gha_apptainer.node.images.filesystems import LOCAL, MEMORY, NETWORK, Space

SHA = "sha256:" + "0" * 64


def _host(state: Path, **more: Any) -> HostFacts:
    facts: Dict[str, Any] = {"hostname": "node", "boot_id": "boot", "machine": "x86_64", "kernel": "6", "uid": 1, "gid": 1}
    return HostFacts(**{**facts, "state_dir": str(state), **more})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree/etc").mkdir(parents=True)
    return tmp_path / "tree"


def _plan(reference: str, state: Path, policy: str = "if-not-present", **more: Any) -> RoutePlan:
    return images.plan(parse(reference), policy, NodeSettings(**more), _host(state))


def _verdicts(plan: RoutePlan) -> Dict[str, str]:
    return {step.route: step.verdict for step in plan.steps}


@pytest.mark.parametrize("spelled", ["ubuntu:24.04", "docker.io/library/ubuntu:24.04", "docker://index.docker.io/ubuntu:24.04"])
def test_alias_is_found_by_what_it_means(tmp_path: Path, tree: Path, spelled: str) -> None:
    plan = _plan("ubuntu:24.04", tmp_path, aliases={"other": "/x", spelled: str(tree)})
    assert plan.chosen is not None
    assert (plan.chosen.route, plan.chosen.path) == ("alias", str(tree))
    assert _verdicts(plan) == {"alias": CHOSEN, "path": LOST, "cvmfs": LOST, "store": LOST, "registry": STANDBY}
    image = images.fetch(plan)
    assert (image.route, image.rootfs, image.form, image.digest.kind) == ("alias", str(tree), "sandbox", "none")


def test_site_sets_the_order(tmp_path: Path, tree: Path) -> None:
    plan = _plan("ubuntu", tmp_path, aliases={"ubuntu": str(tree)}, routes=("registry", "alias"))
    assert _verdicts(plan) == {"registry": CHOSEN, "alias": STANDBY}
    assert "comes after registry" in plan.steps[1].why


def test_alias_proves_no_digest(tmp_path: Path, tree: Path) -> None:
    reference = "ubuntu@" + SHA
    plan = _plan(reference, tmp_path, "never", aliases={reference: str(tree)})
    assert plan.chosen is None
    assert "cannot prove" in plan.steps[0].why
    with pytest.raises(ImageFailed) as caught:
        images.fetch(plan)
    for part in ("alias:", "store:", "registry:", "never"):
        assert part in caught.value.cause


@pytest.mark.parametrize(("path", "why"), [("relative/tree", "no absolute path"), ("/nowhere/at/all", "does not exist")])
def test_alias_that_leads_nowhere_says_so(tmp_path: Path, path: str, why: str) -> None:
    plan = _plan("ubuntu", tmp_path, aliases={"ubuntu": path})
    assert plan.steps[0].verdict == LOST
    assert why in plan.steps[0].why


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'harbor'"):
        _plan("ubuntu", tmp_path, routes=("harbor",))
    with pytest.raises(InputError, match="aliases"):
        _plan("ubuntu", tmp_path, aliases={"Not A Name": "/x"})
    with pytest.raises(ImageFailed, match="sometimes"):
        _plan("ubuntu", tmp_path, "sometimes")


def test_path_that_is_no_image(tmp_path: Path, tree: Path) -> None:
    (tree / "etc").rmdir()
    with pytest.raises(ImageFailed, match="is empty"):
        images.fetch(_plan(str(tree), tmp_path))
    (tmp_path / "x.sif").write_bytes(b"nonsense")
    with pytest.raises(ImageFailed) as caught:
        images.fetch(_plan(str(tmp_path / "x.sif"), tmp_path))
    assert "no SIF image" in caught.value.cause


def test_plan_reads_the_same_for_people_and_programs(tmp_path: Path, tree: Path) -> None:
    plan = _plan("ubuntu", tmp_path, aliases={"ubuntu": str(tree)})
    lines = explain_lines(plan)
    document = plan_document(plan)
    assert lines[0] == "docker://docker.io/library/ubuntu:latest (pull: if-not-present)"
    assert document["chosen"] == "alias"
    rows = document["routes"]
    assert isinstance(rows, list)
    for line, row in zip(lines[1:], rows):
        assert line.split()[:2] == [row["route"], row["verdict"]]
        assert row["why"] in line
    assert "settings" not in document


SHARED = Space("/shared/store", "lustre", NETWORK, 1 << 40, 1 << 20)
DISK = Space("/local/store", "ext4", LOCAL, 1 << 40, 1 << 20)
RAM = Space("/ram/store", "tmpfs", MEMORY, 1 << 33, 1 << 20)
SMALL = Space("/small/store", "xfs", LOCAL, 500 << 20, 1 << 20)
FEW = Space("/few/store", "ext4", LOCAL, 1 << 40, 1000)


@pytest.mark.parametrize(
    ("wanted", "local", "fuse", "place", "form"),
    [
        (DISK, DISK, "", "/local/store", "sandbox"),
        (SHARED, DISK, "", "/shared/store", "sif"),
        (RAM, RAM, "", "/ram/store", "sif"),
        (SMALL, SMALL, "", "/small/store", "sif"),
        (FEW, FEW, "", "/few/store", "sif"),
        (DISK, DISK, "0600", "/local/store", "sandbox"),
        (SHARED, DISK, "0600", "/local/store", "sandbox"),
        (SHARED, RAM, "0600", "/ram/store", "sandbox"),
        (SHARED, SHARED, "0600", "/shared/store", "sandbox"),
    ],
)
def test_form_follows_storage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: Space, local: Space, fuse: str, place: str, form: str
) -> None:
    monkeypatch.setattr(forms, "measure", lambda path: wanted if path == "/wanted" else local)
    found = forms.placement(NodeSettings(store="/wanted"), _host(tmp_path, fuse_reason=fuse), 150 << 20)
    assert (found.store, found.form) == (place, form)
    assert found.why
    if form == "sif" and local is DISK:
        assert found.temporary == "/local/store/work", "ten thousand small files stay off shared storage"


def test_image_that_cannot_fit_is_refused_before_it_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(forms, "measure", lambda _path: SMALL)
    with pytest.raises(DiskFull, match="/small/store"):
        forms.placement(NodeSettings(store="/wanted"), _host(tmp_path), 600 << 20)
