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


@pytest.mark.parametrize(
    ("words", "path", "mount"),
    [
        ("-B /cvmfs", "/cvmfs", ("/cvmfs", False)),
        ("-B /w/repo", "/w/repo", ("/w/repo", False)),
        ("--bind=/w/repo:/w/repo:ro", "/w/repo", ("/w/repo", True)),
        ("--mount type=bind,source=/else,destination=/w/_temp/../repo/", "/w/repo", ("/else", False)),
    ],
)
@pytest.mark.case("action-2")
def test_binds_of_apptainer_args_win_over_our_own(words: str, path: str, mount: tuple[str, bool]) -> None:
    mounts = _plan({"run": "x", "apptainer-args": words}, missing=()).asked.mounts
    assert [(one.source, one.read_only) for one in mounts if one.target == path] == [mount]


@pytest.mark.case("action-2")
def test_apptainer_args_become_what_is_asked_for() -> None:
    asked = _plan({"run": "x", "apptainer-args": "--pwd /x --env A=args,B=args --nv", "env": "B=input", "gpu": "none"}).asked
    assert (asked.workdir, asked.gpu, asked.apptainer_args) == ("/x", "nvidia", ())
    assert (dict(asked.env)["A"], dict(asked.env)["B"]) == ("args", "input")
    assert _plan({"run": "x", "apptainer-args": "--pwd /x", "working-directory": "sub"}).asked.workdir == "/w/repo/sub"


def test_a_bind_of_apptainer_args_that_is_missing_is_told_by_its_input() -> None:
    with pytest.raises(InputError, match="input apptainer-args: /nope does not exist"):
        _plan({"run": "x", "apptainer-args": "-B /nope:/x"}, missing=("/nope",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("binds", "/cvmfs/a.example.org/data:/data"),
        ("binds", "/cvmfs//x/../a.example.org"),
        ("apptainer-args", "-B /cvmfs/a.example.org/data:/data"),
        ("image", "/cvmfs/a.example.org/images/el9"),
        ("image", "file:///cvmfs/a.example.org/el9.sif"),
        ("working-directory", "/cvmfs/a.example.org/sw"),
        ("setup-script", "/cvmfs/a.example.org/setup.sh"),
    ],
)
@pytest.mark.case("action-10")
def test_a_path_on_cvmfs_names_its_repository_and_is_not_touched(name: str, value: str) -> None:
    asked: list[str] = []

    def exists(path: str) -> bool:
        asked.append(path)
        return True

    plan = plan_step(parse_inputs({"run": "x", name: value}, RUNNER), RUNNER, machine="x86_64", folder="/w/_temp/gha", exists=exists)
    assert plan.repositories == ("a.example.org",)
    assert not [path for path in asked if path.startswith("/cvmfs/")]
