"""The container action as a runner starts it: real Apptainer, real signals; and through real act."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from driving import SRC, Driver

from gha_apptainer.domain.hosts import HostFacts

TOP = Path(__file__).parents[2]
LIMIT = 120
FILES = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY", "GITHUB_STATE", "GITHUB_EVENT_PATH")
VALUES = {
    b"MY-VAR.with.dots": b"x",
    b"NEWLINES": b"a\nb\n",
    b"CRLF": b"a\r\nb",
    b"QUOTES": b"'\"`$HOME$(id)\\",
    b"BYTES": b"\xff\x80",
    b"BIG": b"x" * 120_000,
    b"EMPTY": b"",
    b"BASH_FUNC_f%%": b"() { :; }",
}


class Job:
    """One job's places, and steps in it."""

    def __init__(self, top: Path, state: str, image: str, host: HostFacts) -> None:
        self.work, self.temp, commands = top / "work", top / "temp", top / "commands"
        for folder in (self.work, self.temp, commands):
            folder.mkdir()
        self.files = {name: commands / name for name in FILES}
        for path in self.files.values():
            path.touch()
        self.environ = {
            "PATH": "/usr/bin:/bin",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION": "one",
            "GITHUB_ACTION_PATH": str(TOP),
            "GITHUB_WORKSPACE": str(self.work),
            "RUNNER_TEMP": str(self.temp),
            "GHA_APPTAINER_STATE": state,
            "GHA_APPTAINER": host.apptainer,
            "GHA_INPUT_IMAGE": image,
            **{name: str(path) for name, path in self.files.items()},
        }

    def start(self, run: str, environ: dict[bytes, bytes] | None = None, **inputs: str) -> subprocess.Popen[bytes]:
        given = {**self.environ, "GHA_INPUT_RUN": run, **{"GHA_INPUT_" + name.upper(): value for name, value in inputs.items()}}
        env = {**{os.fsencode(name): os.fsencode(value) for name, value in given.items()}, **(environ or {})}
        argv = [sys.executable, "-I", "-S", str(TOP / "src"), "action"]
        return subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def step(self, run: str, environ: dict[bytes, bytes] | None = None, **inputs: str) -> tuple[int, str]:
        child = self.start(run, environ, **inputs)
        out, _ = child.communicate(timeout=LIMIT)
        return child.returncode, out.decode("utf-8", "replace")


@pytest.fixture
def job(tmp_path: Path, state: str, busybox_rootfs: str, host: HostFacts) -> Job:
    return Job(tmp_path, state, busybox_rootfs, host)


def _wait_for(child: subprocess.Popen[bytes], word: bytes) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == word:
            return
    pytest.fail("the step ended before it said %r" % word)


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
@pytest.mark.case("action-1")
def test_the_steps_exit_code_is_the_commands(job: Job, code: int) -> None:
    assert job.step("exit %d" % code)[0] == code


@pytest.mark.case("action-16")
def test_what_a_step_leaves(job: Job) -> None:
    code, log = job.step(
        'echo "a=1" >> "$GITHUB_OUTPUT"; echo "B=2" >> "$GITHUB_ENV"; echo /x >> "$GITHUB_PATH"; echo "# s" >> "$GITHUB_STEP_SUMMARY"\n'
        'echo s=1 >> "$GITHUB_STATE"; cat "$GITHUB_EVENT_PATH"; touch made; echo "::warning::own"; cd "$RUNNER_TEMP" && touch kept'
    )
    assert (code, "::warning::own" in log) == (0, True)
    assert job.files["GITHUB_OUTPUT"].read_text(encoding="utf-8").startswith("a=1\n")
    assert job.files["GITHUB_ENV"].read_text(encoding="utf-8") == "B=2\n"
    assert job.files["GITHUB_PATH"].read_text(encoding="utf-8") == "/x\n"
    assert job.files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8").startswith("# s\n### Container step")
    assert (job.work / "made").stat().st_uid == os.getuid()
    assert [one.name for one in job.temp.iterdir()] == ["kept"]


@pytest.mark.parametrize("way", ["context", "input"])
@pytest.mark.case("action-14")
def test_environment_matrix(job: Job, way: str) -> None:
    """As the runner hands it over: text in JSON for the context, a bare name for the runner's own bytes."""
    text = {name.decode(): value.decode("utf-8", "surrogateescape") for name, value in VALUES.items()}
    if way == "context":
        env = {b"GHA_ENV_CONTEXT": json.dumps(text).encode()}
        code, log = job.step("cat /proc/$$/environ > environ", env)
    else:
        code, log = job.step("cat /proc/$$/environ > environ", VALUES, env="\n".join(text))
    assert code == 0, log
    seen = dict(one.partition(b"=")[::2] for one in (job.work / "environ").read_bytes().split(b"\0") if one)
    assert {name: seen.get(name) for name in VALUES} == VALUES


@pytest.mark.case("action-15")
def test_nothing_of_the_host_comes_in(job: Job) -> None:
    hidden = {b"LD_PRELOAD": b"", b"SLURM_JOB_ID": b"1", b"APPTAINER_BIND": b"/root", b"PYTHONPATH": b"/x", b"RUNNER_TOKEN": b"t"}
    assert job.step("env > seen", hidden, password="hunter2", username="me")[0] == 0
    names = {line.partition("=")[0] for line in (job.work / "seen").read_text(encoding="utf-8").splitlines()}
    assert not names & {name.decode() for name in hidden}
    assert not [name for name in names if name.startswith("GHA_")]


def test_read_only_and_writable(job: Job) -> None:
    assert job.step("touch /made", writable="false")[0] == 1
    assert job.step("touch /made")[0] == 0
    assert job.step("test ! -e /made")[0] == 0


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.case("action-12")
def test_cancel_ends_the_step(job: Job, ignored: bool) -> None:
    """SIGINT may be ignored when we start, as it is for children of a runner's background shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if ignored else None
    try:
        child = job.start("echo started; sleep 300")
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    _wait_for(child, b"started")
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=LIMIT)
    assert child.returncode == 130
    assert b"container step cancelled" in out


@pytest.mark.case("action-12")
def test_a_program_that_ignores_the_cancel_is_killed_before_we_are(job: Job) -> None:
    child = job.start("trap '' INT TERM; echo started; while :; do sleep 1; done")
    _wait_for(child, b"started")
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(7.5)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=LIMIT)
    assert child.returncode == 137
    assert time.monotonic() - began < 60


@pytest.mark.case("action-12")
def test_a_program_that_ends_well_when_cancelled_is_no_success(job: Job) -> None:
    child = job.start("trap 'exit 0' INT; echo started; sleep 300 & wait")
    _wait_for(child, b"started")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=LIMIT)
    assert child.returncode == 130


@pytest.mark.case("action-12")
def test_a_cancelled_step_does_not_touch_another_of_the_same_user(tmp_path: Path, state: str, busybox_rootfs: str, host: HostFacts) -> None:
    """Two jobs with one state directory at once, as two runners of one user have it; afterwards nothing of either is left."""
    jobs = []
    for name in ("green", "cancelled"):
        (tmp_path / name).mkdir()
        jobs.append(Job(tmp_path / name, state, busybox_rootfs, host))
    green, other = jobs
    going = green.start("echo started; while [ ! -e go ]; do sleep 0.1; done; echo a=1 >> $GITHUB_OUTPUT; echo done")
    doomed = other.start("echo started; sleep 300")
    _wait_for(going, b"started")
    _wait_for(doomed, b"started")
    doomed.send_signal(signal.SIGINT)
    doomed.communicate(timeout=LIMIT)
    assert doomed.returncode == 130
    assert going.poll() is None
    (green.work / "go").touch()
    out, _ = going.communicate(timeout=LIMIT)
    assert going.returncode == 0, out
    assert b"done" in out
    assert green.files["GITHUB_OUTPUT"].read_text(encoding="utf-8").startswith("a=1\n")
    assert [list(one.temp.iterdir()) for one in jobs] == [[], []]
    assert sorted(os.listdir(os.path.join(state, "containers"))) == []


@pytest.mark.case("action-1")
def test_an_ordinary_users_step(driver: Driver, busybox_rootfs: str) -> None:
    """The same walk for each kind of user that can be had here: exit code, outputs, files of the workspace, a cancel."""
    image = driver.images / "busybox"
    shutil.copytree(busybox_rootfs, image, symlinks=True)
    places = {name: driver.folder / name for name in ("work", "temp", "commands")}
    for place in places.values():
        place.mkdir()
    output = places["commands"] / "output"
    output.touch()
    environ = driver.environ(
        GITHUB_ACTIONS="true", GITHUB_WORKSPACE=str(places["work"]), RUNNER_TEMP=str(places["temp"]), GITHUB_OUTPUT=str(output),
        GHA_INPUT_IMAGE=str(image),
    )  # fmt: skip
    for tree in (image, *places.values()):
        driver.own(tree)

    def start(run: str) -> subprocess.Popen[bytes]:
        env = {**environ, "GHA_INPUT_RUN": run}
        return subprocess.Popen(
            driver.argv(str(SRC), "action"), env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    child = start('id -u; echo "a=1" >> "$GITHUB_OUTPUT"; touch made; touch /in-the-image; exit 7')
    out, _ = child.communicate(timeout=LIMIT)
    assert child.returncode == 7, out
    assert b"\n0\n" in out
    assert output.read_text(encoding="utf-8").startswith("a=1\n")
    assert (places["work"] / "made").stat().st_uid == driver.uid
    assert not (image / "in-the-image").exists()
    child = start("echo started; sleep 300")
    _wait_for(child, b"started")
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=LIMIT)
    assert child.returncode == 130, out
    assert list(places["temp"].iterdir()) == []


@pytest.mark.case("action-13")
def test_sigkill_of_the_wrapper_leaves_nothing(job: Job) -> None:
    child = job.start("echo started; sleep 300")
    _wait_for(child, b"started")
    child.kill()
    child.communicate(timeout=LIMIT)  # its streams close only when nothing of the container is left
    assert child.returncode == -signal.SIGKILL
    assert job.files["GITHUB_OUTPUT"].read_bytes() == b""
    assert job.step("true")[0] == 0
    assert list(job.temp.iterdir()) == []


@pytest.mark.case("action-8")
def test_a_view_is_set_up_before_the_lines_run(job: Job, debian_rootfs: str, tmp_path: Path) -> None:
    view = tmp_path / "stand-in" / "lcg" / "views" / "LCG_106" / ("%s-el9-gcc13-opt" % os.uname().machine)
    view.mkdir(parents=True)
    (view / "setup.sh").write_text("false\nexport VIEW=$(dirname ${BASH_SOURCE[0]}) ARGS=$#\n", encoding="utf-8")
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"version": 1, "cvmfs_aliases": {"sft.cern.ch": str(tmp_path / "stand-in")}}), encoding="utf-8")
    job.environ["GHA_APPTAINER_SETTINGS"] = str(settings)
    job.environ["GHA_INPUT_IMAGE"] = debian_rootfs
    platform = "LCG_106/" + view.name
    code, log = job.step('echo "$VIEW $ARGS $LC_ALL"; false; echo reached', release_platform=platform)
    assert (code, "reached" in log.replace("; echo reached", "")) == (1, False)
    assert "/cvmfs/sft.cern.ch/lcg/views/%s 0 C" % platform in log
    assert "%s: " % "sft.cern.ch" in log
    code, log = job.step("true", release_platform="LCG_1/" + view.name)
    assert code == 125
    assert "there is no /cvmfs/sft.cern.ch/lcg/views/LCG_1/" in log


WORKFLOW = """
on: push
env: {IMAGE: "IMAGE-PATH", JOB-LEVEL: 'a "b"'}
jobs:
  good:
    runs-on: here
    steps:
      - run: |
          echo "FROM_BEFORE=1" >> $GITHUB_ENV
          mkdir $RUNNER_TEMP/tools; printf '#!/bin/sh\\necho tool ran\\n' > $RUNNER_TEMP/tools/mytool; chmod +x $RUNNER_TEMP/tools/mytool
          echo $RUNNER_TEMP/tools >> $GITHUB_PATH
      - uses: someone/apptainer-gha-runner/container@v1
        id: inside
        env: {STEP_LEVEL: s}
        with:
          image: ${{ env.IMAGE }}
          env: MINE=1
          run: |
            test "$FROM_BEFORE$STEP_LEVEL$MINE" = 1s1
            tr '\\0' '\\n' < /proc/$$/environ | grep -qx 'JOB-LEVEL=a "b"'
            test -z "$SECRETISH"
            mytool
            echo "answer=42" >> $GITHUB_OUTPUT
            echo "FROM_INSIDE=yes" >> $GITHUB_ENV
      - run: test "${{ steps.inside.outputs.answer }} ${{ steps.inside.outputs.exit-code }} $FROM_INSIDE" = "42 0 yes"
  bad:
    runs-on: here
    steps:
      - uses: someone/apptainer-gha-runner@v1
        id: fails
        continue-on-error: true
        with: {image: "${{ env.IMAGE }}", run: exit 7}
      - run: test "${{ steps.fails.outcome }} ${{ steps.fails.outputs.exit-code }}" = "failure 7"
      - uses: someone/apptainer-gha-runner@v1
        with: {image: "${{ env.IMAGE }}", run: exit 9}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    target = tmp_path / "checkout"
    for name in ("action.yml", "container", "src"):
        source = TOP / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            target.mkdir(exist_ok=True)
            shutil.copy2(source, target / name)
    return target


@pytest.mark.parametrize(("name", "result"), [("good", "success"), ("bad", "failure")])
@pytest.mark.case("action-16")
def test_through_act(name: str, result: str, checkout: Path, tmp_path: Path, state: str, busybox_rootfs: str, host: HostFacts) -> None:
    beside = Path(sysconfig.get_path("scripts")) / "act"
    act = str(beside) if beside.exists() else shutil.which("act")
    assert act, "act is not installed: scripts/setup installs it"
    (tmp_path / "w.yml").write_text(WORKFLOW.replace("IMAGE-PATH", busybox_rootfs), encoding="utf-8")
    argv = [
        act, "push", "--json", "--rm", "--pull=false", "--job", name, "--workflows", str(tmp_path / "w.yml"), "--directory", str(tmp_path),
        "--platform", "here=-self-hosted", "--action-cache-path", str(tmp_path / "cache"), "--use-new-action-cache",
        "--local-repository", "someone/apptainer-gha-runner@v1=%s" % checkout,
        "--cache-server-addr", "127.0.0.1", "--artifact-server-addr", "127.0.0.1", "--env-file", "/dev/null", "--secret-file", "/dev/null",
    ]  # fmt: skip
    env = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SECRETISH": "x", "GHA_APPTAINER_STATE": state, "GHA_APPTAINER": host.apptainer,
        "GHA_APPTAINER_PYTHON": sys.executable,
    }  # fmt: skip
    done = subprocess.run(argv, env=env, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["jobResult"] for one in told if "jobResult" in one] == [result], done.stdout + done.stderr
    if name == "bad":
        failed = [one["msg"] for one in told if one.get("stepResult") == "failure"]
        assert any("exit status 9" in one.get("msg", "") or "exitcode '9'" in one.get("msg", "") for one in told), failed
