"""SIGKILL at every stage of create, start, exec, stop and remove, in the caller, the monitor or the joiner, whichever comes next.

An audit hook counts what our processes do (open, rename, fork, …) in shared memory and kills the one that does the Nth thing. After each
kill one ordinary command must find or make a clean state. How many of the stages are tried: GHA_APPTAINER_KILLS, 0 for all.
https://docs.python.org/3/library/audit_events.html
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from driving import PRELUDE, Driver, linked_usr

KILLS = int(os.environ.get("GHA_APPTAINER_KILLS", "16"))
SEED = 20240521
LIMIT = 60.0

LIFE = r"""
import mmap, signal
counter = mmap.mmap(-1, 16)
NOISE = "import compile exec object. sys. code. marshal. builtins. cpython. tempfile. mmap. ctypes. array.".split()
target, armed = int(sys.argv[1]), False
def hook(event, arguments):
    if armed and not event.startswith(tuple(NOISE)):
        number = int.from_bytes(counter[:8], "little") + 1
        counter[:8] = number.to_bytes(8, "little")
        if number == target:
            counter[8:9] = b"k"
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
said = {"steps": []}
armed = True
try:
    made = engine.create(spec(%(root)r, pid=%(pid)s, remove=%(pid)s != 0, mounts=USR, main=%(main)s), "victim")
    said["steps"].append("create")
    engine.start(made)
    said["steps"].append("start")
    said["run"] = run(made, "/usr/bin/sh", "-c", "echo o; echo k")
    said["steps"].append("exec")
    engine.stop(made, 0.0)
    said["steps"].append("stop")
    said["status"] = engine.wait(made, 20.0).exit_code
    engine.remove(made)
    said["steps"].append("remove")
except GhaError as error:
    said["error"] = list(error.lines())
armed = False
said["count"], said["killed"] = int.from_bytes(counter[:8], "little"), counter[8:9] == b"k"
answer(said)
"""
AFTER = "engine.reap()\nanswer([[one.id, one.state, one.status.exit_code if one.status else None] for one in engine.list()])"
CLEAR = "for one in engine.list():\n    engine.remove(one.id)\nanswer([one.id for one in engine.list()])"
HELD, SLEEPING = "None", 'ExecRequest(argv=("/usr/bin/sleep", "600"), env=PATH)'


def live(driver: Driver, script: str, number: int) -> tuple[int, dict[str, Any]]:
    """One whole life in a process; its exit code and what it said, nothing if it was killed."""
    text = driver.argv("-c", PRELUDE + script, str(number))
    child = subprocess.Popen(text, env=driver.environ(), cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        out, err = child.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        child.kill()
        _, err = child.communicate()
        raise AssertionError("stage %d: our command hangs; %s" % (number, err.decode()[-2000:])) from None
    assert child.returncode in (0, -signal.SIGKILL), "stage %d: %s" % (number, err.decode()[-3000:])
    lines = out.decode().splitlines()
    return child.returncode, json.loads(lines[-1]) if lines and child.returncode == 0 else {}


def nothing_left(driver: Driver) -> list[str]:
    """What of a container is still there; processes get ten seconds to end."""
    until = time.monotonic() + 10
    while driver.processes() and time.monotonic() < until:
        time.sleep(0.02)
    left = ["process %d %r" % (pid, Path("/proc/%d/cmdline" % pid).read_bytes()) for pid in driver.processes()]
    for name in ("containers", "names"):
        left += ["%s/%s" % (name, entry) for entry in os.listdir(driver.state / name)]
    return left


@pytest.mark.parametrize("main", (HELD, SLEEPING), ids=("held", "main"))
@pytest.mark.parametrize("pid", ("os.getpid()", "0"), ids=("foreground", "detached"))
def test_a_kill_at_any_stage_leaves_a_state_that_the_next_command_cleans(driver: Driver, pid: str, main: str) -> None:
    root = str(driver.own(linked_usr(driver.images / "usr")))
    script = LIFE % {"root": root, "pid": pid, "main": main}
    code, whole = live(driver, script, 0)
    assert code == 0 and whole["steps"] == ["create", "start", "exec", "stop", "remove"], whole
    assert whole["run"]["out"] == "o\nk\n" and nothing_left(driver) == []
    stages = list(range(1, whole["count"] + 1))
    assert len(stages) > 50
    if KILLS and len(stages) > KILLS:
        stages = sorted({*stages[:20], *random.Random(SEED).sample(stages, KILLS)})  # all of create, which is the quickest
    defects = []
    for number in stages:
        try:
            code, said = live(driver, script, number)
        except AssertionError as error:
            defects.append(str(error))
            said = {}
        if said.get("killed"):  # the caller lived on: it must know what happened
            finished = "exec" in said["steps"]
            if finished and said["run"]["code"] == 0 and said["run"]["out"] != "o\nk\n":
                defects.append("stage %d: success without its work: %r" % (number, said))
            if "error" not in said and "remove" not in said["steps"]:
                defects.append("stage %d: neither done nor an error: %r" % (number, said))
        listed = driver.run(AFTER)
        if pid != "0" and listed:
            defects.append("stage %d: the owner is dead and this is still listed: %r" % (number, listed))
        if any(state == "exited" and status in (None, 0) for _, state, status in listed):
            defects.append("stage %d: a killed container has no failure: %r" % (number, listed))
        if driver.run(CLEAR):
            defects.append("stage %d: a container cannot be removed" % number)
        left = nothing_left(driver)
        if left:
            defects.append("stage %d: left: %r" % (number, left))
            for process in driver.processes():
                os.kill(process, signal.SIGKILL)
    assert not defects, "%d of %d:\n" % (len(defects), len(stages)) + "\n".join(defects)


FORKS = r"""
import os, signal, sys, time
first = os.getpid()
def again(number, frame):
    for _ in range(1 if os.getpid() == first else 2):
        if os.fork() == 0:
            os.setsid()
            return
    if os.getpid() != first:
        os._exit(0)
for number in range(1, 65):
    if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33):
        signal.signal(number, again)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        break
else:
    print("armed", flush=True)
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize("how", ("stop", "kill", "remove", "owner"))
def test_a_container_that_forks_and_dies_at_every_signal_ends(driver: Driver, how: str) -> None:
    root = str(driver.own(linked_usr(driver.images / "usr")))
    script = """
main = ExecRequest(argv=("/usr/bin/python3", "-c", %r), env=PATH)
made = engine.create(spec(%r, main=main, pid=os.getpid() if %r == "owner" else 0, mounts=USR))
engine.start(made)
until = time.time() + 30
while not any(b"armed" in line.text for line in engine.logs(made)):
    assert time.time() < until
    time.sleep(0.05)
for number in (1, 2, 3, 10, 12, 15):
    engine.kill(made, number)
assert run(made, "/usr/bin/bash", "-c", "for one in HUP TERM USR1; do kill -$one -1; sleep 0.1; done")["code"] == 0
how = %r
if how == "stop":
    answer(engine.stop(made, 0.5).exit_code)
elif how == "kill":
    engine.kill(made, 9)
    answer(getattr(engine.wait(made, 30.0), "exit_code", None))
elif how == "remove":
    engine.remove(made)
    answer(137)
else:
    os.kill(os.getpid(), 9)
"""
    child = driver.start(script % (FORKS, root, how, how))
    out, err = child.communicate(timeout=LIMIT)
    if how == "owner":
        assert child.returncode == -signal.SIGKILL, err.decode()
    else:
        assert child.returncode == 0, err.decode()
        assert json.loads(out.decode().splitlines()[-1]) != 0
    assert [one for one in driver.run(AFTER) if one[1] == "running"] == []
    assert driver.run(CLEAR) == []
    assert nothing_left(driver) == []


@pytest.mark.parametrize("victim", ("monitor", "init", "starter"))
def test_a_container_that_loses_a_part_is_failed_and_gone(driver: Driver, victim: str) -> None:
    root = str(driver.own(linked_usr(driver.images / "usr")))
    script = """
import signal
from gha_apptainer.node.engine.records import Records
main = ExecRequest(argv=("/usr/bin/sleep", "600"), env=PATH)
made = engine.create(spec(%r, main=main, mounts=USR))
engine.start(made)
monitor = int(open(os.path.join(os.environ["GHA_APPTAINER_STATE"], "containers", made, "monitor")).read().split()[0])
init = engine.get(made).pid
starter = [one for one in process.children(monitor) if b"sleep" not in open("/proc/%%d/cmdline" %% one, "rb").read()][0]
os.kill({"monitor": monitor, "init": init, "starter": starter}[%r], signal.SIGKILL)
ended = engine.wait(made, 30.0)
again = engine.get(made)
answer([ended.exit_code, ended.reason, again.state, again.status.exit_code if again.status else None])
"""
    code, reason, state, recorded = driver.run(script % (root, victim))
    assert code != 0 and recorded != 0 and state == "exited", (code, reason, state, recorded)
    assert driver.run(CLEAR) == []
    assert nothing_left(driver) == []
