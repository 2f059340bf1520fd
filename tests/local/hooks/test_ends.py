"""Cancels, kills and clean-ups: cases 74 to 77 of the hook contract, and what is left after a kill at every stage."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hook_jobs import BUSYBOX, HookRunner, job
from live_jobs import LiveJob

from gha_apptainer.node.hooks.cancelling import tree

LIMIT = 60.0
STUBBORN = "trap '' INT TERM; (trap '' INT TERM; sleep 300) & setsid sleep 300 & echo begun > begun; while true; do sleep 1; done"


def wait_for(what: Callable[[], object], words: str) -> None:
    limit = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < limit, words
        time.sleep(0.02)


def begun(hooks: HookRunner) -> Path:
    return hooks.work / "repository/repository/begun"


def sleepers(hooks: HookRunner) -> list[int]:
    """Processes of containers of this runner that run one of our `sleep 300`."""
    found = []
    for pid in hooks.driver.processes():
        try:
            if b"sleep\x00300" in Path("/proc/%d/cmdline" % pid).read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.case("hooks-74")
@pytest.mark.parametrize("kind", ["sh", "js"])
@pytest.mark.parametrize("ignored", [False, True])
def test_a_cancel_ends_the_whole_step(hooks: HookRunner, kind: str, ignored: bool) -> None:
    """SIGINT to the hook's pid only, also where it is ignored at the start; the job container lives on."""
    if kind == "js" and not hooks.node:
        pytest.skip("there is no node on this machine")
    with LiveJob(hooks, {}, kind=kind).prepared() as live:
        args = live.script_args(STUBBORN)
        if ignored:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            started = live.start("run_script_step", args)
            signal.signal(signal.SIGINT, before)
        else:
            started = live.start("run_script_step", args)
        mark = live.places.workspace / "begun"
        wait_for(mark.exists, "the step does not begin")
        asked = time.monotonic()
        started[0].send_signal(signal.SIGINT)
        done = live.finish(started)
        assert done.code == 130, done
        assert "cancelled (SIGINT)" in done.text
        assert time.monotonic() - asked < 7.5  # then the runner's next signal would come
        wait_for(lambda: not sleepers(hooks), "something of the step lives on")
        assert live.script("echo always").out == b"always\n"


@pytest.mark.case("hooks-74")
def test_a_cancel_of_a_container_step(hooks: HookRunner) -> None:
    with LiveJob(hooks, None) as live:
        started = live.start("run_container_step", live.step_args("-c", "'%s'" % STUBBORN.replace("'", "'\\''"), entryPoint="/bin/sh"))
        wait_for((live.places.workspace / "begun").exists, "the step does not begin")
        started[0].send_signal(signal.SIGINT)
        done = live.finish(started)
        assert done.code == 130 or done.code == 137, done
        assert "cancelled" in done.text
        wait_for(lambda: not sleepers(hooks), "something of the step lives on")


@pytest.mark.case("hooks-74")
def test_a_cancel_of_a_whole_job(hooks: HookRunner) -> None:
    """By the runner, as it does it: later steps are skipped, `always()` ones and the clean-up run."""
    child = hooks.start(job(STUBBORN, "echo never", {"run": "echo still", "if": "always"}))
    wait_for(begun(hooks).exists, "the step does not begin")
    child.send_signal(signal.SIGUSR1)  # the test runner's cancel
    done = hooks.finish(child)
    assert done.result == "cancelled"
    assert done.step("1")["exit_code"] == 130 and done.outcome("2") == "skipped", done
    assert done.text("3") == "still" and done.outcome("Stop containers") == "success"


@pytest.mark.case("hooks-74")
def test_a_step_that_runs_too_long(hooks: HookRunner) -> None:
    done = hooks.play(job({"run": "sleep 300", "timeout-minutes": 0.01}, {"run": "echo after", "if": "always"}))
    assert done.step("1")["exit_code"] == 130 and done.text("2") == "after", done


@pytest.mark.case("hooks-74")
def test_a_cancel_while_containers_are_prepared(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}) as live:
        started = live.start("prepare_job", {"container": live.wish({}, job=True), "services": []})
        time.sleep(0.08)
        asked = time.monotonic()
        started[0].send_signal(signal.SIGINT)
        done = live.finish(started)
        assert done.code in (0, 130), done  # it may have been ready by then
        assert time.monotonic() - asked < 10  # the runner kills after that; a container that was starting must not be waited for
        if done.code:
            assert done.response == ""
            hooks.assert_nothing_left()


@pytest.mark.case("hooks-75")
@pytest.mark.parametrize("kind", ["sh", "js"])
def test_a_killed_hook_takes_its_container_step_with_it(hooks: HookRunner, kind: str) -> None:
    if kind == "js" and not hooks.node:
        pytest.skip("there is no node on this machine")
    with LiveJob(hooks, {}, kind=kind).prepared() as live:
        text = "echo begun > begun; sleep 300"
        step = live.start("run_container_step", live.step_args("-c", "'%s'" % text, entryPoint="/bin/sh"))
        mark = live.places.workspace / "begun"
        wait_for(mark.exists, "the step does not begin")
        step[0].send_signal(signal.SIGKILL)
        live.finish(step)
        wait_for(lambda: not sleepers(hooks), "the container lives on")
        mark.unlink()
        script = live.start("run_script_step", live.script_args("echo begun > begun; exec sleep 300"))
        wait_for(mark.exists, "the step does not begin")
        script[0].send_signal(signal.SIGKILL)
        live.finish(script)
        wait_for(lambda: not sleepers(hooks), "the step's command lives on")
        assert live.script("echo the job goes on").code == 0


@pytest.mark.case("hooks-76")
def test_cleaning_up_is_done_as_often_as_it_is_asked_for(hooks: HookRunner) -> None:
    with LiveJob(hooks, {"volumes": ["named:/named"]}) as live:
        assert live.cleanup().code == 0  # before anything
        live.prepared()
        live.script("sleep 300 > /dev/null 2>&1 & touch /named/x")
        began = time.monotonic()
        done = live.cleanup()
        assert (done.code, done.text) == (0, "")
        assert time.monotonic() - began < 10
        assert hooks.left() == []
        again = live.cleanup()
        assert again.code == 0
        assert live.cleanup(None).code == 0
    failed = LiveJob(hooks, {"image": "/nowhere/image.sif"})
    with failed:
        assert failed.prepare().code == 125


@pytest.mark.case("hooks-77")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_runner_that_ends_without_cleaning_up(hooks: HookRunner, number: int) -> None:
    child = hooks.start(job("sleep 300 & sleep 300 & echo begun > begun; wait", container={"image": BUSYBOX, "volumes": ["named:/named"]}))
    wait_for(begun(hooks).exists, "the step does not begin")
    child.send_signal(number)
    child.communicate(timeout=LIMIT)
    wait_for(lambda: not sleepers(hooks), "something of the job lives on")  # its owner is gone, and nobody has to come by for that
    hooks.sweep()
    hooks.assert_nothing_left()


def victims(hooks: HookRunner, live: LiveJob, who: str, hook: int) -> list[int]:
    """Host pids of one kind of process of a running step."""
    below = tree(hook)
    if who == "hook":
        return [hook]
    if who == "command":
        return [pid for pid in below if pid != hook and b"sleep" in Path("/proc/%d/cmdline" % pid).read_bytes()]
    identity = os.listdir(hooks.driver.state / "containers")[0]
    if who == "monitor":
        return [int((hooks.driver.state / "containers" / identity / "monitor").read_text().split()[0])]
    running = (hooks.driver.state / "containers" / identity / "running.json").read_text()
    return [int(running.split('"init": ')[1].split(",")[0])]


@pytest.mark.case("hooks-75", "hooks-77")
@pytest.mark.parametrize("who", ["hook", "command", "monitor", "init"])
def test_kills_while_a_step_runs(hooks: HookRunner, who: str) -> None:
    """Whatever is killed, the step fails, and the clean-up leaves nothing."""
    with LiveJob(hooks, {}).prepared() as live:
        started = live.start("run_script_step", live.script_args("echo begun > begun; sleep 300; echo survived"))
        wait_for((live.places.workspace / "begun").exists, "the step does not begin")
        for pid in victims(hooks, live, who, started[0].pid):
            os.kill(pid, signal.SIGKILL)
        done = live.finish(started)
        assert done.code != 0 and b"survived" not in done.out, done
        after = live.script("echo alive")
        if who in ("monitor", "init"):
            assert after.code == 125 and "job container" in after.text, after
        else:
            assert after.code == 0, after


@pytest.mark.case("hooks-75", "hooks-77")
@pytest.mark.parametrize("command", ["prepare_job", "run_container_step", "cleanup_job"])
def test_kills_at_every_stage_of_a_hook(hooks: HookRunner, command: str) -> None:
    """SIGKILL of the hook at moments spread over its whole run; what is left is gone after the next hook."""
    mine = LiveJob(hooks, {})
    if command == "cleanup_job":
        mine.prepared()
    args: object = {
        "prepare_job": {"container": mine.wish({}, job=True), "services": []},
        "run_container_step": mine.step_args("300", entryPoint="/bin/sleep"),
        "cleanup_job": {},
    }[command]
    for pause in (0.01, 0.03, 0.05, 0.07, 0.09, 0.11, 0.14, 0.18):
        child, _ = mine.start(command, args)
        try:
            child.wait(pause)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.communicate(timeout=LIMIT)
        if command == "cleanup_job":
            assert mine.cleanup().code == 0
            hooks.assert_nothing_left()
            mine.prepared()
    with mine:
        pass
    hooks.assert_nothing_left()


def serving(tree: Path) -> None:
    (tree / "www").mkdir()
    (tree / "www/index.html").write_text("served\n")


@pytest.mark.case("hooks-75", "hooks-77")
@pytest.mark.parametrize("who", ["init", "monitor", "forwarder", "all"])
def test_kills_of_what_serves_a_job(hooks: HookRunner, who: str) -> None:
    """Whatever of a service is killed, and whenever, the clean-up says what its log holds and leaves nothing."""
    image = hooks.add_image("serving:1", serving)
    options = "--health-cmd 'wget -q -O - http://127.0.0.1:8000/' --health-interval 100ms --health-retries 100"
    service = {"image": image, "createOptions": options, "entryPoint": "/bin/httpd", "entryPointArgs": ["-f", "-p", "8000", "-h", "/www"]}
    with LiveJob(hooks, {}, services=({**service, "portMappings": ["8000"]},)).prepared() as live:
        get = "wget -q -O - http://serving:8000/"
        assert live.script(get).out == b"served\n"
        identity = next(
            one.name for one in (hooks.driver.state / "containers").iterdir() if '"main": null' not in (one / "spec.json").read_text()
        )
        folder = hooks.driver.state / "containers" / identity
        monitor = int((folder / "monitor").read_text().split()[0])
        init = int((folder / "running.json").read_text().split('"init": ')[1].split(",")[0])
        below = [pid for pid in tree(monitor) if pid not in (monitor, init)]
        own = Path("/proc/%d/comm" % monitor).read_text()
        helpers = [pid for pid in below if Path("/proc/%d/comm" % pid).read_text() == own]  # forwarders and the health check's runner
        chosen = {"init": [init], "monitor": [monitor], "forwarder": helpers, "all": [monitor, init, *below]}[who]
        assert chosen, [Path("/proc/%d/comm" % pid).read_text() for pid in below]
        for pid in chosen:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        assert live.script("echo the job goes on").code == 0
        if who == "forwarder":  # it is started again
            wait_for(lambda: live.script(get + " 2>/dev/null").out == b"served\n", "the service is not reached again")
        done = live.cleanup()
        assert done.code == 0 and "Log of service serving" in done.text, done
        hooks.assert_nothing_left()
