"""A repository whose client is stopped or killed, played by squashfuse: it fails by name, in bounded time, and holds nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gha_apptainer.domain.hosts import HostFacts

SRC = Path(__file__).parents[2] / "src"
LIMIT = 120

_PLAY = r"""
import ctypes, json, os, signal, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node.volumes.cvmfs import read_repositories
squashfuse, image, root, alias = sys.argv[2:]
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
if libc.unshare(0x10000000 | 0x20000):
    raise SystemExit("unshare: " + os.strerror(ctypes.get_errno()))
for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % uid), ("gid_map", "0 %d 1" % gid)):
    with open("/proc/self/" + name, "w") as handle:
        handle.write(text)
mount = os.path.join(root, "sft.cern.ch")
os.makedirs(mount, exist_ok=True)
client = subprocess.Popen([squashfuse, "-f", image, mount])
said = {}
def ask(word, aliases={}):
    try:
        said[word] = [one.how for one in read_repositories(["sft.cern.ch"], aliases, {"PATH": "/nope"}, root=root, limit=2.0)]
    except GhaError as error:
        said[word] = [type(error).__name__, error.what, error.remedy]
try:
    deadline = time.monotonic() + 30
    while not os.listdir(mount) and time.monotonic() < deadline:
        time.sleep(0.05)
    ask("alive")
    client.send_signal(signal.SIGSTOP)
    ask("stopped")
    ask("stopped with alias", {"sft.cern.ch": alias})
    client.send_signal(signal.SIGCONT)
    ask("continued")
    client.kill()
    client.wait()
    ask("killed")
finally:
    client.kill()
    client.wait()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    from gha_apptainer.node import host as prober

    top = tmp_path_factory.mktemp("cvmfs")
    environ = {"GHA_APPTAINER_STATE": str(_private(top / "state")), **_where()}
    facts: HostFacts = prober.probe(prober.load_settings({}), environ)
    if facts.fuse_reason or not facts.squashfuse:
        pytest.skip("no FUSE here: %s" % (facts.fuse_reason or "no squashfuse"))
    tree = top / "tree" / "lcg" / "views"
    tree.mkdir(parents=True)
    image = top / "image.squashfs"
    make = [facts.mksquashfs, str(top / "tree"), str(image), "-quiet", "-no-progress"]
    subprocess.run(make, check=True, capture_output=True, timeout=LIMIT)
    (top / "root").mkdir()
    argv = [sys.executable, "-I", "-S", "-c", _PLAY, str(SRC), facts.squashfuse, str(image), str(top / "root"), str(top / "tree")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def _where() -> dict[str, str]:
    return {name: os.environ[name] for name in ("GHA_APPTAINER", "HOME", "XDG_CACHE_HOME", "PATH") if name in os.environ}


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def test_while_its_client_lives_it_answers(said: dict[str, list[str]]) -> None:
    assert said["alive"] == said["continued"] == ["mounted"]


@pytest.mark.case("action-10")
def test_a_stopped_client_is_told_by_name_and_in_time(said: dict[str, list[str]]) -> None:
    kind, what, remedy = said["stopped"]
    assert kind == "TimedOut"
    assert "sft.cern.ch hangs" in what
    assert "cvmfs_config probe sft.cern.ch" in remedy


def test_the_sites_alias_stands_in_for_a_client_that_hangs(said: dict[str, list[str]]) -> None:
    assert said["stopped with alias"] == ["alias"]


@pytest.mark.case("action-10")
def test_a_killed_client_is_told_by_name(said: dict[str, list[str]]) -> None:
    kind, what, remedy = said["killed"]
    assert kind == "HostUnfit"
    assert "sft.cern.ch cannot be read" in what
    assert "github-action-cvmfs" in remedy
