from __future__ import annotations

import json

import pytest

from gha_apptainer.domain.containers import Env
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.step_environments import added_paths, env_context, given_by_runner, path_of, step_environment

VALUES = {
    "MY-VAR.with.dots": "x",
    "NEWLINES": "a\nb\n",
    "CRLF": "a\r\nb",
    "QUOTES": "'\"`$HOME$(id)\\",
    "BYTES": "\udcff\udc80",
    "BIG": "x" * 120_000,
    "EMPTY": "",
    "UNICODE": "größe 物理",
}


@pytest.mark.parametrize("name", sorted(VALUES))
@pytest.mark.case("action-14")
def test_every_name_and_value_of_the_env_context_arrives(name: str) -> None:
    assert env_context(json.dumps({name: VALUES[name]}), None, frozenset()) == ((name, VALUES[name]),)


@pytest.mark.case("action-15")
def test_of_the_host_only_what_is_promised_comes_in() -> None:
    environ = {
        "GITHUB_SHA": "1", "RUNNER_OS": "Linux", "CI": "true", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "t", "https_proxy": "p", "HTTP_PROXY": "q",
        "LD_LIBRARY_PATH": "bad", "LD_PRELOAD": "bad", "PYTHONPATH": "bad", "SLURM_JOB_ID": "1", "APPTAINER_BIND": "/", "HOME": "/h",
        "RUNNER_TOKEN": "bad", "ACTIONS_RUNNER_INPUT_JITCONFIG": "bad", "GITHUB_PAT": "bad", "GITHUB_TOKEN": "bad", "PATH": "/bad",
        "GHA_INPUT_PASSWORD": "bad", "Http_Proxy": "bad", "GITHUB_lower": "bad",
    }  # fmt: skip
    names = {name for name, _ in given_by_runner(environ)}
    assert names == {"GITHUB_SHA", "RUNNER_OS", "CI", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "https_proxy", "HTTP_PROXY"}


def test_a_runner_that_mixes_its_own_environment_in() -> None:
    runner = {"HOME": "/home/me", "PATH": "/usr/bin", "SECRETISH": "zz", "LANG": "C"}
    mixed = {**runner, "LANG": "de_DE", "JOB": "j", "GITHUB_SHA": "1", "INPUT_RUN": "lines", "INPUT_PASSWORD": "p", "ACT": "true"}
    found = env_context(json.dumps(mixed), runner, frozenset(["INPUT_RUN", "INPUT_PASSWORD"]))
    assert dict(found) == {"LANG": "de_DE", "JOB": "j"}


def test_a_token_that_the_workflow_itself_hands_over_arrives() -> None:
    text = json.dumps({"GITHUB_TOKEN": "t", "GITHUB_SHA": "1"})
    assert dict(env_context(text, {}, frozenset())) == {"GITHUB_TOKEN": "t"}
    assert dict(env_context(text, None, frozenset()))["GITHUB_TOKEN"] == "t"


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_context_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="env context"):
        env_context(text, None, frozenset())


def test_later_ones_win() -> None:
    merged = step_environment((("A", "runner"), ("B", "runner"), ("C", "runner")), (("B", "context"), ("C", "context")), (("C", "input"),))
    assert merged == (("A", "runner"), ("B", "context"), ("C", "input"))


@pytest.mark.parametrize(
    "path, runner, expected",
    [
        ("/added:/more:/usr/bin:/bin", "/usr/bin:/bin", ("/added", "/more")),
        ("/usr/bin:/bin", "/usr/bin:/bin", ()),
        ("relative:/added:/usr/bin", "/usr/bin", ("/added",)),
        ("/here/bin:/usr/bin:/hereafter", None, ("/here/bin",)),
        ("/here/bin:/opt/x", "/usr/bin", ("/here/bin",)),
    ],
)
def test_paths_that_earlier_steps_added(path: str, runner: str | None, expected: tuple[str, ...]) -> None:
    assert added_paths(path, runner, ("/here",)) == expected


@pytest.mark.parametrize(
    "context, asked, image, expected",
    [
        ((), (), (("PATH", "/image"),), "/added:/image"),
        ((), (), (), "/added:/default"),
        ((("PATH", "/context"),), (), (("PATH", "/image"),), "/added:/context"),
        ((("PATH", "/context"),), (("PATH", "/asked"),), (), "/asked"),
    ],
)
def test_path(context: Env, asked: Env, image: Env, expected: str) -> None:
    assert path_of(("/added",), context, asked, image, "/default") == expected
