"""The tools of the house: numbered cases, allowed skips, the closing line, the pinned pip."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
PIP = ROOT / "scripts" / "lib" / "pinned_pip.py"
CLOSING = ROOT / "scripts" / "lib" / "closing_line.py"


def run_pytest(place: Path, text: str, **environ: str) -> subprocess.CompletedProcess[str]:
    (place / "test_some.py").write_text(text)
    (place / "pytest.ini").write_text("[pytest]\nmarkers = case\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "conformance", "-p", "skips", "-q", str(place)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SUPPORT), **environ}
    return subprocess.run(argv, cwd=place, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_table_tells_what_holds_what_fails_and_what_was_not_tried(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        "import pytest\n"
        "@pytest.mark.case('apptainer-2', 'hooks-26')\ndef test_a(): pass\n"
        "@pytest.mark.case('apptainer-10')\ndef test_b(): assert 0\n"
        "@pytest.mark.case('pod-3')\ndef test_c(): pytest.skip('no')\n"
        "@pytest.mark.case('hooks-26')\n@pytest.mark.parametrize('x', [1], ids=['doctor-7'])\ndef test_d(x): pass\n",
    )
    table = [line.split() for line in done.stdout.splitlines()]
    assert ["apptainer", "holds", "1", "2"] in table
    assert ["apptainer", "FAILS", "1", "10"] in table
    assert ["pod", "not", "tried", "1", "3"] in table
    assert ["doctor", "holds", "1", "7"] in table
    assert "3 of 5 numbered cases hold" in done.stdout


def test_a_case_holds_only_if_all_its_tests_pass(tmp_path: Path) -> None:
    text = "import pytest\n" + "".join("@pytest.mark.case('act-1')\ndef test_%d(): assert %d\n" % (at, at) for at in (0, 1))
    assert "0 of 1 numbered cases hold" in run_pytest(tmp_path, text).stdout


def test_a_name_that_is_no_case_is_an_error(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "import pytest\n@pytest.mark.case('something')\ndef test_a(): pass\n")
    assert done.returncode == 4
    assert "'something' is no case" in done.stdout + done.stderr


SKIPS = "import pytest\ndef test_a(): pytest.skip('no such machine')\n"


def test_ci_turns_an_unlisted_skip_into_a_failure(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, SKIPS).returncode == 0
    done = run_pytest(tmp_path, SKIPS, CI="true")
    assert done.returncode == 1
    assert "no such machine" in done.stdout
    assert "allowed-skips.txt" in done.stdout


def test_ci_sees_skips_of_whole_modules(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "import pytest\npytest.skip('all of it', allow_module_level=True)\n", CI="true")
    assert done.returncode not in (0, 5)
    assert "all of it" in done.stdout


def test_every_line_of_the_list_is_well_formed_and_reasoned() -> None:
    lines = (ROOT / "tests" / "allowed-skips.txt").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#"):
            assert len([part for part in line.split(" | ") if part.strip()]) == 3, line


@pytest.mark.parametrize(
    ("runs", "wanted", "line"),
    [
        ([{"passed": 3}, {"passed": 4, "skipped": 1}], 2, "7 passed, 1 skipped in 2.50s"),
        ([{"passed": 3}, {"failed": 1, "passed": 1}], 2, "1 failed, 4 passed in 2.50s"),
        ([{"passed": 3}], 2, "3 passed, 1 error in 2.50s"),
        ([], 2, "2 errors in 2.50s"),
    ],
)
def test_the_closing_line_sums_runs_and_counts_those_that_died(tmp_path: Path, runs: list[dict[str, int]], wanted: int, line: str) -> None:
    counts = tmp_path / "counts"
    counts.write_text("".join(json.dumps(run) + "\n" for run in runs))
    argv = [sys.executable, "-I", str(CLOSING), str(counts), "2.5", str(wanted)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip("=\n ") == line


WHEEL = b"not really a wheel"
NAME = "pip-99.1-py3-none-any.whl"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    page = tmp_path / "www" / "simple" / "pip"
    page.mkdir(parents=True)
    (page / "index.html").write_text('<a href="../../files/%s#sha256=00">%s</a>' % (NAME, NAME))
    (tmp_path / "www" / "files").mkdir()
    (tmp_path / "www" / "files" / NAME).write_bytes(WHEEL)
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "http://127.0.0.1:%d/simple" % server.server_port
        server.shutdown()
        thread.join(10)


def fetch_pip(place: Path, digest: str, **environ: str) -> subprocess.CompletedProcess[str]:
    (place / "pip.txt").write_text("pip==99.1 \\\n    --hash=sha256:%s\n" % digest)
    argv = [sys.executable, "-I", str(PIP), str(place / "pip.txt"), str(place / "out")]
    return subprocess.run(argv, env={"PATH": os.environ["PATH"], **environ}, capture_output=True, text=True, timeout=60, check=False)


def test_pip_comes_from_the_index_that_the_environment_names(tmp_path: Path, index: str) -> None:
    done = fetch_pip(tmp_path, hashlib.sha256(WHEEL).hexdigest(), PIP_INDEX_URL=index)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).read_bytes() == WHEEL
    again = fetch_pip(tmp_path, hashlib.sha256(WHEEL).hexdigest(), PIP_INDEX_URL="http://127.0.0.1:1")
    assert again.stdout == done.stdout, "what is there already needs no index"


def test_pip_comes_from_the_index_that_its_configuration_names(tmp_path: Path, index: str) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = %s/\n" % index)
    done = fetch_pip(tmp_path, hashlib.sha256(WHEEL).hexdigest(), HOME=str(tmp_path), PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pip_that_is_not_the_pinned_one_is_refused(tmp_path: Path, index: str) -> None:
    done = fetch_pip(tmp_path, "0" * 64, PIP_INDEX_URL=index)
    assert done.returncode == 1
    assert "wrong digest" in done.stderr
    assert os.listdir(tmp_path / "out") == []


def test_an_index_without_it_is_an_error(tmp_path: Path, index: str) -> None:
    done = fetch_pip(tmp_path, "0" * 64, PIP_INDEX_URL=index.replace("/simple", "/other"))
    assert done.returncode == 1
    assert "404" in done.stderr


def test_locks_name_no_index_and_pin_by_digest() -> None:
    for lock in (ROOT / "locks").iterdir():
        text = lock.read_text()
        assert "://" not in text, lock
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pins
        assert all("==" in line and line.endswith("\\") for line in pins), lock


def test_the_first_page_of_the_documentation_leads_to_every_other() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} - {"index.md"}
    assert pages
    assert not sorted(page for page in pages if "(%s)" % page not in text)
