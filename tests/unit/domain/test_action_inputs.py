from __future__ import annotations

import pytest

from gha_apptainer.domain.action_inputs import INPUTS, Input, from_variables, parse_inputs
from gha_apptainer.domain.containers import Mount
from gha_apptainer.domain.errors import InputError


@pytest.mark.case("action-4")
def test_every_input_of_the_predecessor_still_counts() -> None:
    names = {row.name for row in INPUTS}
    assert {"run", "image", "shell", "container_shell", "apptainer_args"} <= names


@pytest.mark.case("action-2")
def test_old_spelling_of_arguments_reaches_the_parsed_inputs() -> None:
    found = parse_inputs({"apptainer_args": "--nv --bind '/a b:/c'"}, {})
    assert found.apptainer_args == ("--nv", "--bind", "/a b:/c")
    assert found.warnings == ("input apptainer_args: use apptainer-args instead of apptainer_args",)


@pytest.mark.case("action-4")
def test_old_spelling_of_shell_counts() -> None:
    assert parse_inputs({"run": "x", "container_shell": "sh"}, {}).shell == "sh"


@pytest.mark.parametrize("row", [row for row in INPUTS if row.alias_of], ids=lambda row: row.name)
def test_new_spelling_wins_over_the_old_one(row: Input) -> None:
    values = {"shell": ("bash", "sh"), "apptainer-args": ("--nv", "--rocm"), "cvmfs-repositories": ("a.b", "c.d")}[row.alias_of]
    given = {"run": "x", row.alias_of: values[0], row.name: values[1]}
    found = parse_inputs(given, {})
    assert getattr(found, row.alias_of.replace("-", "_")) in (values[0], (values[0],))
    assert found.warnings == ("input %s is ignored: %s was given too" % (row.name, row.alias_of),)


@pytest.mark.parametrize("name", [row.name for row in INPUTS if row.instead])
def test_accepted_without_effect_warns_by_name(name: str) -> None:
    (warning,) = parse_inputs({name: "x"}, {}).warnings
    assert name in warning
    assert "github-action-cvmfs" in warning


def test_no_old_spelling_has_a_default_and_variables_are_distinct_shell_names() -> None:
    assert [row.name for row in INPUTS if row.deprecated and row.default] == []
    variables = [row.variable for row in INPUTS]
    assert len(set(variables)) == len(variables)
    assert all(one.isidentifier() for one in variables)


@pytest.mark.parametrize(
    "name, value, accepted",
    [("gpu", "yes", "rocm"), ("pull", "missing", "if-not-present"), ("writable", "no", "false"), ("setup", "sudo", "never")],
)
def test_an_error_names_input_value_and_what_is_accepted(name: str, value: str, accepted: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_inputs({name: value}, {})
    assert name in caught.value.what
    assert value in caught.value.what
    assert accepted in caught.value.remedy


@pytest.mark.parametrize("given", [{"username": "me"}, {"password": "x"}])
def test_half_a_login_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(InputError, match="belong together"):
        parse_inputs(given, {})


def test_password_is_a_secret() -> None:
    assert "hunter2" not in repr(parse_inputs({"username": "me", "password": "hunter2"}, {}))


@pytest.mark.parametrize("name", ["shell", "setup-script", "view-path", "release-platform"])
def test_what_needs_commands_without_any(name: str) -> None:
    with pytest.raises(InputError, match="run is empty"):
        parse_inputs({name: "x"}, {})


def test_binds() -> None:
    found = parse_inputs({"binds": "/data\n\n# a note\n  /in/:/out:ro\n/w:/v:rw"}, {}).binds
    assert found == (Mount("/data", "/data"), Mount("/in", "/out", read_only=True), Mount("/w", "/v"))


@pytest.mark.parametrize("line", ["data", "./data:/x", "/a:b", "/a:/b:rx", "/a:/b:ro:z"])
def test_bad_binds_are_named(line: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_inputs({"binds": line}, {})
    assert line in caught.value.what


def test_repositories_in_every_spelling() -> None:
    found = parse_inputs({"cvmfs-repositories": "sft.cern.ch, sw.hsf.org\n/cvmfs/unpacked.cern.ch/ sft.cern.ch"}, {})
    assert found.cvmfs_repositories == ("sft.cern.ch", "sw.hsf.org", "unpacked.cern.ch")


@pytest.mark.parametrize("word", ["../etc", "cern", "/cvmfs/sft.cern.ch/lcg"])
def test_what_is_no_repository(word: str) -> None:
    with pytest.raises(InputError, match="no repository"):
        parse_inputs({"cvmfs-repositories": word}, {})


def test_run_is_kept_to_the_letter() -> None:
    text = "  echo '$HOME' $(id)\n\techo `x`  \r\n"
    assert parse_inputs({"run": text}, {}).run == text


def test_inputs_come_by_their_variables() -> None:
    assert from_variables({"GHA_INPUT_WORKING_DIRECTORY": "a", "GHA_INPUT_APPTAINER_ARGS_ALIAS": "--nv", "OTHER": "x"}) == {
        "working-directory": "a",
        "apptainer_args": "--nv",
    }


def test_unknown_input() -> None:
    with pytest.raises(InputError, match="unknown input runn"):
        parse_inputs({"runn": "x"}, {})
