"""The hooks' door, its start-up, the flat record, the response file and the shims."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gha_apptainer.domain.errors import GhaError, Untrusted
from gha_apptainer.node.engine.join import DEFAULT_PATH
from gha_apptainer.node.hooks import cancelling, door, flat, shims, step
from gha_apptainer.node.hooks.answering import write_response
from gha_apptainer.node.hooks.check import may_change, small_image
from gha_apptainer.node.hooks.install import install

SRC = Path(__file__).parents[3] / "src"
ALLOWED = {"os", "sys", "ctypes", "fcntl", "resource", "select", "signal", "socket", "time", "gha_apptainer", "json", "future"}
SHOW = (
    "import sys; sys.path.insert(0, sys.argv[1]); import os; before = set(sys.modules);"
    'from gha_apptainer.node.hooks import door, step; door.parse(b\'{"a": [1, "x"]}\');'
    "print(' '.join(sorted({name.split('.')[0].strip('_') for name in set(sys.modules) - before})));"
    "print(*sorted(name for name in sys.modules if name.startswith('gha_apptainer.')))"
)
OURS = {
    "gha_apptainer.domain", "gha_apptainer.domain.hook_arguments", "gha_apptainer.node", "gha_apptainer.node.engine",
    "gha_apptainer.node.engine.enter", "gha_apptainer.node.engine.flat", "gha_apptainer.node.engine.foreign",
    "gha_apptainer.node.engine.join",
    "gha_apptainer.node.engine.kernel", "gha_apptainer.node.engine.programs", "gha_apptainer.node.hooks",
    "gha_apptainer.node.hooks.cancelling", "gha_apptainer.node.hooks.door", "gha_apptainer.node.hooks.flat",
    "gha_apptainer.node.hooks.step", "gha_apptainer.node.hooks.telling", "gha_apptainer.node.interpreter",
}  # fmt: skip


def test_a_step_loads_what_the_joiner_loads() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", SHOW, str(SRC)], capture_output=True, timeout=60, check=True)
    foreign, ours = done.stdout.decode().splitlines()
    assert set(foreign.split()) - ALLOWED == set()
    assert set(ours.split()) == OURS


def test_the_request_is_json_and_nothing_else() -> None:
    for text in ('{"a": "\\u00e9\\n", "b": [1, 2.5, null, true], "c": {"d": {}}}', ' \n{"x": 1}\n', '{"x": "\\ud83d\\ude00"}'):
        assert door.parse(text.encode()) == json.loads(text)
    for wrong in (b"", b"[]", b"{", b'{"a": 1} x', b"\xff", b'{"a": NaN}', b'{"a": 1,}', b"null", b"{'a': 1}", b"[" * 100_000):
        with pytest.raises(door.BadCall) as caught:
            door.parse(wrong)
        assert "JSON" in str(caught.value) or "UTF-8" in str(caught.value) or "deep" in str(caught.value)


def test_arguments_of_a_shim() -> None:
    call = door.arguments(["--tie", "7", "--owner", "42", "--policy", "/p.json"])
    assert (call.tie, call.owner, call.policy) == (7, 42, "/p.json")
    for wrong in (["--other"], ["--owner"], ["--owner", "x"], ["x"]):
        with pytest.raises(door.BadCall):
            door.arguments(wrong)


def test_the_flat_record(tmp_path: Path) -> None:
    job = flat.FlatJob("c" * 64, "image", "a\nb", "problem\nmore", "0,2", "7=100", "/work", "1:2,3:4", "0")
    path = tmp_path / "step"
    path.write_bytes(flat.encode(job))
    path.chmod(0o600)
    found = flat.read(str(path))
    assert flat.encode(found) == flat.encode(job)
    for data, mode in (
        (b"other\0" + flat.encode(job), 0o600),
        (flat.encode(job)[:-5].rpartition(b"\0")[0], 0o600),
        (flat.encode(job), 0o644),
    ):
        path.write_bytes(data)
        path.chmod(mode)
        with pytest.raises(ValueError, match=r"private|version"):
            flat.read(str(path))


@pytest.mark.case("hooks-32")
def test_a_steps_environment() -> None:
    one = step.Step({"entryPoint": "sh", "prependPath": ["/b", "/a"], "environmentVariables": {"A": "step", "N": None}})
    found = dict(step.environment((("PATH", "/image"), ("A", "image"), ("B", "2"), ("CI", "no")), one))
    assert found == {"PATH": "/b:/a:/image", "A": "step", "B": "2", "CI": "no", "N": "", "GITHUB_ACTIONS": "true"}
    bare = dict(step.environment((), step.Step({"entryPoint": "sh", "prependPath": "/x"})))
    assert bare == {"PATH": "/x:" + DEFAULT_PATH, "CI": "true", "GITHUB_ACTIONS": "true"}


@pytest.mark.parametrize("raw", [None, {}, {"entryPoint": 1}, {"entryPoint": "a\0"}, {"entryPoint": "sh", "entryPointArgs": [1]}])
def test_steps_that_cannot_be_read(raw: object) -> None:
    with pytest.raises(step.Unusable):
        step.Step(raw)


@pytest.mark.case("hooks-3", "hooks-attack-5")
def test_a_response(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("something longer than the answer")
    write_response(str(path), {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "second").hardlink_to(path) if hasattr(path, "hardlink_to") else os.link(path, tmp_path / "second")
    (tmp_path / "dir").mkdir()
    (tmp_path / "to").symlink_to(tmp_path / "dir")
    for wrong in ("link", "second", "dir", "to/r.json", "none/r.json"):
        with pytest.raises(Untrusted):
            write_response(str(tmp_path / wrong), {})
    with pytest.raises(GhaError):
        write_response("", {})


def test_what_the_shims_say(tmp_path: Path) -> None:
    settings = shims.Settings("/opt/py thon/bin/python3", "/opt/it's/src", "/etc/p.json", {"GHA_APPTAINER": "/opt/a b"})
    text = shims.shell(settings)
    line = shlex.split(text.rpartition("\nexec ")[2])
    assert line[:4] == ["/opt/py thon/bin/python3", "-I", "-S", "-c"]
    assert line[5:] == ["--policy", "/etc/p.json", "--owner", "$PPID"]
    assert "export GHA_APPTAINER='/opt/a b'" in text
    compile(line[4], "shim", "exec")
    script = shims.javascript(settings)
    assert json.dumps(settings.python) in script
    assert "%" not in script.replace("%s", "")
    file = tmp_path / "shim.sh"
    file.write_text(text)
    assert subprocess.run(["/bin/bash", "-n", str(file)], timeout=60, check=False).returncode == 0


def test_installing(tmp_path: Path) -> None:
    done = install(str(tmp_path / "hooks"), "", {"GHA_APPTAINER_STATE": "/state", "HOME": "/h"}, "/opt/apptainer")
    assert done.environment[0] == "ACTIONS_RUNNER_CONTAINER_HOOKS=%s/hooks/gha-apptainer-hooks.js" % tmp_path
    text = (tmp_path / "hooks/gha-apptainer-hooks.sh").read_text()
    assert "export GHA_APPTAINER_STATE=/state" in text
    assert "export GHA_APPTAINER=/opt/apptainer" in text
    for directory, policy in ((str(tmp_path / "with space"), ""), (str(tmp_path / "hooks"), str(tmp_path / "none.json"))):
        with pytest.raises(GhaError):
            install(directory, policy, {}, "")


def test_who_may_change_what(tmp_path: Path) -> None:
    assert may_change(str(tmp_path))
    assert may_change(str(tmp_path / "not/there"))
    if os.geteuid():
        assert not may_change("/usr/bin/env")


def test_a_small_image_is_this_machines_shell(tmp_path: Path) -> None:
    tree = Path(small_image(str(tmp_path / "image")))
    assert (tree / "bin/sh").stat().st_mode & 0o111
    assert (tree / "proc").is_dir()


def test_a_tree_of_processes() -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & sleep 60"], start_new_session=True)
    try:
        for _ in range(200):
            found = cancelling.tree(child.pid)
            if len(found) == 3:
                break
            time.sleep(0.02)
        assert len(found) == 3
        assert child.pid in found
        cancelling.send(found, 9)
    finally:
        child.kill()
        child.wait()
    assert cancelling.started(child.pid) == 0


def test_a_signal_while_the_command_starts_is_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run already while its pid is on the way; a signal that broke off our waiting would leave its children behind."""
    monkeypatch.setattr(cancelling, "GRACE", 0.3)
    watch = cancelling.Watch()
    before = [(one, signal.signal(one, signal.SIG_DFL)) for one in (*cancelling.SIGNALS, signal.SIGALRM)]
    child = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & wait"], start_new_session=True)
    try:
        watch.listen()
        watch.starting()
        os.kill(os.getpid(), signal.SIGINT)
        assert watch.number == signal.SIGINT
        watch.command(child.pid)
        assert watch.finish(child.wait(30)) == 130
        assert cancelling.tree(child.pid) == {}
        early = cancelling.Watch()
        early.listen()
        with pytest.raises(cancelling.Cancelled):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)
        child.kill()
        child.wait()


def test_a_root_whose_server_has_ended_makes_success_worthless() -> None:
    child = subprocess.Popen(["/bin/sleep", "60"])
    try:
        text = "%d:%d" % (child.pid, cancelling.started(child.pid))
        own = "%d:%d" % (os.getpid(), cancelling.started(os.getpid()))
        assert not step.root_lost("")
        assert not step.root_lost(own + "," + text)
    finally:
        child.kill()
        child.wait()
    assert step.root_lost(own + "," + text)
    assert step.root_lost("%d:1" % os.getpid())
