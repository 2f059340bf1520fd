"""The protocol: cases 1 to 13 of the hook contract, and the shims."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hook_jobs import BUSYBOX, HookRunner, job
from live_jobs import LiveJob


@pytest.mark.case("hooks-1")
def test_five_megabytes_of_json_and_nothing_of_it_in_the_log(hooks: HookRunner) -> None:
    live = LiveJob(hooks, {})
    with live:
        done = live.prepare(padding="Grüße-∂-" * 700_000, more={"secret-marker": "s3cr3t-marker"})
        assert done.code == 0, done
        assert "marker" not in done.text and "Grüße" not in done.text
        wrong = live.send(b'{"command": "prepare_job", "args": "s3cr3t-marker", "state": "' + b"x" * 5_000_000)
        out, err = wrong.communicate(timeout=60)
        assert wrong.returncode == 125
        assert b"no JSON" in out and b"marker" not in out + err and b"xxxx" not in out + err


def evil(hooks: HookRunner) -> Path:
    """A directory of programs that leave a trace when anything starts them."""
    place = hooks.work / "evil"
    place.mkdir(exist_ok=True)
    for name in ("bash", "sh", "python3", "apptainer", "env", "cat", "node", "squashfuse", "fuse-overlayfs", "mount", "uname", "ldconfig"):
        (place / name).write_text("#!/bin/sh\necho %s >> %s/traces\n" % (name, place))
        (place / name).chmod(0o755)
    hooks.driver.own(hooks.work)
    return place


@pytest.mark.case("hooks-2", "hooks-80")
@pytest.mark.parametrize("kind", ["sh", "js"])
def test_only_absolute_tools_are_used(hooks: HookRunner, kind: str) -> None:
    if kind == "js" and not hooks.node:
        pytest.skip("there is no node on this machine")
    place = evil(hooks)
    live = LiveJob(hooks, {}, kind=kind, environ={"PATH": "%s:/usr/bin:/bin" % place, "LD_PRELOAD": "", "BASH_ENV": "%s/bash" % place})
    with live.prepared():
        assert live.script("echo ran").out == b"ran\n"
        assert live.step(entryPoint="/bin/echo").code == 0
    traces = (place / "traces").read_text().split() if (place / "traces").exists() else []
    assert traces == (["bash"] * 4 if kind == "sh" else [])  # the .sh is for trusted repositories: bash itself reads BASH_ENV before us


@pytest.mark.case("hooks-3")
def test_a_response_is_whole_before_success_and_empty_after_failure(hooks: HookRunner) -> None:
    good = LiveJob(hooks, {})
    with good:
        done = good.prepare()
        assert done.code == 0
        assert set(done.answer) == {"state", "isAlpine", "context"}
    bad = LiveJob(hooks, {"createOptions": "--nonsense"})
    with bad:
        done = bad.prepare()
        assert (done.code, done.response) == (125, "")
        assert "--nonsense" in done.text


@pytest.mark.case("hooks-4", "hooks-6")
def test_the_shape_of_a_response(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}) as live:
        answer = live.prepare().answer
        assert isinstance(answer["isAlpine"], bool)
        assert set(answer["context"]["container"]) == {"id", "network"}
    with LiveJob(hooks, None) as live:
        answer = live.prepare().answer
        assert "container" not in answer["context"] and "isAlpine" not in answer


@pytest.mark.case("hooks-7")
def test_what_is_unknown_or_missing(hooks: HookRunner) -> None:
    live = LiveJob(
        hooks, {"newField": {"a": 1}, "environmentVariables": None, "createOptions": "", "userMountVolumes": None, "portMappings": None}
    )
    with live:
        assert live.prepare(future=[1]).code == 0
        args = {"entryPoint": "echo", "entryPointArgs": None, "environmentVariables": None, "workingDirectory": None, "more": None}
        done = live.call("run_script_step", args)
        assert (done.code, done.out) == (0, b"\n")
        unknown = live.call("resume_job", {})
        assert unknown.code == 125
        assert "unknown hook command: 'resume_job'" in unknown.text and "prepare_job" in unknown.text


@pytest.mark.case("hooks-8")
def test_states_that_are_not_this_jobs(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}).prepared() as mine, LiveJob(hooks, {}).prepared() as other:
        for state, words in (
            (None, "no job container"),
            ({"id": "../../etc"}, "not what prepare_job answered"),
            ({"id": ["x"]}, "not what prepare_job answered"),
            ("text", "not what prepare_job answered"),
            ({"id": "0" * 32}, "record is gone"),
            (other.state, "another job"),
        ):
            done = mine.script("echo ran", state)
            assert done.code == 125 and words in done.text and b"ran" not in done.out, (state, done)
            if state is not None:
                done = mine.step(entryPoint="/bin/echo", state=state)
                assert done.code == 125 and "not this job" in done.text, (state, done)
            assert mine.cleanup({"id": "f" * 32}).code == 0 if state is None else True
            mine.prepared()
        assert other.script("echo ran").out == b"ran\n"


@pytest.mark.case("hooks-9")
def test_output_passes_byte_by_byte(hooks: HookRunner) -> None:
    lines = "::add-mask::hidden\n::set-output name=x::1\n::error file=a.c,line=3::bad\n"
    lines += "##[group]old\nhidden\tT\r\x1b[31mred\x1b[0m\n::stop-commands::k\n::k::\n"
    script = "cat <<'EOF'\n%sEOF\nprintf '\\377\\376no end'" % lines
    done = hooks.play(job(script))
    assert done.wrote("1") == lines.encode() + b"\xff\xfeno end"
    assert done.step("1")["outputs"] == {"x": "1"}
    assert ("error", "bad") in [tuple(one) for one in done.step("1")["annotations"]]
    assert "hidden" not in done.text("1")


@pytest.mark.case("hooks-10")
def test_much_output_takes_no_memory(hooks: HookRunner) -> None:
    """The command has our stdout itself: whatever it writes never passes through a hook."""
    live = LiveJob(hooks, {})
    with live.prepared():
        script = "dd if=/dev/zero bs=1M count=192 2>/dev/null | tr '\\0' 'a'; echo; for i in 1 2 3; do echo out $i; echo err $i >&2; done"
        child, _ = live.start("run_script_step", live.script_args(script))
        peak = [0]
        size = [0]
        tail = [b""]

        def watch() -> None:
            while child.poll() is None:
                try:
                    for line in Path("/proc/%d/status" % child.pid).read_text().splitlines():
                        if line.startswith("VmHWM"):
                            peak[0] = max(peak[0], int(line.split()[1]))
                except OSError:
                    return
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert child.stdout is not None and child.stderr is not None
        while True:
            data = os.read(child.stdout.fileno(), 1 << 20)
            if not data:
                break
            size[0] += len(data)
            tail[0] = (tail[0] + data)[-100:]
        err = child.stderr.read()
        assert child.wait(60) == 0
        watcher.join()
        for stream in (child.stdout, child.stderr):
            stream.close()
    assert size[0] > 192 << 20
    assert tail[0].endswith(b"out 1\nout 2\nout 3\n") and err == b"err 1\nerr 2\nerr 3\n"
    assert 0 < peak[0] < 64 << 10  # kB


@pytest.mark.case("hooks-11")
@pytest.mark.parametrize(
    "script, code, words", [("exit 3", 3, "exit code 3"), ("kill -9 $$", 137, "memory"), ("kill -15 $$", 143, "SIGTERM")]
)
def test_exit_codes(hooks: HookRunner, script: str, code: int, words: str) -> None:
    done = hooks.play(
        job(script, {"uses": "docker://" + BUSYBOX, "with": {"entrypoint": "/bin/sh", "args": "-c '%s'" % script}, "if": "always"})
    )
    for name in ("1", "2"):
        assert done.step(name)["exit_code"] == code, done
        before = done.text(name).partition("Process completed with exit code")[0]
        assert words in before, done


@pytest.mark.case("hooks-12")
def test_no_noise_unless_asked_for(hooks: HookRunner) -> None:
    quiet = hooks.play(job("echo only this", {"uses": "docker://" + BUSYBOX, "with": {"entrypoint": "/bin/echo", "args": "that"}}))
    assert quiet.step("1")["log"] == ["only this"]
    assert quiet.step("2")["log"][-1] == "that" and len(quiet.step("2")["log"]) == 2  # the image's route, and the output
    loud = hooks.play(
        job({"run": "true", "env": {"TOKEN": "s3cr3t"}}, container={"image": BUSYBOX, "env": {"PASSWORD": "s3cr3t"}}, debug=True)
    )
    begin = loud.text("Initialize containers")
    assert "##[debug]apptainer: " in begin and " exec " in begin and str(hooks.work) in begin
    assert "##[debug]exec in container" in loud.text("1")
    assert "s3cr3t" not in str(loud.raw)


@pytest.mark.case("hooks-13")
def test_two_steps_at_once(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}).prepared() as live:
        text = "touch /at-%s; n=0; while ! test -e /at-%s; do sleep 0.05; n=$((n+1)); test $n -lt 400; done; echo met"
        calls = [live.start("run_script_step", live.script_args(text % pair)) for pair in (("a", "b"), ("b", "a"))]
        assert [live.finish(one).out for one in calls] == [b"met\n", b"met\n"]
