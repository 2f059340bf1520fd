"""The test runner is a runner: what it sends, believes, shows and says, tried with hooks that are a few lines of shell."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gha_apptainer.testing.runner.documents import Job, StepResult, read_job
from gha_apptainer.testing.runner.hooks import GENERIC, Caller, Cancel, HookError, call
from gha_apptainer.testing.runner.output import Masks, Output, key_values
from gha_apptainer.testing.runner.places import Places, mount, volume
from gha_apptainer.testing.runner.worker import Worker

PYTHON = "#!%s\nimport json, os, sys, time\nraw = sys.stdin.read()\nrequest = json.loads(raw)\n" % sys.executable


def hook(tmp_path: Path, text: str) -> Path:
    """A hook that is a Python program, started by an .sh as every hook is."""
    (tmp_path / "hook.py").write_text(PYTHON + text)
    path = tmp_path / "hook.sh"
    path.write_text("exec %s %s\n" % (sys.executable, tmp_path / "hook.py"))
    return path


def caller(tmp_path: Path, text: str) -> Caller:
    (tmp_path / "work").mkdir(exist_ok=True)
    return Caller(hook(tmp_path, text), tmp_path / "work", tmp_path / "externals")


def ask(
    tmp_path: Path, text: str, command: str = "prepare_job", args: Any = None, cancel: Cancel | None = None, state: object = None
) -> Any:
    result = StepResult("x")
    output = Output(result, Masks(), debug=False)
    environ = {"PATH": "/usr/bin:/bin"}
    wanted = {"container": {}, "services": []} if args is None else args
    answer = call(caller(tmp_path, text), command, wanted, state, environ, tmp_path, output, cancel or Cancel())
    return answer, result


GOOD = "open(request['responseFile'], 'w').write(json.dumps({'STATE': {'id': 1}, 'isalpine': True, 'more': 1}))\n"


def test_a_request_is_one_line_with_the_runners_keys(tmp_path: Path) -> None:
    text = "open('request', 'w').write(raw)\nassert raw.endswith('\\n') and raw.count('\\n') == 1\n" + GOOD
    answer, _ = ask(tmp_path, text, state={"id": "ü"})
    raw = (tmp_path / "request").read_text(encoding="utf-8")
    assert list(json.loads(raw)) == ["command", "responseFile", "args", "state"]
    assert "ü" in raw
    assert answer.given == {"state": {"id": 1}, "isalpine": True, "more": 1}
    assert list((tmp_path / "work/_temp/_runner_hook_responses").iterdir()) == []


@pytest.mark.parametrize(
    "text, args, words",
    [
        ("pass", None, "Response file could not be read"),
        ("os.unlink(request['responseFile'])", None, "Response file is required but not found"),
        ("open(request['responseFile'], 'w').write('{}')", None, "isAlpine"),
        ("pass", {"container": None, "services": [{}]}, "Object reference"),
        ("open(request['responseFile'], 'w').write('{} x')", None, "no JSON"),
        ("open(request['responseFile'], 'w').write(json.dumps({'context': {'container': {}}}))", {"container": None}, "Object reference"),
        (
            "open(request['responseFile'], 'w').write(json.dumps({'context': {'services': [{'ports': {}}]}}))",
            {"container": None},
            "Index was out",
        ),
        (
            "open(request['responseFile'], 'w').write(json.dumps({'context': {'services': [{'ports': {'80': 80}}]}}))",
            {"container": None, "services": [{}]},
            "Object reference",
        ),
    ],
)
def test_answers_that_a_runner_stumbles_over(tmp_path: Path, text: str, args: Any, words: str) -> None:
    with pytest.raises(HookError, match=words):
        ask(tmp_path, text, args=args)


def test_what_a_failing_hook_shows(tmp_path: Path) -> None:
    result = StepResult("x")
    output = Output(result, Masks(), debug=False)
    with pytest.raises(HookError) as caught:
        call(caller(tmp_path, "print('mine'); sys.exit(7)"), "cleanup_job", {}, None, {"PATH": "/usr/bin:/bin"}, tmp_path, output, Cancel())
    assert caught.value.exit_code == 7
    assert result.log == ["mine", "##[error]Process completed with exit code 7.", "##[error]" + GENERIC]


def test_which_files_are_hooks(tmp_path: Path) -> None:
    for name, words in (("hook.py", "Invalid file extension"), ("none.sh", "File not found"), ("hook.SH", "Invalid")):
        path = tmp_path / name
        if name != "none.sh":
            path.write_text("")
        with pytest.raises(HookError, match=words):
            Caller(path, tmp_path, tmp_path).command("/bin")
    (tmp_path / "hook.js").write_text("")
    assert Caller(tmp_path / "hook.js", tmp_path, Path("/e")).command("") == ["/e/node20/bin/node", str(tmp_path / "hook.js")]
    (tmp_path / "bash").write_text("#!/bin/sh\n")
    (tmp_path / "bash").chmod(0o755)
    (tmp_path / "hook.sh").write_text("")
    assert Caller(tmp_path / "hook.sh", tmp_path, tmp_path).command("%s:/bin" % tmp_path)[0] == str(tmp_path / "bash")


def test_a_cancel_is_three_signals_to_the_hook_alone(tmp_path: Path) -> None:
    text = "import signal\nfor one in (2, 15): signal.signal(one, lambda n, _: print('got', n, flush=True))\n"
    text += "print('up', flush=True)\nfor _ in range(3): time.sleep(60)"
    cancel = Cancel(((signal.SIGINT, 0.0), (signal.SIGTERM, 0.3), (signal.SIGKILL, 0.3)))
    result = StepResult("x")
    output = Output(result, Masks(), debug=False)

    def when_up() -> None:
        _until(lambda: "up" in result.log)
        cancel.asked.set()

    asker = threading.Thread(target=when_up)
    asker.start()
    with pytest.raises(HookError) as caught:
        call(caller(tmp_path, text), "run_script_step", {}, None, {"PATH": "/usr/bin:/bin"}, tmp_path, output, cancel)
    asker.join()
    assert caught.value.exit_code == 128 + 9
    assert cancel.sent == [2, 15, 9]
    assert result.log[:3] == ["up", "got 2", "got 15"]


def _until(what: Any) -> None:
    limit = time.monotonic() + 30
    while not what() and time.monotonic() < limit:
        time.sleep(0.01)


def test_output_is_read_as_the_runner_reads_it() -> None:
    result = StepResult("x")
    masks = Masks(("job-secret",))
    output = Output(result, masks, debug=False)
    text = (
        b"plain\r\n::add-mask::hidden\nhidden and job-secret\n::error file=a,line=1::bad%0Aworse\n##[warning]old\n::debug::unseen\n"
        b"::set-output name=x::1%25\n  ::notice::said\n::group::g\n::stop-commands::tok\n::error::text\n::tok::\n::unknown::y\nx\ry\nhalf"
    )
    for at in range(0, len(text), 7):
        output.feed("stdout", text[at : at + 7])
    output.feed("stderr", b"other\n")
    output.end()
    assert result.log == [
        "plain", "*** and ***", "##[error]bad\nworse", "##[warning]old", "##[notice]said", "##[group]g", "::error::text", "::tok::",
        "::unknown::y", "x", "y", "other", "half",
    ]  # fmt: skip
    assert result.annotations == [("error", "bad\nworse"), ("warning", "old"), ("notice", "said")]
    assert result.outputs == {"x": "1%"}
    assert result.raw["stdout"] == text


def test_files_by_which_steps_tell(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a=1\nb<<E\nx\n\ny=2\nE\nc=d=e\nnonsense\ng<<END\nopen\n")
    said: list[str] = []
    assert key_values(path, said.append) == {"a": "1", "b": "x\n\ny=2", "c": "d=e"}
    assert said == ["Invalid format 'nonsense'", "Invalid value. Matching delimiter not found 'END'"]


def test_paths_are_translated_by_the_first_directory_that_fits() -> None:
    places = Places(Path("/r/_work"), Path("/r/ext"), "OWNER/name")
    assert places.in_job("/r/_work/_temp/_github_workflow/event.json") == "/github/workflow/event.json"
    assert places.in_job("/r/_work/name/name/x") == "/__w/name/name/x"
    assert places.in_job("/r/ext/node20") == "/__e/node20"
    assert places.in_job("/r/_workshop /r/_work") == "/r/_workshop /r/_work"
    assert places.in_step("/r/_work/name/name") == "/github/workspace"
    assert places.in_step("/r/_work/_temp/_runner_file_commands/x") == "/github/file_commands/x"
    assert places.in_step("/r/_work/_tool") == "/r/_work/_tool"
    assert [one["targetVolumePath"] for one in places.job_mounts()][:3] == ["/var/run/docker.sock", "/__w", "/__e"]


@pytest.mark.parametrize(
    "text, source, target, read_only",
    [
        ("/x", "", "/x", False),
        ("/x:ro", "", "/x", True),
        ("n:/x", "n", "/x", False),
        ("/s:/x:ro", "/s", "/x", True),
        ("/s:/x:z", "/s", "/x", False),
    ],
)
def test_volumes(text: str, source: str, target: str, read_only: bool) -> None:
    assert volume(text) == mount(source, target, read_only=read_only, written=text)


def test_a_whole_job_and_its_order(tmp_path: Path) -> None:
    text = (
        "open('%s/calls', 'a').write('%%s %%s\\n' %% (request['command'], (request['state'] or {}).get('id')))\n"
        "answer = {'state': {'id': 'S'}, 'isAlpine': False}\n"
        "if request['command'] == 'prepare_job': open(request['responseFile'], 'w').write(json.dumps(answer))\n"
        "if 'fails' in str(request['args'].get('entryPointArgs')): sys.exit(1)\n" % tmp_path
    )
    made = caller(tmp_path, text)
    job = read_job(
        json.dumps(
            {
                "container": "image",
                "steps": [
                    {"name": "run", "run": "x"},
                    {"name": "act", "uses": "docker://a", "with": {"args": "fails"}},
                    {"name": "skipped", "run": "x"},
                    {"name": "always", "run": "x", "if": "always"},
                ],
            }
        )
    )
    done = Worker(job, made, {"PATH": "/usr/bin:/bin"}).run()
    assert done.result == "failure"
    assert [(one.name, one.outcome) for one in done.steps] == [
        ("Initialize containers", "success"), ("run", "success"), ("act", "failure"), ("skipped", "skipped"), ("always", "success"),
        ("Stop containers", "success"),
    ]  # fmt: skip
    assert (tmp_path / "calls").read_text().split("\n")[:-1] == [
        "prepare_job None", "run_script_step S", "run_container_step S", "run_script_step S", "cleanup_job S",
    ]  # fmt: skip


def test_a_job_that_needs_no_hook(tmp_path: Path) -> None:
    done = Worker(
        read_job('{"steps": [{"name": "a", "run": "echo on the host"}]}'), caller(tmp_path, "sys.exit(9)"), {"PATH": os.environ["PATH"]}
    ).run()
    assert done.result == "success"
    assert done.step("a").text == "on the host"


def test_jobs_with_unknown_keys_are_refused() -> None:
    assert read_job("{}") == Job()
    for text in (
        '{"jobs": 1}',
        '{"container": {"image": "x", "volume": 1}}',
        '{"steps": [{"run": "x", "iff": 1}]}',
        '{"steps": [{"name": "x"}]}',
    ):
        with pytest.raises(ValueError, match=r"unknown key|wanted"):
            read_job(text)
