"""Build images in processes of their own, as root and as an ordinary user, from files that a test writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driving import SRC, Driver

LIMIT = 120.0
MAIN = "import sys\nsys.path.insert(0, %r)\nfrom gha_apptainer.node.main import main\nsys.exit(main())" % str(SRC)


class Builder:
    """One user with a context directory and base images by name."""

    def __init__(self, driver: Driver, bases: dict[str, str]) -> None:
        self.driver = driver
        self.context = driver.folder / "context"
        self.context.mkdir()
        self.settings: dict[str, Any] = {"version": 1, "aliases": dict(bases), "cvmfs_images": []}
        self.store = driver.state / "store"

    def write(self, dockerfile: str, **files: str | bytes) -> None:
        """The Dockerfile and files of the context; `__` in a name is a slash, `_dot_` a dot."""
        self.file("Dockerfile", dockerfile)
        for name, content in files.items():
            self.file(name.replace("__", "/").replace("_dot_", "."), content)

    def file(self, name: str, content: str | bytes) -> Path:
        """One file of the context."""
        path = self.context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def argv(self, *words: str) -> list[str]:
        """Our command as this user."""
        return self.driver.argv("-c", MAIN, *words)

    def environ(self) -> dict[str, str]:
        """Its environment."""
        settings = self.driver.folder / "settings.json"
        settings.write_text(json.dumps(self.settings))
        self.driver.own(self.context)
        settings.chmod(0o644)
        return self.driver.environ(GHA_APPTAINER_SETTINGS=str(settings), no_proxy="127.0.0.1", SECRET_WORD="from-a-variable")

    def start(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """A command in a process of its own, which is the process itself."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen(self.argv(*words), env=self.environ(), cwd=str(self.driver.folder), **pipes)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, whatever that is."""
        child = self.start(*words)
        try:
            out, err = child.communicate(timeout=LIMIT)
        except BaseException:
            child.kill()
            child.communicate()
            raise
        return subprocess.CompletedProcess(words, child.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def build(self, *words: str, tag: str = "made") -> dict[str, Any]:
        """What `build --json` says; an AssertionError with its talk if it fails."""
        done = self.call("build", "--json", "-t", tag, *words, str(self.context))
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return {**found, "talk": done.stderr}

    def fails(self, *words: str, code: int) -> str:
        """What a build says that must fail with an exit code."""
        done = self.call("build", "-q", *words, str(self.context))
        assert done.returncode == code, (done.returncode, done.stderr)
        assert not done.stdout
        assert self.left() == []
        return done.stderr

    def run(self, *words: str, tag: str = "made") -> str:
        """What a command in the image prints."""
        done = self.call("run", "--rm", tag, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sh(self, line: str, tag: str = "made") -> str:
        """What a shell line in the image prints."""
        done = self.call("run", "--rm", "--entrypoint", "/bin/sh", tag, "-c", line)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def left(self) -> list[str]:
        """What lies in the work directory, the trash and the leases of the store: nothing, if nobody works."""
        found = [path for part in ("work", "trash", "leases") if (self.store / part).is_dir() for path in (self.store / part).iterdir()]
        return [str(path) for path in found]


def cached(found: dict[str, Any]) -> list[bool]:
    """For each step whether it came from the cache."""
    return [step["cached"] for step in found["steps"]]


@pytest.fixture
def builder(driver: Driver, busybox_rootfs: str) -> Builder:
    """A builder with a busybox that belongs to its user."""
    own = driver.images / "busybox"
    shutil.copytree(busybox_rootfs, own, symlinks=True)
    driver.own(own)
    return Builder(driver, {"busybox": str(own)})


@pytest.fixture
def front(builder: Builder) -> Iterator[str]:
    """The address of a small web server that serves the folder `www` of the builder."""
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads it."""

    folder = builder.driver.folder / "www"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "http://127.0.0.1:%d" % server.server_port
        server.shutdown()
        thread.join(10)


def newest(path: Path) -> float:
    """A file's time, for what must not count."""
    return os.stat(path).st_mtime
