"""The examples for a runner with hooks, as evaluated jobs, played through the installed hooks."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from hook_jobs import HookRunner, Played
from services import PACKAGES, copy_image

EXAMPLES = Path(__file__).parents[3] / "examples/runner-hooks"
PG = "/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OF_POSTGRES = {
    ".singularity.d/runscript": 'OCI_ENTRYPOINT=\'"postgres-entrypoint.sh"\'\nOCI_CMD=\'"postgres" "-c" "listen_addresses=*"\'\n',
    ".singularity.d/env/10-docker2singularity.sh": 'export PATH="%s"\nexport PGDATA="/var/lib/postgresql/data"\n' % PG,
}


def play(hooks: HookRunner, name: str) -> Played:
    for image in ("alpine:3.20", "debian:12"):
        hooks.add_image(image, lambda _: None)
    workspace = hooks.work / "repository/repository"
    shutil.copytree(EXAMPLES / name, workspace / "examples/runner-hooks" / name)
    hooks.driver.own(hooks.work)
    done = hooks.play(json.loads((EXAMPLES / name / "job.json").read_text()))
    assert done.result == "success", done
    return done


def test_a_step_that_is_an_image(hooks: HookRunner) -> None:
    done = play(hooks, "docker-step")
    assert done.step("Sort it in another image")["outputs"] == {"first": "electron"}
    assert "  two   spaces   survive  " in done.step("Sort it in another image")["log"]
    assert done.text("Read it") == "electron\nmuon\ntau"


def test_a_dockerfile_action_with_entrypoints_before_and_after(hooks: HookRunner) -> None:
    done = play(hooks, "docker-action")
    assert "before: Nightly" in done.text("Pre Report")
    assert done.step("Report")["outputs"] == {"lines": "3"}
    assert done.text("Read the report") == "Nightly\nof several words\nmade when the image was built"
    assert "after: Nightly" in done.text("Post Report")


def test_a_job_container_with_a_database(hooks: HookRunner) -> None:
    from gha_apptainer.node.provision.base_images import debian_image

    tree = hooks.driver.images / "postgres"
    if not tree.exists():
        copy_image(debian_image(os.environ, lambda _: None, PACKAGES), tree)
        for name, text in OF_POSTGRES.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        hooks.use_image("postgres:16", tree)
    done = play(hooks, "services")
    assert done.step("Ask for the heaviest")["outputs"] == {"name": "H"}
    assert done.text("Say it") == "the heaviest is H"
    assert "ready to accept connections" in done.text("Stop containers")


@pytest.mark.parametrize("name", ["docker-step", "docker-action", "services"])
def test_the_evaluated_job_is_the_workflows(name: str) -> None:
    """Steps that run, images, services and arguments are the same on both sides."""
    job = json.loads((EXAMPLES / name / "job.json").read_text())
    workflow = yaml.safe_load((EXAMPLES / name / ("%s.yml" % name)).read_text())
    (written,) = workflow["jobs"].values()
    steps = [one for one in written["steps"] if "checkout" not in one.get("uses", "")]
    assert [one["name"] for one in steps] == [one["name"] for one in job["steps"]]
    assert [one.get("run", "").strip() for one in steps] == [one.get("run", "").strip() for one in job["steps"]]
    assert [(one.get("with") or {}) for one in steps] == [one.get("with", {}) for one in job["steps"]]
    assert written["container"] == job["container"]
    assert {key: one["image"] for key, one in written.get("services", {}).items()} == {
        key: one["image"] for key, one in job.get("services", {}).items()
    }
    for key, one in written.get("services", {}).items():
        assert one["options"].split() == job["services"][key]["options"].split()
