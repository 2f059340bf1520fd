from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

from gha_apptainer import cli
from gha_apptainer.cli.config import compile_policy, compile_settings, schema, settings_in_force
from gha_apptainer.domain.documents import from_plain
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.hook_policy import HookPolicy
from gha_apptainer.domain.settings import NodeSettings


def test_the_schema_is_one_and_knows_every_setting() -> None:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(dict(found))
    properties = found["properties"]
    assert isinstance(properties, dict)
    assert set(properties) == {item.name for item in fields(NodeSettings)}
    assert found["additionalProperties"] is False


def test_compiling_adds_the_version_and_nothing_else() -> None:
    text = "routes: [store, path]\naliases:\n  ubuntu:24.04: /images/ubuntu.sif\nstore_bytes: 20g\nlog_bytes: 1000\n"
    assert compile_settings(text, "site.yaml") == {
        "version": 1,
        "routes": ["store", "path"],
        "aliases": {"ubuntu:24.04": "/images/ubuntu.sif"},
        "store_bytes": 20 << 30,
        "log_bytes": 1000,
    }
    assert compile_settings("", "site.yaml") == {"version": 1}


def test_what_was_compiled_is_what_nodes_read() -> None:
    document = compile_settings("cvmfs_slow: true\nregistries_http: [localhost:5000]\n", "site.yaml")
    assert from_plain(NodeSettings, document) == NodeSettings(cvmfs_slow=True, registries_http=("localhost:5000",))


@pytest.mark.parametrize(
    "text, words",
    [
        ("rutes: [path]\nstor: /x\n", ["'rutes'", "'stor'"]),
        ("store: relative\n", ["store", "no absolute path"]),
        ("routes: [path, nowhere]\n", ["routes.1", "nowhere"]),
        ("routes: []\n", ["routes"]),
        ("store_bytes: much\n", ["store_bytes", "no size"]),
        ("log_files: 0\n", ["log_files"]),
        ("cvmfs_slow: maybe\n", ["cvmfs_slow"]),
        ("aliases: {a: b}\n", ["aliases.a"]),
        ("version: 2\n", ["version"]),
        ("store: /a\nstore: /b\n", ["'store' stands twice"]),
        ("- a\n", ["mapping"]),
        ("a: [\n", ["no YAML"]),
        ("a: !!python/object:os.system {}\n", ["no YAML"]),
        ("? [a]\n: b\n", ["no YAML"]),
    ],
)
def test_errors_name_file_and_place(text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        compile_settings(text, "site.yaml")
    for word in ["site.yaml", *words]:
        assert word in caught.value.what


def test_an_unknown_key_shows_its_neighbour() -> None:
    with pytest.raises(InputError) as caught:
        compile_settings("rutes: [path]\n", "x")
    assert caught.value.remedy == "did you mean routes?"


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, made = tmp_path / "site.yaml", tmp_path / "node.json"
    source.write_text("cvmfs_slow: true\n")
    assert cli.main(["config", "compile", str(source)]) == 0
    assert json.loads(capfd.readouterr().out) == {"version": 1, "cvmfs_slow": True}
    assert cli.main(["config", "compile", str(source), "-o", str(made)]) == 0
    assert json.loads(made.read_text()) == {"version": 1, "cvmfs_slow": True}
    assert capfd.readouterr().out == ""
    source.write_text("nothing: true\n")
    assert cli.main(["config", "compile", str(source), "-o", str(made)]) == 71
    assert json.loads(made.read_text())["cvmfs_slow"] is True
    assert cli.main(["config", "compile", str(tmp_path / "none")]) == 71
    assert cli.main(["config", "compile", str(source), "-o", str(tmp_path / "no" / "where")]) == 71


def test_show_tells_where_a_value_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "node.json"
    made.write_text('{"version": 1, "store": "/images"}')
    found = settings_in_force({"GHA_APPTAINER_SETTINGS": str(made)})
    assert found["store"] == {"value": "/images", "origin": str(made)}
    assert found["layers"] == {"value": "", "origin": "default"}
    monkeypatch.setenv("GHA_APPTAINER_SETTINGS", str(made))
    assert cli.main(["config", "show", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"version": 1, "settings": found}
    assert cli.main(["config", "show"]) == 0
    assert 'store                 "/images"  (%s)' % made in capfd.readouterr().out


def test_a_policy_is_compiled_and_checked_as_settings_are() -> None:
    text = "host_paths: [/cvmfs:ro, /data]\nprivileged: ignore\nnodes:\n  glibc-2.17: /opt/node\n"
    document = compile_policy(text, "policy.yaml")
    assert document == {"version": 1, "host_paths": ["/cvmfs:ro", "/data"], "privileged": "ignore", "nodes": {"glibc-2.17": "/opt/node"}}
    assert from_plain(HookPolicy, document).nodes == {"glibc-2.17": "/opt/node"}
    assert set(schema("hook-policy")["properties"]) == {item.name for item in fields(HookPolicy)}  # type: ignore[call-overload]  # an object


@pytest.mark.parametrize(
    "text, words",
    [
        ("host_pathss: [/x]", "host_paths"),
        ("networks: [bridge]", "networks"),
        ("host_paths: [x]", "absolute path"),
        ("privileged: true", "privileged"),
        ("nodes: {glibc: /x}", "C library"),
        ("images: docker.io/*", "images"),
    ],
)
def test_policies_that_are_wrong_are_told_by_the_key(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        compile_policy(text, "policy.yaml")
    assert words in " ".join(caught.value.lines())
    assert "policy.yaml" in caught.value.what


def test_the_command_compiles_a_policy(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("home: image\n")
    assert cli.main(["config", "compile", "--policy", str(tmp_path / "p.yaml"), "-o", str(tmp_path / "p.json")]) == 0
    assert json.loads((tmp_path / "p.json").read_text()) == {"version": 1, "home": "image"}
