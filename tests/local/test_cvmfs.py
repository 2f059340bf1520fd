"""A repository whose client is stopped or killed, played by squashfuse: it fails by name, in bounded time, and holds nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gha_apptainer.domain.hosts import HostFacts

SRC = Path(__file__).parents[2] / "src"
LIMIT = 120

_PLAY = r"""
import ctypes, json, os, signal, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node.volumes.cvmfs import read_repositories
from gha_apptainer.node.volumes.cvmfsexec import Cvmfsexec
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
        tool = Cvmfsexec("/nope", {"PATH": "/nope"})
        said[word] = [one.how for one in read_repositories(["sft.cern.ch"], aliases, tool, root=root, limit=2.0)]
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

_WALK = r"""
import ctypes, json, os, signal, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_refs import parse
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import images
from gha_apptainer.node.actions.container import ContainerStep
from gha_apptainer.node.images import cvmfs_layout
from gha_apptainer.node.report import Report
from gha_apptainer.node.volumes import cvmfs
from gha_apptainer.testing.engine import FakeEngine
squashfuse, image, top = sys.argv[2:]
for function in (cvmfs.look, cvmfs.exists, cvmfs_layout.look_at):
    function.__defaults__ = (2.0,)
cvmfs.read_repositories.__kwdefaults__["limit"] = 2.0
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
uid, gid = os.getuid(), os.getgid()
check(libc.unshare(0x10000000 | 0x20000))
for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % uid), ("gid_map", "0 %d 1" % gid)):
    with open("/proc/self/" + name, "w") as handle:
        handle.write(text)
work = os.path.join(top, "work")
os.makedirs(os.path.join(top, "temp"))
os.makedirs(work)
root = os.path.join(top, "new-root")  # the machine as it is, and a /cvmfs
os.mkdir(root)
check(libc.mount(b"tmpfs", root.encode(), b"tmpfs", 0, None))
for name in os.listdir("/"):
    inside = os.path.join(root, name)
    if name == "cvmfs":
        continue
    if os.path.islink("/" + name):
        os.symlink(os.readlink("/" + name), inside)
    elif os.path.isdir("/" + name):
        os.mkdir(inside)
        check(libc.mount(os.path.join("/", name).encode(), inside.encode(), None, 4096 | 16384, None))
mount = os.path.join(root, "cvmfs", "sft.cern.ch")
os.makedirs(mount)
client = subprocess.Popen([squashfuse, "-f", image, mount])
said = {}
host = HostFacts(
    hostname="n", boot_id="b", machine=os.uname().machine, kernel="6", uid=0, gid=0, state_dir=top + "/state", apptainer="/a", cvmfs=True
)
settings = NodeSettings(routes=("alias", "path"), aliases={"ours": "/cvmfs/sft.cern.ch/lcg"})
def walk(word, **inputs):
    told = []
    environ = {"GITHUB_WORKSPACE": work, "RUNNER_TEMP": top + "/temp", "PATH": "/nope", "GHA_INPUT_RUN": "true", "GHA_INPUT_IMAGE": top}
    environ.update({"GHA_INPUT_" + name.upper(): value for name, value in inputs.items()})
    code = ContainerStep(environ, Report(github=True, write=told.append), engine=FakeEngine(), host=host, settings=settings).run()
    said[word] = [code, b"".join(told).decode()]
def everything(word):
    walk(word + " image", image="/cvmfs/sft.cern.ch/lcg")
    walk(word + " binds", binds="/cvmfs/sft.cern.ch/lcg:/in")
    walk(word + " args", apptainer_args="-B /cvmfs/sft.cern.ch/lcg:/in")
    walk(word + " directory", working_directory="/cvmfs/sft.cern.ch/lcg")
    walk(word + " alias", image="ours")
try:
    deadline = time.monotonic() + 30
    while not os.listdir(mount) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.chroot(root)
    os.chdir("/")
    everything("alive")
    client.send_signal(signal.SIGSTOP)
    everything("stopped")
finally:
    client.kill()
    client.wait()
print(json.dumps(said))
"""


class Stand:
    """A squashfs that plays a repository: who serves it, and the file."""

    def __init__(self, squashfuse: str, tree: Path, image: Path, top: Path) -> None:
        self.squashfuse, self.tree, self.image, self.top = squashfuse, tree, image, top

    def play(self, script: str, *words: str) -> dict[str, list[Any]]:
        """What the script printed."""
        argv = [sys.executable, "-I", "-S", "-c", script, str(SRC), self.squashfuse, str(self.image), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, list[Any]] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
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
    return Stand(facts.squashfuse, top / "tree", image, top)


@pytest.fixture(scope="module")
def said(stand: Stand) -> dict[str, list[str]]:
    (stand.top / "root").mkdir()
    return stand.play(_PLAY, str(stand.top / "root"), str(stand.tree))


@pytest.fixture(scope="module")
def walked(stand: Stand) -> dict[str, list[Any]]:
    (stand.top / "step").mkdir()
    return stand.play(_WALK, str(stand.top / "step"))


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


@pytest.mark.parametrize("way", ["image", "binds", "args", "directory"])
@pytest.mark.case("action-10")
def test_a_step_that_names_a_path_on_a_dead_mount_ends_by_name(walked: dict[str, list[Any]], way: str) -> None:
    assert walked["alive " + way][0] == 0, walked["alive " + way][1]
    code, log = walked["stopped " + way]
    assert code == 125
    assert "CVMFS repository sft.cern.ch hangs" in log


@pytest.mark.case("action-10")
def test_a_sites_alias_on_a_dead_mount_is_no_route(walked: dict[str, list[Any]]) -> None:
    assert walked["alive alias"][0] == 0, walked["alive alias"][1]
    code, log = walked["stopped alias"]
    assert code == 125
    assert "/cvmfs/sft.cern.ch/lcg: CVMFS did not answer within 2 s" in log
