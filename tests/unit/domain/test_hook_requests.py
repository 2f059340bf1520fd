from __future__ import annotations

import json
from typing import Any, Dict

import pytest

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.hook_requests import HookMount, PrepareAnswer, ServiceAnswer, job_of, read_request, response

CONTAINER: Dict[str, Any] = {
    "image": "rockylinux:9",
    "dockerfile": None,
    "entryPointArgs": ["a"],
    "entryPoint": None,
    "workingDirectory": "/__w/r/r",
    "createOptions": "--cpus 1",
    "registry": {"username": "u", "password": "s3cr3t", "serverUrl": "org"},
    "environmentVariables": {"A": "1", "B": None, "C=D": "x"},
    "portMappings": ["80"],
    "systemMountVolumes": [{"userProvidedValue": None, "sourceVolumePath": "/w", "targetVolumePath": "/__w", "readOnly": False}],
    "userMountVolumes": [{"userProvidedValue": "/x", "sourceVolumePath": None, "targetVolumePath": "/x", "readOnly": True}],
    "more": [1],
}


def prepare(**more: object) -> Dict[str, Any]:
    args = {"container": {**CONTAINER, **more}, "services": [{"image": "redis"}]}
    return {"command": "prepare_job", "responseFile": "/r.json", "args": args, "state": None, "future": 1}


@pytest.mark.case("hooks-7")
def test_a_request_is_read_leniently() -> None:
    found = read_request(prepare())
    assert found.container is not None
    assert found.container.image == "rockylinux:9"
    assert found.container.env == (("A", "1"), ("B", ""))
    assert found.container.system_mounts == (HookMount("/w", "/__w"),)
    assert found.container.user_mounts == (HookMount("", "/x", True, "/x"),)
    assert found.container.login is not None
    assert (found.container.login.username, found.container.login.password.reveal()) == ("u", "s3cr3t")
    assert "s3cr3t" not in repr(found)
    assert found.services[0].image == "redis"
    assert read_request({"command": "cleanup_job"}).job is None


@pytest.mark.case("hooks-7")
@pytest.mark.parametrize(
    "raw, words",
    [
        ([], "no JSON object"),
        ({}, "unknown hook command"),
        ({"command": "x" * 500}, "unknown hook command"),
        ({"command": "prepare_job", "args": []}, "args is no object"),
        (prepare(image=1), "container.image"),
        (prepare(entryPointArgs="x"), "entryPointArgs"),
        (prepare(entryPointArgs=[None]), "entryPointArgs"),
        (prepare(environmentVariables={"A": 1}), "value of A"),
        (prepare(systemMountVolumes=[{"sourceVolumePath": "/w"}]), "targetVolumePath"),
        (prepare(registry="x"), "registry"),
        (prepare(workingDirectory="a\0b"), "workingDirectory"),
    ],
)
def test_what_is_wrong_is_named_and_never_shown(raw: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_request(raw)
    assert words in caught.value.what
    assert "s3cr3t" not in str(caught.value.lines())
    assert len(caught.value.what) < 200


@pytest.mark.case("hooks-8")
@pytest.mark.parametrize(
    "state, job",
    [
        (None, None),
        ({}, ""),
        ("x", ""),
        ({"id": 1}, ""),
        ({"id": "0" * 31}, ""),
        ({"id": "../" * 10 + "aa"}, ""),
        ({"id": "a" * 32}, "a" * 32),
    ],
)
def test_of_a_state_only_an_id_is_believed(state: object, job: object) -> None:
    assert job_of(state) == job


@pytest.mark.case("hooks-4", "hooks-5", "hooks-6")
def test_answers() -> None:
    services = (ServiceAnswer("s1", "n", (("80", "8080"),)), ServiceAnswer("s2", "n"))
    whole = response(PrepareAnswer("j", "c", "n", alpine=False, services=services))
    assert whole["isAlpine"] is False
    assert whole["context"] == {
        "container": {"id": "c", "network": "n"},
        "services": [{"id": "s1", "network": "n", "ports": {"80": "8080"}}, {"id": "s2", "network": "n", "ports": {}}],
    }
    bare = response(PrepareAnswer("j"))
    assert bare == {"state": {"id": "j"}, "context": {}}
    assert json.dumps(bare) != ""
