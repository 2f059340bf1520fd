"""Use node.images in processes of their own, as root and as an ordinary user, on a registry of the test."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import NOBODY, SRC, USERS, Driver, _apptainer

LIMIT = 120.0

PRELUDE = r"""
import json, os, socket, sys
sys.path.insert(0, SRC)
from gha_apptainer.domain.documents import plain
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.hosts import HostFacts, IdRange
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import parse
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import images
os.makedirs(STATE, mode=0o700, exist_ok=True)
whole = (IdRange(0, 65536),) if os.getuid() == 0 else (IdRange(os.getuid(), 1),)
said = []
def host(**more):
    facts = dict(hostname=socket.gethostname(), boot_id=open("/proc/sys/kernel/random/boot_id").read().strip(), machine=os.uname().machine,
        kernel=os.uname().release, uid=os.getuid(), gid=os.getgid(), state_dir=STATE, apptainer=APPTAINER, apptainer_version="1.4.5",
        uid_ranges=whole, gid_ranges=whole)
    return HostFacts(**{**facts, **more})
def settings(**more):
    return NodeSettings(**{**dict(registries_http=HTTP, cvmfs_images=()), **more})
def pull(reference, policy="if-not-present", login=None, here=None, there=None):
    plan = images.plan(parse(reference), policy, there or settings(), here or host())
    return images.fetch(plan, Login(login[0], Secret(login[1])) if login else None, said.append)
def answer(value):
    print(json.dumps(plain(value)))
def attempt(call):
    try:
        return call()
    except GhaError as error:
        return {"error": type(error).__name__, "text": " | ".join(error.lines())}
"""


class Puller:
    """One user with a state directory of his own."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.state = driver.state
        self.store = driver.state / "store"
        self._started: list[subprocess.Popen[bytes]] = []
        self.images_top = driver.images
        self.http: tuple[str, ...] = ()

    def start(self, script: str, **more: Any) -> subprocess.Popen[bytes]:
        """The script in a process of its own."""
        values = {"SRC": str(SRC), "STATE": str(self.state), "APPTAINER": self.driver.apptainer, "HTTP": self.http}
        text = "".join("%s = %r\n" % one for one in values.items()) + PRELUDE + script
        environ = {**self.driver.environ(), "no_proxy": "127.0.0.1", **more.pop("environ", {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0, **more}
        child: subprocess.Popen[bytes] = subprocess.Popen(self.driver.argv("-c", text), env=environ, cwd="/", **pipes)
        self._started.append(child)
        return child

    def close(self) -> None:
        """End what a failed test left running."""
        for child in self._started:
            if child.poll() is None:
                child.kill()
                child.communicate()

    def run(self, script: str, **more: Any) -> Any:
        """What the script answers."""
        return self.finish(self.start(script, **more))

    def finish(self, child: subprocess.Popen[bytes]) -> Any:
        """What a started script answers; an AssertionError with what it wrote if it fails."""
        try:
            out, err = child.communicate(timeout=LIMIT)
        except BaseException:
            child.kill()
            child.communicate()
            raise
        assert child.returncode == 0, err.decode("utf-8", "replace")
        return json.loads(out.decode().splitlines()[-1])

    def left(self) -> list[str]:
        """What lies in the work directory, the trash and the leases of the store: nothing, if nobody works."""
        return [str(path) for part in ("work", "trash", "leases") for path in (self.store / part).iterdir() if (self.store / part).is_dir()]


@pytest.fixture(params=USERS)
def puller(request: pytest.FixtureRequest) -> Iterator[Puller]:
    """Each kind of user that can be had here; afterwards no process of his is left."""
    uid = 0 if request.param == "root" else NOBODY if os.getuid() == 0 else os.getuid()
    with tempfile.TemporaryDirectory(prefix="gha-", dir="/tmp") as name:
        os.chmod(name, stat.S_IRWXU | 0o011)
        made = Driver(uid, Path(name) / "d", _apptainer())
        used = Puller(made)
        try:
            yield used
        finally:
            used.close()
        left = [Path("/proc", str(pid), "cmdline").read_bytes() for pid in made.processes()]
        assert not left, "left running: %r" % left
