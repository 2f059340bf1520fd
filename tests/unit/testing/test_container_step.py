"""The action's walk on an engine in memory: what it asks for, and that no failure ever ends with 0."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gha_apptainer.domain.containers import ContainerSpec, ExecRequest, ExitStatus, Stdio
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files
from gha_apptainer.node.actions.container import ContainerStep
from gha_apptainer.node.report import Report
from gha_apptainer.node.volumes import cvmfs
from gha_apptainer.testing.engine import FakeEngine, Outcome

FILES = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY", "GITHUB_STATE", "GITHUB_EVENT_PATH")


class Runner:
    """What a runner prepares for one step."""

    def __init__(self, top: Path) -> None:
        self.work, self.temp, self.image = top / "work", top / "temp", top / "image"
        for folder in (self.work, self.temp, top / "commands", self.image / "bin", self.image / "etc"):
            folder.mkdir(parents=True)
        self.files = {name: top / "commands" / name for name in FILES}
        for path in self.files.values():
            path.touch()
        self.environ = {
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION": "one",
            "GITHUB_WORKSPACE": str(self.work),
            "RUNNER_TEMP": str(self.temp),
            "PATH": "/usr/bin",
            **{name: str(path) for name, path in self.files.items()},
        }
        self.host = HostFacts(
            hostname="node", boot_id="b", machine=os.uname().machine, kernel="6", uid=0, gid=0, state_dir=str(top / "state"), apptainer="/a"
        )
        self.settings = NodeSettings(routes=("path",))
        self.log = b""
        self.engine: Any = FakeEngine(self._program)
        self.requests: list[ExecRequest] = []
        self.texts: dict[str, str] = {}
        self.outcome = Outcome()
        self.outcomes: list[Outcome] = []

    def _program(self, request: ExecRequest) -> Outcome:
        self.requests.append(request)
        for word in request.argv:
            if word.startswith(str(self.temp)):
                self.texts[Path(word).name] = Path(word).read_text(encoding="utf-8", errors="surrogateescape")
        return self.outcomes.pop(0) if self.outcomes else self.outcome

    def _write(self, data: bytes) -> None:
        self.log += data

    def step(self, context: dict[str, str] | None = None, **inputs: str) -> int:
        given = {"image": str(self.image), "run": "true", **{name.replace("_", "-"): value for name, value in inputs.items()}}
        environ = {**self.environ, "GHA_ENV_CONTEXT": json.dumps(context or {})}
        environ.update({"GHA_INPUT_" + name.replace("-", "_").upper(): value for name, value in given.items()})
        report = Report(github=True, write=self._write)
        return ContainerStep(environ, report, engine=self.engine, host=self.host, settings=self.settings).run()

    @property
    def outputs(self) -> dict[str, str]:
        found, lines = {}, iter(self.files["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines())
        for text in lines:
            name, mark, end = text.partition("<<")
            if mark:
                found[name] = "\n".join(iter(lambda: next(lines), end))
        return found

    @property
    def text(self) -> str:
        return self.log.decode("utf-8", "surrogateescape")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    before = signal.getsignal(signal.SIGINT)
    yield Runner(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_good_step(runner: Runner) -> None:
    assert runner.step(run="make -j2\n") == 0
    (request,) = runner.requests
    assert request.argv[:2] == ("bash", "-e")
    assert runner.texts == {"step.sh": "make -j2\n"}
    assert request.cwd == str(runner.work)
    assert runner.outputs["exit-code"] == "0"
    assert runner.outputs["image-source"] == "path %s" % runner.image
    assert runner.outputs["cvmfs-revisions"] == "{}"
    assert re.search(r"^took [0-9.]+ s\nreproduce here \(on a login node\): apptainer exec ", runner.text, re.MULTILINE)
    assert "Container step: %s" % runner.image in runner.files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
    assert "::error" not in runner.text


@pytest.mark.parametrize("code", [1, 3, 125, 126, 127, 137, 255])
@pytest.mark.case("action-1")
def test_the_exit_code_is_the_commands(runner: Runner, code: int) -> None:
    runner.outcome = Outcome(code=code)
    assert runner.step() == code
    assert runner.outputs["exit-code"] == str(code)
    assert runner.text.count("::error title=") == 1
    assert "reproduce here" in runner.text


@pytest.mark.parametrize("spelling", ["apptainer_args_alias", "apptainer_args"])
@pytest.mark.case("action-2")
def test_arguments_for_apptainer_count(runner: Runner, spelling: str, tmp_path: Path) -> None:
    assert runner.step(None, **{spelling: "--bind %s:/inside --env A=b" % tmp_path}) == 0
    assert dict(runner.requests[0].env)["A"] == "b"


@pytest.mark.case("action-2")
def test_arguments_that_cannot_be_honoured_are_refused_by_name(runner: Runner) -> None:
    assert runner.step(apptainer_args="--fakeroot") == 125
    assert runner.requests == []
    assert "--fakeroot" in runner.text


@pytest.mark.case("action-3")
def test_lines_reach_the_container_to_the_letter(runner: Runner) -> None:
    lines = 'echo "$HOME" $(id -u) `date` \\$X \'a\' "b"\n# ${{ not an expression }}\nEOF\n'
    assert runner.step(run=lines) == 0
    assert runner.texts["step.sh"] == lines


@pytest.mark.case("action-4")
def test_container_shell_is_read(runner: Runner) -> None:
    assert runner.step(container_shell="sh") == 0
    assert runner.requests[0].argv[:2] == ("sh", "-e")


@pytest.mark.case("action-5")
def test_files_lie_in_a_private_directory_that_nobody_can_guess(runner: Runner) -> None:
    modes: list[int] = []
    program = runner.engine.program

    def look(request: ExecRequest) -> Outcome:
        modes.append(os.stat(os.path.dirname(request.argv[-1])).st_mode & 0o777)
        outcome: Outcome = program(request)
        return outcome

    runner.engine.program = look
    assert runner.step() == 0
    assert runner.step() == 0
    assert modes == [0o700, 0o700]
    assert runner.requests[0].argv[-1] != runner.requests[1].argv[-1]


@pytest.mark.case("action-2")
def test_binds_of_the_arguments_take_the_place_of_our_own(runner: Runner) -> None:
    work = str(runner.work)
    assert runner.step(apptainer_args="-B %s:%s:ro --pwd / --env MINE=1" % (work, work)) == 0
    assert runner.requests[0].cwd == "/"
    assert "source=%s,destination=%s,ro" % (work, work) in runner.outputs["command"]
    assert '--env MINE="$MINE"' in runner.outputs["command"]


@pytest.mark.case("action-10")
def test_a_repository_that_hangs_is_told_before_any_path_in_it_is_touched(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[str] = []
    real_stat = os.stat

    def noted(path: Any, **more: Any) -> os.stat_result:
        touched.append(str(path))
        return real_stat(path, **more)

    monkeypatch.setattr(os, "stat", noted)
    monkeypatch.setattr(os, "lstat", lambda path, **more: noted(path, follow_symlinks=False, **more))
    asked: list[str] = []

    def hangs(path: str, _limit: float = 0.0) -> cvmfs._Look:
        asked.append(path)
        return cvmfs._Look("%s does not answer" % path, hung=True)

    monkeypatch.setattr(cvmfs, "look", hangs)
    for given in ({"binds": "/cvmfs/x.org/a"}, {"image": "/cvmfs/x.org/el9"}, {"working_directory": "/cvmfs/x.org"}):
        assert runner.step(None, **given) == 125
    assert asked == ["/cvmfs/x.org"] * 3
    assert runner.text.count("CVMFS repository x.org hangs") == 3
    assert not [path for path in touched if path.startswith("/cvmfs/")]
    assert runner.requests == []


def test_a_path_in_a_repository_that_stands_elsewhere(runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "stand-in"
    (place / "data").mkdir(parents=True)
    monkeypatch.setattr(cvmfs, "look", lambda path, _limit=0.0: cvmfs._Look("" if path == str(place) else "none", revision="7"))
    runner.settings = replace(runner.settings, cvmfs_aliases={"x.org": str(place)})
    assert runner.step(binds="/cvmfs/x.org/data:/in") == 0
    assert "source=%s/data,destination=/in" % place in runner.outputs["command"]
    assert runner.outputs["cvmfs-revisions"] == '{"x.org": "7"}'
    assert runner.step(binds="/cvmfs/x.org/none:/in") == 125
    assert "cannot bind /cvmfs/x.org/none: it does not exist" in runner.text


def test_the_revision_of_an_image_on_cvmfs_is_noted(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cvmfs, "look", lambda _path, _limit=0.0: cvmfs._Look(revision="42"))
    runner.settings = replace(runner.settings, cvmfs_aliases={"x.org": os.path.dirname(runner.image)})
    assert runner.step() == 0
    assert runner.outputs["cvmfs-revisions"] == '{"x.org": "42"}'
    assert "x.org revision 42" in runner.files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")


@pytest.mark.case("action-6")
def test_cvmfs_is_not_required(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: path != "/cvmfs" and real(path))
    assert runner.step() == 0


def test_without_bash_the_default_falls_back_to_sh_once(runner: Runner) -> None:
    runner.outcomes = [Outcome(code=127, reason="bash: not found", ran=False), Outcome(code=4)]
    assert runner.step() == 4
    assert [one.argv[0] for one in runner.requests] == ["bash", "sh"]


def test_an_image_that_shows_no_bash_starts_once_with_sh(runner: Runner) -> None:
    (runner.image / "bin/sh").touch()
    runner.outcomes = [Outcome(code=4)]
    assert runner.step(run="exit 4") == 4
    assert [one.argv[:2] for one in runner.requests] == [("sh", "-e")]
    assert runner.texts == {"step.sh": "exit 4\n"}
    assert "the image has no bash" in runner.text
    assert re.search(r"^reproduce here .* sh -e", runner.text, re.MULTILINE)
    assert "bash" not in runner.outputs["command"]


@pytest.mark.parametrize("inputs", [{"shell": "bash"}, {"setup_script": "/etc/setup.sh"}])
def test_bash_that_was_asked_for_is_not_replaced(runner: Runner, inputs: dict[str, str]) -> None:
    (runner.image / "bin/sh").touch()
    assert runner.step(None, **inputs) == 0
    assert [one.argv[0] for one in runner.requests] == ["bash"]


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(code=127),
        Outcome(code=127, reason="root file system lost"),
        Outcome(code=127, reason="cancelled by SIGINT"),
        Outcome(code=126, reason="bash: not executable", ran=False),
        Outcome(code=130, reason="cancelled before its command started", ran=False),
    ],
)
@pytest.mark.case("action-11")
def test_nothing_that_may_have_run_or_was_cancelled_runs_twice(runner: Runner, outcome: Outcome) -> None:
    runner.outcome = outcome
    assert runner.step() == outcome.code
    assert len(runner.requests) == 1


@pytest.mark.parametrize("reason", ["root file system lost", "unknown: its monitor was killed"])
@pytest.mark.case("action-11")
def test_a_reason_is_never_success(runner: Runner, reason: str) -> None:
    runner.outcome = Outcome(code=0, reason=reason)
    assert runner.step() == 125
    assert runner.outputs["exit-code"] == "125"
    assert reason in runner.text


class Broken(FakeEngine):
    """Whose container cannot be run."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def run(self, spec: ContainerSpec, name: str, stdio: Stdio, *, grace: float = 0.0) -> ExitStatus:
        """Fails."""
        if isinstance(self.error, KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("boom"), OSError(28, "No space left on device", "/layer"), OSError(5, "I/O error")])
@pytest.mark.case("action-11")
def test_whatever_goes_wrong_is_a_failure_that_says_so(runner: Runner, error: Exception) -> None:
    runner.engine = Broken(error)
    assert runner.step() == 125
    assert runner.outputs["exit-code"] == "125"
    assert runner.text.count("::error title=") == 1


@pytest.mark.case("action-12")
def test_a_signal_outside_of_the_engine_cancels(runner: Runner) -> None:
    runner.engine = Broken(KeyboardInterrupt())
    assert runner.step() == 143
    assert runner.outputs["exit-code"] == "143"


@pytest.mark.case("action-12")
def test_a_signal_that_was_ignored_at_the_start_counts(runner: Runner) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        runner.engine = Broken(KeyboardInterrupt())
        assert runner.step() == 143
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.case("action-11")
def test_no_record_no_success(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: str, data: bytes, **_: object) -> None:
        if path.endswith(".json"):
            raise OSError(28, "No space left on device", path)
        Path(path).write_bytes(data)

    monkeypatch.setattr(files, "write_whole", full)
    assert runner.step() == 125
    assert "no record of the step" in runner.text


@pytest.mark.case("action-11")
def test_a_record_that_is_not_what_was_written_is_no_success(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.read_whole

    def half(path: str, **more: int) -> bytes:
        return real(path, **more)[:40] if path.endswith(".json") else real(path, **more)

    monkeypatch.setattr(files, "read_whole", half)
    assert runner.step() == 125


@pytest.mark.case("action-11")
def test_a_record_that_is_no_text_is_no_success(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.read_whole
    monkeypatch.setattr(files, "read_whole", lambda path, **more: b"\xff" if path.endswith(".json") else real(path, **more))
    assert runner.step() == 125
    assert runner.text.count("::error title=no record of the step::") == 1


def test_lines_of_a_step_are_in_the_log_and_in_nothing_that_is_kept(runner: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    runner.environ["GHA_APPTAINER_RESULTS"] = str(folder)
    for shell in ("bash", "python", "sh -e {0}"):
        assert runner.step(run="echo hunter2hunter2\n", shell=shell, env="MINE=hunter2hunter2") == 0
    assert runner.text.count("echo hunter2hunter2") == 3
    kept = [*folder.glob("*.json"), *(path for path in runner.files.values())]
    texts = [path.read_text(encoding="utf-8") for path in kept]
    assert not [text for text in texts if "hunter2" in text]
    assert runner.outputs["command"].endswith("sh -e '<file with the 20 characters of the step>'")
    assert '--env MINE="$MINE"' in runner.outputs["command"]


def test_records_are_left_where_the_caller_wants_them(runner: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    runner.environ["GHA_APPTAINER_RESULTS"] = str(folder)
    runner.outcome = Outcome(code=3)
    assert runner.step() == 3
    (path,) = folder.glob("*.json")
    found = json.loads(path.read_text(encoding="ascii"))
    assert (found["step"], found["exit_code"], found["route"], found["word"]) == ("one", 3, "path", "FAILED")


def test_an_input_error_comes_before_any_work(runner: Runner) -> None:
    assert runner.step(gpu="maybe") == 125
    assert "::error title=bad input::input gpu: 'maybe' is not accepted%0Aremedy: use one of: auto, nvidia, rocm, none" in runner.text
    assert runner.requests == []


def test_a_missing_bind_is_an_error(runner: Runner) -> None:
    assert runner.step(binds="/does/not/exist:/x") == 125
    assert "/does/not/exist does not exist on this machine" in runner.text


@pytest.mark.parametrize(("gpu", "code"), [("auto", 0), ("none", 0), ("nvidia", 125), ("rocm", 125)])
def test_gpu_where_there_is_none(runner: Runner, gpu: str, code: int) -> None:
    assert runner.step(gpu=gpu) == code


def test_a_gpu_that_is_there_is_used_and_announced(runner: Runner) -> None:
    runner.host = replace(runner.host, nvidia_reason="")
    assert runner.step() == 0
    assert "::notice title=GPU::" in runner.text


def test_password_is_masked_before_anything_else(runner: Runner) -> None:
    assert runner.step(username="me", password="hunter2hunter2") == 0
    assert runner.text.startswith("::add-mask::hunter2hunter2\n")
    assert "hunter2hunter2" not in runner.text[len("::add-mask::hunter2hunter2\n") :]
    assert "hunter2" not in repr(runner.requests)


def test_environment_and_paths(runner: Runner) -> None:
    runner.environ.update(LD_PRELOAD="bad", SLURM_JOB_ID="1", PATH="%s/bin:/usr/bin" % runner.work)
    assert runner.step({"JOB-LEVEL": "a\nb", "OVER": "context"}, env="OVER=input\nMINE<<E\n1\n2\nE") == 0
    env = dict(runner.requests[0].env)
    assert (env["JOB-LEVEL"], env["OVER"], env["MINE"]) == ("a\nb", "input", "1\n2")
    assert not {"LD_PRELOAD", "SLURM_JOB_ID", "GHA_INPUT_RUN", "GHA_ENV_CONTEXT"} & set(env)
    assert env["PATH"].startswith("%s/bin:" % runner.work)


def test_the_images_own_command_without_run(runner: Runner) -> None:
    assert runner.step(run="") == 125
    assert "no command specified" in runner.text


@pytest.mark.case("action-16")
def test_what_a_step_outputs_belongs_to_the_step_that_calls_the_action(runner: Runner) -> None:
    caller = runner.files["GITHUB_OUTPUT"].with_name("of-the-caller")
    caller.touch()
    runner.environ["GHA_CALLER_OUTPUT"] = str(caller)
    runner.files["GITHUB_OUTPUT"].write_text("system=debian\n", encoding="utf-8")
    assert runner.step() == 0
    assert caller.read_text(encoding="utf-8") == "system=debian\n"


@pytest.mark.parametrize("path", ["/etc/passwd", "", "nowhere"])
def test_a_caller_that_is_none_gets_nothing(runner: Runner, path: str) -> None:
    runner.environ["GHA_CALLER_OUTPUT"] = path
    assert runner.step() == 0


@pytest.mark.case("action-13")
def test_what_a_killed_step_left_is_removed_by_the_next(runner: Runner) -> None:
    left = runner.temp / "gha-apptainer-step.1.7.abc"
    left.mkdir()
    assert runner.step() == 0
    assert not left.exists()


def test_old_inputs_without_effect_warn_by_name(runner: Runner) -> None:
    assert runner.step(cvmfs_http_proxy="http://proxy:3128") == 0
    assert "::warning title=container step::input cvmfs_http_proxy" in runner.text
