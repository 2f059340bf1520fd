"""Image configurations, OCI's and Docker's, whole, partial and damaged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gha_apptainer.domain.errors import Untrusted
from gha_apptainer.domain.images import Health, OciConfig
from gha_apptainer.domain.oci_configs import config_from_plain, parse_config, platform_of


def _blob(**config: Any) -> bytes:
    return json.dumps({"os": "linux", "architecture": "arm64", "variant": "v8", "rootfs": {}, "config": config}).encode()


def test_everything() -> None:
    found = parse_config(
        _blob(
            Entrypoint=["/e", "a b"], Cmd=["$HOME"], Env=["A=1", "B=x=y", "A=2", "bare", "=odd"], User="7:8", WorkingDir="/w",
            Volumes={"/v": {}}, ExposedPorts={"80/tcp": {}}, StopSignal="SIGINT", Labels={"l": "v"}, Unknown=[1],
            Healthcheck={"Test": ["CMD-SHELL", "x"], "Interval": 1500000000, "Timeout": 1, "StartPeriod": 0, "Retries": 2},
        )
    )  # fmt: skip
    assert found == OciConfig(
        entrypoint=("/e", "a b"), cmd=("$HOME",), env=(("A", "2"), ("B", "x=y")), user="7:8", workdir="/w", volumes=("/v",),
        ports=("80/tcp",), stop_signal="SIGINT", labels=(("l", "v"),),
        healthcheck=Health(("CMD-SHELL", "x"), interval=1.5, timeout=1e-9, start_period=0.0, retries=2),
    )  # fmt: skip
    assert platform_of(_blob()) == ("linux", "arm64", "v8")


@pytest.mark.parametrize(
    "text",
    [
        b'{"rootfs":{}}',
        b'{"rootfs":{},"config":null}',
        b'{"config":{}}',
        b'{"config":{"Cmd":null,"Env":null,"Volumes":null,"Labels":null}}',
    ],
)
def test_nothing_said(text: bytes) -> None:
    assert parse_config(text) == OciConfig()


def test_bare_object_of_a_sif() -> None:
    assert config_from_plain({"Cmd": ["/bin/sh"], "User": "7"}) == OciConfig(cmd=("/bin/sh",), user="7")


def test_very_old_forms() -> None:
    found = parse_config(_blob(Entrypoint="run it", Cmd="", Volumes=["/v"]))
    assert (found.entrypoint, found.cmd, found.volumes) == (("/bin/sh", "-c", "run it"), (), ("/v",))


def test_empty_health_check_is_none_and_none_is_kept() -> None:
    assert parse_config(_blob(Healthcheck={"Test": []})).healthcheck is None
    disabled = parse_config(_blob(Healthcheck={"Test": ["NONE"]})).healthcheck
    assert disabled is not None
    assert disabled.test == ("NONE",)


@pytest.mark.parametrize(
    "config",
    [
        {"Cmd": [1]}, {"Cmd": {"a": 1}}, {"Env": "A=1"}, {"Env": [1]}, {"User": 7}, {"Volumes": "x"}, {"ExposedPorts": [80]},
        {"Labels": {"a": 1}}, {"Labels": []}, {"Healthcheck": []}, {"Healthcheck": {"Test": ["CMD"], "Interval": "1s"}},
        {"Healthcheck": {"Test": ["CMD"], "Retries": -1}}, {"Healthcheck": {"Test": ["CMD"], "Retries": True}},
    ],
)  # fmt: skip
def test_wrong_types_are_not_guessed(config: Any) -> None:
    with pytest.raises(Untrusted):
        parse_config(_blob(**config))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"config":', b'{"config":[]}'])
def test_no_configuration(data: bytes) -> None:
    with pytest.raises(Untrusted):
        parse_config(data)


ANY = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
)


@given(ANY)
def test_any_json_is_a_configuration_or_untrusted(raw: Any) -> None:
    try:
        parse_config(json.dumps({"config": {"Entrypoint": raw, "Env": raw, "Volumes": raw, "Healthcheck": raw}}).encode())
    except Untrusted:
        pass
