"""Many at once, killed in the middle, two hosts, no file locks: the store must come out right, and a download must not be done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from pulling import Puller
from registries import Registry, tree

CROWD = 64
WEIGHT = 3 << 20
WAIT = 60.0


def test_64_concurrent_cold_pulls_are_one_download(puller: Puller, local_registry: Registry) -> None:
    puller.http = (local_registry.address,)
    made = local_registry.push("team/crowd", "1", tree(weight=WEIGHT))
    script = "answer(attempt(lambda: pull('%s/team/crowd:1')))" % local_registry.address
    crowd = [puller.start(script) for _ in range(CROWD)]
    answers = [puller.finish(child) for child in crowd]
    assert [one for one in answers if "error" in one] == []
    assert {one["digest"]["text"] for one in answers} == {made.manifest}
    assert local_registry.count(made.layers[0]) == 1
    assert sum(one["route"] == "registry" for one in answers) == 1, "the one that fetched it says so"
    assert local_registry.count("/manifests/") <= 4, "one resolves, and Apptainer asks once more"
    assert puller.left() == []


STOP = """
import time
from gha_apptainer.node.images import pulling, store
def stop(*_):
    print('here', flush=True)
    time.sleep(60)
run = pulling.process.run
def run_and_stop(*words, **more):
    run(*words, **more)
    stop()
"""
STOPS = {
    "unpack": "pulling.process.run = run_and_stop\n",
    "publish": "store.sync_file_system = stop\n",
    "done": "store.Store.remember = stop\n",
}


@pytest.mark.parametrize("stage", ["manifest", "config", "layer", "unpack", "publish", "done"])
def test_killed_pull_leaves_nothing_in_the_way(puller: Puller, local_registry: Registry, stage: str) -> None:
    puller.http = (local_registry.address,)
    made = local_registry.push("team/killed", "1", tree(weight=WEIGHT))
    reached, go_on = threading.Event(), threading.Event()
    marks = {"manifest": "/manifests/1", "config": made.config, "layer": made.layers[0]}

    def hold(path: str, headers: Mapping[str, str]) -> None:
        if stage in marks and marks[stage] in path and not reached.is_set():
            reached.set()
            go_on.wait(WAIT)

    local_registry.answer = hold
    script = "pull('%s/team/killed:1')\nprint('1')" % local_registry.address
    child = puller.start(STOP + STOPS.get(stage, "") + script)
    if stage in marks:
        assert reached.wait(WAIT)
    else:
        assert child.stdout is not None
        assert child.stdout.readline() == b"here\n"
    child.kill()
    child.communicate(timeout=WAIT)
    go_on.set()
    local_registry.answer = lambda _path, _headers: None
    got = puller.run("answer(pull('%s/team/killed:1'))" % local_registry.address)
    assert got["digest"]["text"] == made.manifest
    assert (Path(got["rootfs"]) / "opt/weight").stat().st_size == WEIGHT
    assert puller.left() == []


def test_apptainer_ends_with_the_process_that_started_it(puller: Puller, local_registry: Registry) -> None:
    puller.http = (local_registry.address,)
    made = local_registry.push("team/orphan", "1", tree())
    reached, go_on = threading.Event(), threading.Event()

    def hold(path: str, headers: Mapping[str, str]) -> None:
        if made.layers[0] in path:
            reached.set()
            go_on.wait(WAIT)

    local_registry.answer = hold
    child = puller.start("pull('%s/team/orphan:1')" % local_registry.address)
    assert reached.wait(WAIT)
    running = _below(child.pid)
    assert any(b"apptainer" in Path("/proc", str(pid), "cmdline").read_bytes() for pid in running)
    child.kill()
    child.communicate(timeout=WAIT)
    deadline = time.monotonic() + WAIT
    while any(_runs(pid) for pid in running) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in running if _runs(pid)]
    go_on.set()


def test_interrupted_pull_ends_everything_at_once(puller: Puller, local_registry: Registry) -> None:
    puller.http = (local_registry.address,)
    made = local_registry.push("team/interrupted", "1", tree())
    reached, go_on = threading.Event(), threading.Event()

    def hold(path: str, headers: Mapping[str, str]) -> None:
        if made.layers[0] in path:
            reached.set()
            go_on.wait(WAIT)

    local_registry.answer = hold
    child = puller.start("pull('%s/team/interrupted:1')" % local_registry.address)
    assert reached.wait(WAIT)
    running = _below(child.pid)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=WAIT)
    go_on.set()
    assert b"KeyboardInterrupt" in err
    assert not [pid for pid in running if _runs(pid)]
    assert puller.left() == []


def test_file_system_without_links(puller: Puller, local_registry: Registry) -> None:
    puller.http = (local_registry.address,)
    made = local_registry.push("team/linkless", "1", tree(weight=WEIGHT))
    script = (
        "import errno\ndef link(*a, **k):\n    raise OSError(errno.EPERM, 'no links here')\nos.link = link\n"
        "answer(pull('%s/team/linkless:1'))" % local_registry.address
    )
    crowd = [puller.start(script) for _ in range(4)]
    assert {puller.finish(child)["digest"]["text"] for child in crowd} == {made.manifest}
    assert local_registry.count(made.layers[0]) == 1
    assert puller.left() == []


def _below(pid: int) -> list[int]:
    found = []
    for task in os.listdir("/proc/%d/task" % pid):
        for one in Path("/proc/%d/task/%s/children" % (pid, task)).read_text().split():
            found += [int(one), *_below(int(one))]
    return found


def _runs(pid: int) -> bool:
    try:
        return Path("/proc/%d/stat" % pid).read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


HOLD = r"""
from gha_apptainer.node.images import leases
leases.RENEW = 0.0
got = leases.acquire_or_find(STATE + "/lease", lambda: None, what="it", tell=said.append, expiry=%r)
print("holding", flush=True)
sys.stdin.readline()
got.renew()
print(json.dumps(open(STATE + "/lease").read()), flush=True)
got.release()
answer([os.path.exists(STATE + "/lease"), said])
"""
OTHER_HOST = r"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x04000000 | (0x10000000 if os.getuid() else 0)) == 0, ctypes.get_errno()
assert libc.sethostname(b"other", 5) == 0, ctypes.get_errno()
from gha_apptainer.node.images import holder
holder.alive = lambda pid, started: True  # nothing can be told about processes of another host
"""


@pytest.mark.parametrize("end", [signal.SIGSTOP, signal.SIGKILL])
def test_lease_of_a_silent_holder_on_another_host_is_taken_over(puller: Puller, end: signal.Signals) -> None:
    first = puller.start(HOLD % 60.0, stdin=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"holding\n"
    first.send_signal(end)
    second = puller.start(OTHER_HOST + HOLD % 1.0, stdin=subprocess.PIPE)
    assert second.stdout is not None
    assert second.stdout.readline() == b"holding\n"
    if end == signal.SIGSTOP:
        first.send_signal(signal.SIGCONT)
        assert first.stdin is not None
        first.stdin.write(b"\n")
        first.stdin.flush()
        assert b"other" in first.stdout.readline(), "the renewal of the first must leave the lease of the second alone"
        assert puller.finish(first)[0] is True, "and so must its release"
    else:
        first.communicate(timeout=WAIT)
    assert second.stdin is not None
    second.stdin.write(b"\n")
    second.stdin.flush()
    assert puller.finish(second)[0] is False


def test_two_hosts_that_both_fetch_end_with_one_image(puller: Puller, local_registry: Registry) -> None:
    """Each believes that it holds the lease: the later one finds the image published and drops its copy."""
    puller.http = (local_registry.address,)
    made = local_registry.push("team/twice", "1", tree())
    script = (
        "from gha_apptainer.node.images import fetching, leases\n"
        "fetching.acquire_or_find = lambda path, find, **k: leases.Lease(path, leases.myself())\n"
        "answer(pull('%s/team/twice:1'))" % local_registry.address
    )
    both = [puller.start(script), puller.start(OTHER_HOST + script)]
    assert [puller.finish(child)["digest"]["text"] for child in both] == [made.manifest] * 2
    assert local_registry.count(made.layers[0]) == 2
    assert puller.left() == []
    assert len(list((puller.store / "images").iterdir())) == 1


def test_no_file_lock_is_taken(puller: Puller, local_registry: Registry) -> None:
    puller.http = (local_registry.address,)
    local_registry.push("team/tool", "1", tree())
    got = puller.run(
        "seen = []\nlocks = ('fcntl.flock', 'fcntl.lockf', 'os.lockf')\n"
        "sys.addaudithook(lambda event, args: seen.append(event) if event in locks else None)\n"
        "found = pull('%s/team/tool:1')\nimages.collect(settings(), host())\nanswer([found, seen])" % local_registry.address
    )
    assert got[1] == []
    assert got[0]["route"] == "registry"
