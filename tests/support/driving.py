"""Drive the engine in a process of its own, as the user who runs the tests or, where that is root, as an ordinary user too.

An ordinary user may see nothing below a folder of root's that is closed: there the parts that we need are shown to him by mounts that
only his processes see.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SRC = Path(__file__).parents[2] / "src"
NOBODY = 65534
LIMIT = 120.0

_LAUNCH = r"""
import ctypes, os, sys
uid, shown, argv = int(sys.argv[1]), sys.argv[2].split(":"), sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def closed(path):
    parts = os.path.realpath(path).split("/")
    for length in range(2, len(parts) + 1):
        above = "/".join(parts[:length])
        if not os.stat(above).st_mode & 1:
            return above
    return ""
if uid and os.getuid() == 0:
    check(libc.unshare(0x20000))
    check(libc.mount(None, b"/", None, 0x4000 | (1 << 18), None))
    wanted = [(os.path.realpath(path), closed(path)) for path in shown if path and closed(path)]
    held = [(path, os.open(path, os.O_PATH)) for path, _ in wanted]
    if os.path.exists(os.environ.get("TEST_FUSE", "")):
        check(libc.mount(os.environ["TEST_FUSE"].encode(), b"/dev/fuse", None, 4096, None))
    for above in sorted(set(above for _, above in wanted)):
        check(libc.mount(b"tmpfs", above.encode(), b"tmpfs", 0, b"mode=755"))
    for path, handle in held:
        os.makedirs(path, exist_ok=True)
        check(libc.mount(b"/proc/self/fd/%d" % handle, path.encode(), None, 4096 | 16384, None))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
os.execv(argv[0], argv)
"""

PRELUDE = r"""
import json, os, sys, tempfile, time
sys.path.insert(0, SRC)
from gha_apptainer.domain.containers import *
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.images import SANDBOX, Digest, Image, OciConfig
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import host as hosts, process
from gha_apptainer.node.engine.containers import open_engine
settings = hosts.load_settings(os.environ)
facts = hosts.probe(settings, os.environ)
engine = open_engine(facts, settings)
USR = (Mount(source="/usr", target="/usr", read_only=True),)
PATH = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)

def spec(root, main=None, pid=0, **more):
    image = Image(reference=root, digest=Digest(), config=OciConfig(), rootfs=root, form=SANDBOX, route="path")
    owner = Owner(host=facts.hostname, boot_id=facts.boot_id, scope="cli", pid=pid, started=process.start_time(pid) if pid else 0)
    return ContainerSpec(image=image, owner=owner, main=main, **more)

def held(root, **more):
    made = engine.create(spec(root, **more))
    engine.start(made)
    return made

def run(container, *argv, env=PATH, cwd="/", user="", input=b""):
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source.write(input)
        source.seek(0)
        request = ExecRequest(argv=argv, env=env, cwd=cwd, user=user)
        ended = engine.exec(container, request, Stdio(source.fileno(), out.fileno(), err.fileno()))
        out.seek(0)
        err.seek(0)
        return {"code": ended.exit_code, "out": out.read().decode("latin-1"), "err": err.read().decode("latin-1"), "reason": ended.reason}

def answer(value):
    print(json.dumps(value))
""".replace("SRC", repr(str(SRC)))
"""What every script starts with: the engine of this user, and short words for it."""


class Driver:
    """One user, one state directory. `run` gives what the script hands to `answer`; `start` gives the process."""

    def __init__(self, uid: int, folder: Path, apptainer: str) -> None:
        self.uid = uid
        self.folder = folder
        self.state = folder / "state"
        self.images = folder / "images"
        for path in (folder, self.state, self.images):
            path.mkdir(exist_ok=True)
            path.chmod(0o700)
            os.chown(path, uid, uid if uid != os.getuid() else -1)
        self.fuse = folder / "fuse"
        if uid != os.getuid() and os.path.exists("/dev/fuse"):  # a machine on which everybody may use FUSE, for this user's processes alone
            os.mknod(self.fuse, stat.S_IFCHR | 0o666, os.makedev(10, 229))
            self.fuse.chmod(0o666)
        self.apptainer = apptainer
        self.shown: list[str] = []
        self.python = "/usr/bin/python3" if uid != os.getuid() and os.path.exists("/usr/bin/python3") else sys.executable

    @property
    def single(self) -> bool:
        """Whether this user's containers know one id only."""
        return self.uid != 0

    def argv(self, *words: str) -> list[str]:
        """Words that run our interpreter as this user."""
        shown = ":".join([os.path.dirname(os.path.dirname(self.apptainer)), str(SRC), *self.shown])
        return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(self.uid), shown, self.python, "-I", "-S", *words]

    def show(self, path: str) -> str:
        """Let this user's processes see a directory that lies below a closed one; gives it back."""
        self.shown.append(path)
        return path

    def environ(self, **more: str) -> dict[str, str]:
        """The environment of our commands."""
        found = {
            "TEST_FUSE": str(self.fuse),
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "GHA_APPTAINER": self.apptainer,
            "GHA_APPTAINER_STATE": str(self.state),
        }
        return {**found, **more}

    def start(self, script: str, **more: Any) -> subprocess.Popen[bytes]:
        """The script in a process of its own; it is the process itself, not a parent of it."""
        text = PRELUDE + script
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen(self.argv("-c", text), env=self.environ(**more.pop("environ", {})), cwd="/", **more)

    def run(self, script: str, **more: Any) -> Any:
        """The script's answer; an AssertionError with what it wrote if it fails or takes too long."""
        child = self.start(script, **more)
        try:
            out, err = child.communicate(timeout=LIMIT)
        except BaseException:
            child.kill()
            child.communicate()
            raise
        assert child.returncode == 0, err.decode("utf-8", "replace")
        lines = out.decode().splitlines()
        return json.loads(lines[-1]) if lines else None

    def own(self, tree: Path) -> Path:
        """Give a tree to this user."""
        if self.uid != os.getuid():
            for top, folders, names in os.walk(tree):
                for name in [".", *folders, *names]:
                    os.chown(os.path.join(top, name), self.uid, self.uid, follow_symlinks=False)
        return tree

    def processes(self) -> list[int]:
        """Processes that carry our state directory in their environment or command line, or run a program of a container of ours."""
        found = []
        mark = os.fsencode(str(self.folder))
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                try:
                    text = Path("/proc", name, "environ").read_bytes() + Path("/proc", name, "cmdline").read_bytes()
                    if mark in text or mark in Path("/proc", name, "mountinfo").read_bytes():
                        found.append(int(name))
                except OSError:
                    continue
        return found

    def close(self) -> None:
        """Remove every container and say whether anything is left."""
        left = self.run("for one in engine.list():\n    engine.remove(one.id)\nengine.reap()\nanswer([one.id for one in engine.list()])")
        assert left == []
        for _ in range(100):
            running = self.processes()
            if not running:
                break
            signal.sigtimedwait([signal.SIGUSR2], 0.05)
        names = [Path("/proc", str(pid), "cmdline").read_bytes() for pid in running if os.path.exists("/proc/%d" % pid)]
        for pid in running:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        assert not names, "left running: %r" % names
        assert str(self.folder) not in Path("/proc/self/mountinfo").read_text()


def linked_usr(folder: Path) -> Path:
    """A root filesystem without files of its own, for the host's /usr to be bound into."""
    for name in ("usr", "dev", "proc", "sys", "tmp", "etc", "root", "var/tmp", "run", "opt", "mnt"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        if os.path.isdir("/usr/" + name):
            (folder / name).symlink_to("usr/" + name)
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nworker:x:1234:1234::/opt:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nworker:x:1234:\n")
    for name in ("hosts", "resolv.conf", "nsswitch.conf"):
        (folder / "etc" / name).touch()
    return folder


def _apptainer() -> str:
    found = os.environ.get("GHA_APPTAINER") or shutil.which("apptainer") or ""
    if not found:
        for path in sorted(Path.home().glob(".cache/gha-apptainer/apptainer-*/bin/apptainer")):
            found = str(path)
    if not found:
        pytest.skip("no Apptainer on this machine: scripts/setup installs one")
    return os.path.realpath(found) if os.path.islink(found) else found


USERS = ("ordinary", "root") if os.getuid() == 0 else ("ordinary",)


@pytest.fixture(params=USERS)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """A driver for each kind of user that can be had here; afterwards nothing of his is left."""
    if request.param == "root":
        uid = 0
    else:
        uid = NOBODY if os.getuid() == 0 else os.getuid()
    apptainer = _apptainer()
    with tempfile.TemporaryDirectory(prefix="gha-", dir="/tmp") as name:
        os.chmod(name, stat.S_IRWXU | 0o011)
        made = Driver(uid, Path(name) / "d", apptainer)
        try:
            yield made
        finally:
            made.close()
