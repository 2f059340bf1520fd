"""The bundled examples as a newcomer runs them: the real act, the real action, real containers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
START = "import sys; from gha_apptainer.cli import main; sys.exit(main(['workflow', *sys.argv[1:]]))"
LIMIT = 500.0

pytestmark = pytest.mark.usefixtures("state")


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """TMPDIR of the run, empty again afterwards."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert [one.name for one in folder.iterdir()] == [], "nothing is left behind"


def start(temporary: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START, "--json", *words],
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT / "src"), "LANG": "C.UTF-8"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(temporary: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    child = start(temporary, *words)
    out, err = child.communicate(timeout=LIMIT)
    assert out, err
    return child.returncode, json.loads(out), err


def check_containers(document: dict[str, Any], count: int, exit_code: int = 0) -> None:
    """Each container step left its record, with an image and the route by which it came."""
    assert len(document["containers"]) == count
    for one in document["containers"]:
        assert one["exit_code"] == exit_code
        assert one["image"]
        assert one["route"] in ("alias", "path", "cvmfs", "store", "registry")


@pytest.mark.case("workflow-90")
def test_hello_is_what_runs_without_an_argument(temporary: Path) -> None:
    code, document, log = run(temporary)
    assert (code, document["result"], document["reasons"]) == (0, "success", []), log
    assert document["workflow"] == "examples/hello/hello.yml"
    check_containers(document, 2)
    assert "left by the first container" in log
    assert "| ### Hello from " in log


@pytest.mark.case("workflow-91")
def test_failing_is_red_at_the_right_step(temporary: Path) -> None:
    code, document, log = run(temporary, "examples/failing/failing.yml")
    assert (code, document["result"]) == (1, "failure"), log
    assert document["reasons"] == ["job 'failing/failing' ended with failure, step 'Fail in a container'"]
    assert [step["title"] for step in document["jobs"][0]["steps"]] == ["Fail in a container"]
    check_containers(document, 1, exit_code=7)


@pytest.mark.case("workflow-92")
def test_views_builds_software_and_runs_it(temporary: Path) -> None:
    code, document, log = run(temporary, "examples/views/views.yml")
    assert (code, document["result"]) == (0, "success"), log
    check_containers(document, 2)
    view = "/cvmfs/sft.cern.ch/lcg/views/LCG_106/x86_64-el9-gcc13-opt"
    assert f"compiler: {view}/bin/g++" in log
    assert f"view: {view}" in log
    assert "2.64575" in log, "the program ran"
    assert not (ROOT / "examples/views/software/masses").exists(), "the user's tree is not written to"


@pytest.mark.case("workflow-93")
def test_packages_are_installed_for_one_step(temporary: Path) -> None:
    code, document, log = run(temporary, "examples/packages/packages.yml")
    assert (code, document["result"]) == (0, "success"), log
    check_containers(document, 2)
    assert "by apt-get" in log


@pytest.mark.case("workflow-94")
def test_ctrl_c_in_a_container_step_leaves_nothing(temporary: Path, tmp_path: Path, state: str) -> None:
    file = tmp_path / "long.yml"
    file.write_text(
        "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n"
        "      - name: Long\n        uses: a/apptainer-gha-runner/container@v1\n        with:\n          image: ubuntu:latest\n"
        '          run: |\n            trap "" INT TERM HUP\n            touch "$RUNNER_TEMP/inside"\n            sleep 600\n',
        encoding="utf-8",
    )
    child = start(temporary, str(file), "--offline-images")
    limit = time.monotonic() + LIMIT
    while not list(temporary.glob("gha-workflow-*/act/*/tmp/inside")):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert list(Path(state, "containers").iterdir()), "the container runs"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 130, err
    assert json.loads(out)["result"] == "cancelled"
