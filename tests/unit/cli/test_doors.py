"""The console script: what it keeps, what it hands over, and how errors come out of either door."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import gha_apptainer
from gha_apptainer import cli
from gha_apptainer.cli import clicking
from gha_apptainer.cli.reference import docker_options, settings
from gha_apptainer.domain.errors import InputError
from gha_apptainer.node import main as node

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def test_no_name_is_served_twice() -> None:
    assert not set(cli.COMMANDS) & set(node.VERBS)


def test_help_lists_both_doors(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("Example: gha-apptainer run")
    listed = re.findall(r"^  (\S+)  +\S", out, re.MULTILINE)
    assert listed == [name for name, row in node.VERBS.items() if row[2]] + list(cli.COMMANDS)


def test_an_unknown_command_shows_its_neighbours_of_both_doors(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["confg"]) == 71
    assert "did you mean config?" in capfd.readouterr().err


def test_node_verbs_never_load_click() -> None:
    code = "import sys; from gha_apptainer.cli import main; main(['run', '--help']); sys.exit('click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False, timeout=60, env=ENVIRONMENT).returncode == 0


def test_the_door_itself_loads_next_to_nothing() -> None:
    code = "import sys, os; b = set(sys.modules); import gha_apptainer.node.main; print(*sorted(set(sys.modules) - b))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, %r)\n" % str(ROOT / "src") + code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["__future__", "gha_apptainer", "gha_apptainer.node", "gha_apptainer.node.main"]


def test_commands_raise_in_one_form(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @click.option("--how", type=click.Choice(["well", "badly", "interrupted", "broken", "code"]))
    @click.pass_context
    def fake(context: click.Context, how: str) -> None:
        if how == "badly":
            raise InputError("it went badly", remedy="do it well")
        if how == "interrupted":
            raise KeyboardInterrupt
        if how == "broken":
            raise ZeroDivisionError("oh")
        if how == "code":
            context.exit(9)

    monkeypatch.setattr(clicking, "fake", fake, raising=False)
    monkeypatch.setitem(cli.COMMANDS, "fake", ("gha_apptainer.cli.clicking", "fake", "for the test"))
    codes = {how: cli.main(["fake", "--how", how]) for how in ("well", "badly", "interrupted", "broken", "code", "somehow")}
    assert codes == {"well": 0, "badly": 71, "interrupted": 130, "broken": 70, "code": 9, "somehow": 71}
    err = capfd.readouterr().err
    assert "gha-apptainer: it went badly\n  remedy: do it well\n" in err
    assert "internal error: ZeroDivisionError: oh" in err
    assert "Traceback" not in err


def test_a_group_without_a_command_prints_its_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    assert "compile" in capfd.readouterr().out
    assert cli.main(["help", "config"]) == 0


def test_a_reader_that_has_gone_is_no_error() -> None:
    code = "import sys; from gha_apptainer.cli import main; sys.exit(main(['help']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == b""
        assert started.wait(60) == 141


def test_closed_streams_are_no_error() -> None:
    code = "from gha_apptainer.cli import main; raise SystemExit(main([]))"
    done = subprocess.run(["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code], timeout=60, check=False, env=ENVIRONMENT)
    assert done.returncode == 0


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project.get("version", gha_apptainer.__version__) == gha_apptainer.__version__


@pytest.mark.parametrize("page, part", [("docker-options", docker_options), ("settings", settings)])
def test_pages_say_what_the_code_says(page: str, part: Callable[[], str]) -> None:
    assert part() in (ROOT / ("docs/reference/%s.md" % page)).read_text("utf-8"), "run scripts/generate-docs"
