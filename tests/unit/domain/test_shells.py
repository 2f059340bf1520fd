from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.shells import SETUP_TEXT, script, split_arguments, view_script


@pytest.mark.parametrize(
    "shell, argv, extension",
    [
        ("bash", ("bash", "--noprofile", "--norc", "-eo", "pipefail", "/s"), ".sh"),
        ("sh", ("sh", "-e", "/s"), ".sh"),
        ("python", ("python", "/s"), ".py"),
        ("pwsh", ("pwsh", "-command", ". '/s'"), ".ps1"),
        ("bash -x {0}", ("bash", "-x", "/s"), ".sh"),
        ('perl -e "do q({0})" a', ("perl", "-e", "do q(/s)", "a"), ""),
        ("root -l -b -q {0}", ("root", "-l", "-b", "-q", "/s"), ""),
    ],
)
def test_command_lines_are_githubs(shell: str, argv: tuple[str, ...], extension: str) -> None:
    found = script(shell, "x")
    assert (found.command("/s"), found.extension) == (argv, extension)


@pytest.mark.parametrize("shell", ["zsh", "bash -x", "cmd", "powershell", 'bash "{0}'])
def test_what_is_no_shell_is_named(shell: str) -> None:
    with pytest.raises(InputError, match="input shell"):
        script(shell, "x")


def test_powershell_lines_end_with_the_programs_code() -> None:
    text = script("pwsh", "ls").text
    assert text.startswith("$ErrorActionPreference = 'stop'\nls\n")
    assert text.rstrip().endswith("{ exit $LASTEXITCODE }")


def test_words_as_dotnet_divides_them() -> None:
    assert split_arguments('a  "b c" \'d e\' f\\"g ""') == ["a", "b c", "'d", "e'", 'f"g', ""]


def _run(lines: str, shell: str, tmp_path: Path, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
    made = script(shell, lines)
    file = tmp_path / ("step" + made.extension)
    file.write_text(made.text, encoding="utf-8")
    return subprocess.run(made.command(str(file)), capture_output=True, text=True, env={"PATH": path}, check=False, timeout=30)


@pytest.mark.case("action-3")
def test_nothing_is_expanded_before_the_shell_inside(tmp_path: Path) -> None:
    done = _run("X=inside\necho \"$X\" '$X' $(echo sub)", "bash", tmp_path)
    assert done.stdout == "inside $X sub\n"


@pytest.mark.parametrize(("shell", "code"), [("", 0), ("bash", 1), ("sh", 0)])
def test_only_bash_by_name_has_pipefail(shell: str, code: int, tmp_path: Path) -> None:
    assert _run("false | true", shell, tmp_path).returncode == code


@pytest.mark.parametrize("shell", ["", "bash", "sh"])
def test_every_shell_stops_at_the_first_error(shell: str, tmp_path: Path) -> None:
    done = _run("false\necho reached", shell, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")


def test_only_the_default_has_something_to_fall_back_to() -> None:
    assert script("", "x").fallback == ("sh", "-e", "{0}")
    assert [script(shell, "x").fallback for shell in ("bash", "sh", "python", "x {0}")] == [(), (), (), ()]


@pytest.mark.parametrize(
    ("setup", "code", "out"),
    [
        ("export A=1\nfalse\nB=$#\nexport B", 0, "1 0\n"),
        ("export A=1; return 3", 0, "::warning title=setup script::SETUP ended with status 3, the step goes on\n1 \n"),
    ],
)
def test_setup_is_sourced_without_errexit_and_the_lines_run_with_it(setup: str, code: int, out: str, tmp_path: Path) -> None:
    wrapper, view = tmp_path / "setup.bash", tmp_path / "it's setup.sh"
    wrapper.write_text(SETUP_TEXT, encoding="utf-8")
    view.write_text(setup, encoding="utf-8")
    argv = view_script(("sh", "-ec", 'echo "$A $B"'), str(view), str(wrapper))
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": os.defpath}, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (code, out.replace("SETUP", str(view)))


def test_a_setup_script_that_cannot_be_read_fails(tmp_path: Path) -> None:
    wrapper = tmp_path / "setup.bash"
    wrapper.write_text(SETUP_TEXT, encoding="utf-8")
    argv = view_script(("true",), "/nope/setup.sh", str(wrapper))
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": os.defpath}, check=False, timeout=30)
    assert done.returncode == 1
    assert "::error title=no setup script::/nope/setup.sh" in done.stdout
