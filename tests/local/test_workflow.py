"""`gha-apptainer workflow` with the real act on workflows of `run:` steps: what it shows, how it ends, what it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
START = "import sys; from gha_apptainer.cli import main; sys.exit(main(['workflow', *sys.argv[1:]]))"
LIMIT = 120.0


class Place:
    """An empty home, an empty folder for temporary files and a folder for a workflow, and a way to run there."""

    def __init__(self, top: Path) -> None:
        self.home, self.temporary, self.work = top / "home", top / "tmp", top / "work"
        for folder in (self.home, self.temporary, self.work):
            folder.mkdir()

    def write(self, text: str, name: str = "w.yml") -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *words: str, env: Mapping[str, str] | None = None, start: str = START) -> subprocess.Popen[str]:
        clean = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(SRC),
            "LANG": "C.UTF-8",
        }
        return subprocess.Popen(
            [sys.executable, "-c", start, *words],
            env={**clean, **(env or {})},
            cwd=self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        child = self.start(*words, env=env)
        out, err = child.communicate(timeout=LIMIT)
        return subprocess.CompletedProcess(words, child.returncode, out, err)

    def scratch(self) -> list[str]:
        return [one.name for one in self.temporary.iterdir()]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    assert found.scratch() == [], "nothing is left behind"


def marked(text: str) -> list[int]:
    """Processes whose command line holds `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in line:
                found.append(int(entry.name))
    return found


def wait_until(path: Path) -> None:
    limit = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < limit, f"{path} did not come into being"
        time.sleep(0.02)


GREEN = """
name: green
on: push
jobs:
  first:
    runs-on: ubuntu-latest
    outputs: {word: "${{ steps.say.outputs.word }}"}
    steps:
      - {name: Say, id: say, run: 'echo "word=hello" >> "$GITHUB_OUTPUT"'}
      - {name: May fail, continue-on-error: true, run: exit 3}
  second:
    needs: first
    strategy: {matrix: {label: [big, small]}}
    runs-on: ["${{ matrix.label }}", self-hosted]
    steps:
      - {name: Hear, run: 'test "${{ needs.first.outputs.word }}" = hello && echo "heard by ${{ matrix.label }}"'}
"""


@pytest.mark.case("workflow-60")
def test_a_green_workflow_in_a_folder_without_git(place: Place) -> None:
    place.write(GREEN)
    done = place.run("w.yml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "heard by big" in done.stdout
    assert "heard by small" in done.stdout
    assert done.stdout.splitlines()[-1] == "w.yml: no container step: success"


@pytest.mark.case("workflow-61")
def test_the_result_as_a_document(place: Place) -> None:
    place.write(GREEN)
    done = place.run("--json", "w.yml")
    document = json.loads(done.stdout)
    assert (document["version"], document["result"], document["reasons"]) == (1, "success", [])
    assert sorted(job["id"] for job in document["jobs"]) == ["first", "second", "second"]
    assert [step["result"] for job in document["jobs"] if job["id"] == "first" for step in job["steps"]] == ["success", "failure"]
    assert "heard by big" in done.stderr


@pytest.mark.case("workflow-62")
def test_a_red_step_makes_a_red_run_that_names_it(place: Place) -> None:
    place.write("on: push\njobs: {a: {runs-on: x, steps: [{name: Break, run: exit 4}, {name: Not me, run: echo reached}]}}")
    done = place.run("w.yml")
    assert done.returncode == 1
    assert "job 'w.yml/a' ended with failure, step 'Break'" in done.stderr
    assert "reached" not in done.stdout
    assert done.stdout.splitlines()[-1].endswith(": failure")


@pytest.mark.case("workflow-63")
def test_a_run_in_which_nothing_ran_is_red(place: Place) -> None:
    place.write("on: push\njobs: {a: {runs-on: x, steps: [{if: false, run: echo never}]}}")
    done = place.run("w.yml")
    assert done.returncode == 1
    assert "nothing ran" in done.stderr


@pytest.mark.case("workflow-64")
def test_a_label_that_turns_out_unmapped_is_red(place: Place) -> None:
    place.write(
        "on: push\njobs:\n  a:\n    runs-on: x\n    outputs: {label: surprise}\n    steps: [{run: echo a}]\n"
        "  b:\n    needs: a\n    runs-on: ${{ needs.a.outputs.label }}\n    steps: [{run: echo never}]\n"
    )
    done = place.run("w.yml", "--", "-P", "expected=-self-hosted")
    assert done.returncode == 1
    assert "job 'w.yml/b' was skipped: its label is not mapped" in done.stderr


@pytest.mark.case("workflow-65")
def test_no_actrc_and_no_habitual_file_is_read(place: Place) -> None:
    for folder in (place.home, place.work, place.home / ".config/act"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (".actrc" if folder.name != "act" else "actrc")).write_text("--dryrun\n-P x=node:20\n", encoding="utf-8")
    (place.work / ".env").write_text("STRAY=yes\n", encoding="utf-8")
    (place.work / ".secrets").write_text("STRAY=yes\n", encoding="utf-8")
    place.write("on: push\njobs: {a: {runs-on: x, steps: [{run: 'echo \"stray=$STRAY${{ secrets.STRAY }} home=$HOME\"'}]}}")
    done = place.run("w.yml", env={"SECRET_OF_THE_SHELL": "no"})
    assert done.returncode == 0
    assert f"stray= home={place.temporary}" in done.stdout


@pytest.mark.case("workflow-66")
def test_a_secret_is_in_no_argument_list_and_no_log(place: Place) -> None:
    ready, go = place.home / "ready", place.home / "go"
    place.write(
        "on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n"
        "      - name: Use ${{ secrets.KEY }}\n        env: {KEY: '${{ secrets.KEY }}'}\n"
        f'        run: |\n          test "$KEY" = \'sword "fish"\' && touch {ready}\n'
        f"          while ! test -e {go}; do sleep 0.05; done\n          echo $KEY\n"
    )
    child = place.start("w.yml", "--", "--secret", "KEY", env={"KEY": 'sword "fish"'})
    try:
        wait_until(ready)
        assert marked('sword "fish"') == []
    finally:
        go.touch()
        out, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 0, out + err
    assert "fish" not in out + err


@pytest.mark.case("workflow-67")
def test_checkout_brings_the_tree_and_local_actions(place: Place) -> None:
    place.write(
        "on: push\njobs: {a: {runs-on: x, steps: [{uses: actions/checkout@v5}, {uses: ./do}, {run: test ! -e big}]}}",
        ".github/workflows/w.yml",
    )
    place.write("runs: {using: composite, steps: [{shell: sh, run: cat data.txt}]}", "do/action.yml")
    place.write("the data\n", "data.txt")
    place.write("big/\n", ".gitignore")
    place.write("x", "big/file")
    done = place.run(".github/workflows/w.yml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the data" in done.stdout


@pytest.mark.case("workflow-68")
def test_what_a_step_leaves_running_ends_with_the_run(place: Place) -> None:
    mark = f"left-{os.getpid()}-{time.monotonic_ns()}"
    place.write(f"on: push\njobs: {{a: {{runs-on: x, steps: [{{run: 'setsid sh -c \"sleep 600; : {mark}\" & sleep 0.2'}}]}}}}")
    done = place.run("w.yml")
    assert done.returncode == 0
    assert marked(mark) == []


def interrupted(place: Place, number: int) -> tuple[int, str, list[int]]:
    """Exit code, output and left processes of a run that got a signal in the middle of a step."""
    mark = f"left-{os.getpid()}-{time.monotonic_ns()}"
    ready = place.home / "ready"
    place.write(
        "on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n"
        f"      - name: Long\n        run: |\n          trap '' INT TERM HUP\n          setsid sh -c 'sleep 600; : {mark}' &\n"
        f"          touch {ready}\n          sleep 600; : {mark}\n"
        "      - {name: Not after a cancel, run: echo reached}\n"
        "      - {name: Always, if: always(), run: echo tidied up}\n"
    )
    child = place.start("w.yml")
    wait_until(ready)
    child.send_signal(number)
    out, err = child.communicate(timeout=LIMIT)
    return child.returncode, out + err, marked(mark)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="workflow-69-int"),
        pytest.param(signal.SIGTERM, id="workflow-69-term"),
        pytest.param(signal.SIGHUP, id="workflow-69-hup"),
    ],
)
def test_a_signal_ends_the_run_and_everything_in_it(place: Place, number: int) -> None:
    code, text, left = interrupted(place, number)
    assert code == 128 + number
    assert left == []
    assert "reached" not in text.replace("echo reached", "")
    assert "tidied up" in text
    assert "w.yml: no container step: cancelled" in text


@pytest.mark.case("workflow-70")
def test_act_killed_is_a_failure(place: Place) -> None:
    ready = place.home / "ready"
    place.write(f"on: push\njobs: {{a: {{runs-on: x, steps: [{{run: 'touch {ready}; sleep 600'}}]}}}}")
    child = place.start("w.yml")
    wait_until(ready)
    pids = [pid for pid in marked(str(place.work / "w.yml")) if pid != child.pid]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    out, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 1
    assert "act was killed by signal 9" in err
    assert "job 'a' has no result" in err
    assert out.splitlines()[-1].endswith(": failure")


@pytest.mark.case("workflow-71")
def test_what_is_refused_starts_nothing(place: Place) -> None:
    place.write("name: w\non: push\njobs: {a: {runs-on: x, services: {db: {image: postgres}}, steps: [{run: echo never}]}}")
    done = place.run("w.yml")
    assert (done.returncode, done.stdout) == (72, "")
    assert "workflow 'w', job 'a': `services:` (db)" in done.stderr


def test_a_list_of_jobs_runs_nothing(place: Place) -> None:
    place.write(GREEN)
    done = place.run("--json", "--list", "w.yml")
    document = json.loads(done.stdout)
    assert document["labels"] == ["big", "self-hosted", "small", "ubuntu-latest"]
    assert [(job["id"], job["combinations"]) for job in document["jobs"]] == [("first", 1), ("second", 2)]


@pytest.mark.case("workflow-72")
def test_a_second_ctrl_c_does_not_wait(place: Place) -> None:
    ready, tidying = place.home / "ready", place.home / "tidying"
    place.write(
        "on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n"
        f"      - run: touch {ready}; sleep 600\n"
        f"      - {{if: always(), run: 'touch {tidying}; sleep 600'}}\n"
    )
    child = place.start("w.yml")
    wait_until(ready)
    child.send_signal(signal.SIGINT)
    wait_until(tidying)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=LIMIT)
    assert child.returncode == 130


def test_a_ctrl_c_while_things_are_prepared_ends_at_once(place: Place) -> None:
    """Before act runs there is nothing to tidy up: the program that is looked at first here does not answer."""
    slow = place.home / "act"
    slow.write_text(f"#!/bin/sh\ntouch {place.home}/asked\nexec sleep 60\n", encoding="utf-8")
    slow.chmod(0o755)
    place.write("on: push\njobs: {a: {runs-on: x, steps: [{run: echo never}]}}")
    replaced = "from gha_apptainer.cli.workflows import launch; launch.find_act = lambda environ: %r; " % str(slow)
    child = place.start("w.yml", start=START.replace("import sys; ", "import sys; " + replaced))
    wait_until(place.home / "asked")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=LIMIT)
    assert child.returncode == 130
    assert marked(str(slow)) == []


@pytest.mark.case("workflow-73")
def test_a_called_workflow_runs_with_the_labels_of_its_caller(place: Place) -> None:
    place.write(
        "on: {workflow_call: {inputs: {label: {type: string, default: x}}}}\n"
        "jobs: {in: {runs-on: '${{ inputs.label }}', steps: [{run: 'echo ran on ${{ inputs.label }}'}]}}\n",
        "called.yml",
    )
    place.write(
        "on: push\njobs:\n  j:\n    strategy: {matrix: {l: [a, b]}}\n    uses: ./called.yml\n    with: {label: 'el-${{ matrix.l }}'}\n"
        "  k:\n    needs: j\n    runs-on: z\n    steps: [{run: echo last}]\n"
    )
    done = place.run("--json", "w.yml")
    assert done.returncode == 0, done.stderr
    assert sorted(job["id"] for job in json.loads(done.stdout)["jobs"]) == ["in", "in", "k"]
    assert "ran on el-a" in done.stderr
    assert "ran on el-b" in done.stderr


def test_nohup_is_honoured(place: Place) -> None:
    ready, go = place.home / "ready", place.home / "go"
    place.write(f"on: push\njobs: {{a: {{runs-on: x, steps: [{{run: 'touch {ready}; while ! test -e {go}; do sleep 0.05; done'}}]}}}}")
    ignoring = START.replace("import sys; ", "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); ")
    child = place.start("w.yml", start=ignoring)
    wait_until(ready)
    child.send_signal(signal.SIGHUP)
    go.touch()
    out, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 0, out + err
