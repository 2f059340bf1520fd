from __future__ import annotations

from typing import Mapping

import pytest

from gha_apptainer.domain import image_refs
from gha_apptainer.domain.action_inputs import parse_inputs
from gha_apptainer.domain.errors import InputError
from gha_apptainer.node.actions.planning import StepPlan, plan_step

RUNNER = {
    "GITHUB_WORKSPACE": "/w/repo",
    "RUNNER_TEMP": "/w/_temp",
    "GITHUB_OUTPUT": "/w/_temp/cmd/out",
    "GITHUB_EVENT_PATH": "/else/event.json",
}


def _plan(given: Mapping[str, str], environ: Mapping[str, str] = RUNNER, missing: tuple[str, ...] = ("/cvmfs",)) -> StepPlan:
    return plan_step(
        parse_inputs(given, environ), environ, machine="x86_64", folder="/w/_temp/gha", exists=lambda path: path not in missing
    )


@pytest.mark.case("action-7")
def test_an_image_without_a_scheme_is_a_registrys() -> None:
    plan = _plan({"run": "x"})
    assert plan.asked.image == "ubuntu:latest"
    assert str(image_refs.parse(plan.asked.image, plan.workspace)) == "docker://docker.io/library/ubuntu:latest"


def test_places_are_at_their_own_paths_once() -> None:
    mounts = _plan({"run": "x", "binds": "/data\n/mine:/w/_temp"}).asked.mounts
    assert [(one.source, one.target) for one in mounts] == [
        ("/w/repo", "/w/repo"),
        ("/w/_temp/cmd/out", "/w/_temp/cmd/out"),
        ("/else/event.json", "/else/event.json"),
        ("/w/_temp/gha", "/w/_temp/gha"),
        ("/data", "/data"),
        ("/mine", "/w/_temp"),
    ]


@pytest.mark.case("action-6")
@pytest.mark.parametrize(("missing", "bound"), [(("/cvmfs",), False), ((), True)])
def test_cvmfs_where_it_is(missing: tuple[str, ...], bound: bool) -> None:
    mounts = _plan({"run": "x"}, missing=missing).asked.mounts
    assert ("/cvmfs" in [one.target for one in mounts]) is bound
    assert all(one.read_only for one in mounts if one.target == "/cvmfs")


@pytest.mark.parametrize(("given", "cwd"), [("", "/w/repo"), ("a/b", "/w/repo/a/b"), ("/abs", "/abs"), ("..", "/w")])
def test_working_directory(given: str, cwd: str) -> None:
    assert _plan({"run": "x", "working-directory": given}).asked.workdir == cwd


def test_a_view_sources_its_setup_first() -> None:
    plan = _plan({"run": "make", "release-platform": "LCG_106/x86_64-el9-gcc13-opt", "shell": "sh"})
    asked = plan.asked
    assert asked.entrypoint == ("bash",)
    assert asked.command is not None
    assert asked.command[-3:] == ("sh", "-e", "/w/_temp/gha/step.sh")
    assert asked.command[3] == "/cvmfs/sft.cern.ch/lcg/views/LCG_106/x86_64-el9-gcc13-opt/setup.sh"
    assert asked.image == "ghcr.io/aidasoft/el9:latest"
    assert dict(asked.env)["LC_ALL"] == "C"
    assert plan.repositories == ("sft.cern.ch",)
    assert [path for path, _ in plan.files] == ["/w/_temp/gha/step.sh", "/w/_temp/gha/setup.bash"]


def test_a_view_that_does_not_say_its_system_wants_an_image() -> None:
    with pytest.raises(InputError, match="input image is missing"):
        _plan({"run": "x", "view-path": "/cvmfs/sw.hsf.org/key4hep"})
    assert _plan({"run": "x", "view-path": "/cvmfs/sw.hsf.org/key4hep", "image": "el9"}).asked.image == "el9"


def test_outside_of_a_workflow() -> None:
    with pytest.raises(InputError, match="GITHUB_WORKSPACE is not set"):
        _plan({"run": "x"}, {})


def test_the_images_own_command() -> None:
    plan = _plan({"image": "x"})
    assert (plan.asked.entrypoint, plan.asked.command, plan.files) == (None, None, ())
