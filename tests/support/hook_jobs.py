"""Jobs played towards the installed hooks, as an ordinary user or as root, each user with a runner of its own for the whole session."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from driving import NOBODY, SRC, USERS, Driver, _apptainer
from machine import leftovers

LIMIT = 120.0
SETTLE = 10.0
_PLAY = "import sys; sys.path.insert(0, %r); from gha_apptainer.testing.runner.__main__ import main; sys.exit(main())" % str(SRC)
BUSYBOX = "busybox:1"
Plain = dict[str, Any]


class Played:
    """A played job's result."""

    def __init__(self, raw: Plain) -> None:
        self.raw = raw
        self.result: str = raw["result"]
        self.context: Plain = raw["context"]

    def step(self, name: str) -> Plain:
        """The last step of that name."""
        return next(one for one in reversed(self.raw["steps"]) if one["name"] == name)

    def text(self, name: str) -> str:
        """A step's log."""
        return "\n".join(self.step(name)["log"])

    def wrote(self, name: str, stream: str = "stdout") -> bytes:
        """What a step's hook wrote, to the byte."""
        return str(self.step(name)["raw"].get(stream, "")).encode("latin-1")

    def outcome(self, name: str) -> str:
        """A step's outcome."""
        return str(self.step(name)["outcome"])

    def errors(self, name: str) -> str:
        """A step's error annotations."""
        return "\n".join(text for kind, text in self.step(name)["annotations"] if kind == "error")

    def warnings(self, name: str) -> str:
        """A step's warnings."""
        return "\n".join(text for kind, text in self.step(name)["annotations"] if kind == "warning")

    def __repr__(self) -> str:
        return "\n".join("== %s: %s\n%s" % (one["name"], one["outcome"], "\n".join(one["log"][:200])) for one in self.raw["steps"])


class HookRunner:
    """One user's runner: hooks installed, a work directory, externals with a node, and images by name."""

    def __init__(self, driver: Driver, busybox: str) -> None:
        self.driver = driver
        self.top = driver.folder / "runner"
        self.work, self.externals, self.hooks = self.top / "_work", self.top / "externals", self.top / "hooks"
        self.images: dict[str, str] = {}
        for path in (self.work, self.hooks):
            path.mkdir(parents=True)
        node = shutil.which("node", path="/usr/local/bin:/usr/bin:/bin")
        for name in ("node20", "node24", "node20_alpine"):
            (self.externals / name / "bin").mkdir(parents=True)
            if node:
                (self.externals / name / "bin" / "node").symlink_to(node)
        self.node = node or ""
        tree = driver.images / "busybox"
        shutil.copytree(busybox, tree, symlinks=True)
        self.images = {BUSYBOX: str(tree)}
        driver.own(driver.images)
        driver.own(self.top)
        self.settings: dict[str, object] = {}
        self._started: list[subprocess.Popen[bytes]] = []
        self._installed: dict[str, Path] = {}

    def add_image(self, name: str, change: Callable[[Path], None], base: str = BUSYBOX) -> str:
        """A further image: a copy of another one, changed."""
        if name not in self.images:
            tree = self.driver.images / name.replace("/", "_").replace(":", "_")
            shutil.copytree(self.images[base], tree, symlinks=True)
            change(tree)
            self.driver.own(tree)
            self.images[name] = str(tree)
            self._installed.clear()
        return name

    def use_image(self, name: str, tree: Path) -> None:
        """A further image that is made already."""
        self.images[name] = str(self.driver.own(tree))
        self._installed.clear()

    def install(self, policy: Mapping[str, object] | None = None) -> Path:
        """Hooks with this policy; gives their directory."""
        key = json.dumps([policy, self.settings], sort_keys=True)
        if key in self._installed:
            return self._installed[key]
        place = self.hooks / ("p%d" % len(list(self.hooks.iterdir())))
        place.mkdir()
        settings, rules = place / "settings.json", place / "policy.json"
        settings.write_text(json.dumps({"version": 1, "cvmfs_images": [], "aliases": self.images, **self.settings}))
        words = [str(SRC), "hooks", "install", str(place), "--json"]
        if policy is not None:
            rules.write_text(json.dumps({"version": 1, **policy}))
            words += ["--policy", str(rules)]
        self.driver.own(place)
        done = subprocess.run(
            self.driver.argv(*words),
            env=self.driver.environ(GHA_APPTAINER_SETTINGS=str(settings)),
            cwd="/",
            capture_output=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stderr.decode()
        self._installed[key] = place
        return place

    def hook(self, kind: str = "sh", policy: Mapping[str, object] | None = None) -> Path:
        """The hook file."""
        return self.install(policy) / ("gha-apptainer-hooks." + kind)

    def start(
        self,
        job: Mapping[str, object],
        *,
        kind: str = "sh",
        policy: Mapping[str, object] | None = None,
        work: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """A runner that plays the job, named on its stderr step by step."""
        if kind == "js" and not self.node:
            pytest.skip("there is no node on this machine")
        path = self.top / ("job-%s.json" % uuid.uuid4())
        path.write_text(json.dumps(job))
        path.chmod(0o644)
        words = ["-c", _PLAY, str(path), "--hook", str(self.hook(kind, policy)), "--progress"]
        words += ["--work", str(work or self.work), "--externals", str(self.externals)]
        child = subprocess.Popen(
            self.driver.argv(*words),
            env={**self.driver.environ(), **(environ or {})},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._started.append(child)
        return child

    def play(self, job: Mapping[str, object], **more: Any) -> Played:
        """Play a job to its end."""
        return self.finish(self.start(job, **more))

    def finish(self, child: subprocess.Popen[bytes]) -> Played:
        """The result of a started runner."""
        try:
            out, err = child.communicate(timeout=LIMIT)
        except BaseException:
            child.kill()
            child.communicate()
            raise
        assert out, err.decode("utf-8", "replace")
        return Played(json.loads(out))

    def call(self, request: object, *, kind: str = "sh", environ: Mapping[str, str] | None = None, text: bytes = b"", **more: Any) -> Any:
        """One call of the hook, without a runner around it: the finished process."""
        data = text or json.dumps(request).encode() + b"\n"
        hook = self.hook(kind, more.pop("policy", None))
        argv = ["/bin/bash", "-e", str(hook)] if kind == "sh" else [str(self.externals / "node20/bin/node"), str(hook)]
        shown = self.driver.argv()
        env = {**self.driver.environ(), "GITHUB_ACTIONS": "true", **(environ or {})}
        return subprocess.run([*shown[:-3], *argv], input=data, env=env, cwd="/", capture_output=True, timeout=LIMIT, **more)

    def response(self) -> Path:
        """A new, empty response file."""
        folder = self.work / "_temp" / "_runner_hook_responses"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("%s.json" % uuid.uuid4())
        path.touch()
        self.driver.own(self.work)
        return path

    def left(self) -> list[str]:
        """What is left of any job: records, volumes, containers, processes, mounts."""
        found = []
        for part in ("jobs", "volumes", "containers", "names"):
            folder = self.driver.state / part
            found += ["%s/%s" % (part, name) for name in (os.listdir(folder) if folder.is_dir() else ())]
        return [*found, *(one for one in leftovers(str(self.driver.state)) if not one.startswith("container record"))]

    def assert_nothing_left(self) -> None:
        """Within seconds nothing may be left."""
        limit = time.monotonic() + SETTLE
        left = self.left()
        while left and time.monotonic() < limit:
            time.sleep(0.1)
            left = self.left()
        assert not left, left

    def clean(self) -> None:
        """A new work directory for the next test."""
        for child in self._started:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
                child.communicate()
        self._started.clear()
        self.settings = {}
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(exist_ok=True)
        self.driver.own(self.work)

    def sweep(self) -> None:
        """What the next hook of this user does first: remove what dead runners left."""
        done = self.call({"command": "cleanup_job", "responseFile": str(self.response()), "args": {}, "state": None})
        assert done.returncode == 0, done


@pytest.fixture(scope="session")
def hook_runners(busybox_rootfs: str) -> Iterator[Callable[[str], HookRunner]]:
    """The runners of this session, by kind of user, each made when first wanted."""
    made: dict[str, HookRunner] = {}
    with tempfile.TemporaryDirectory(prefix="gha-", dir="/tmp") as name:
        os.chmod(name, stat.S_IRWXU | 0o011)

        def give(kind: str) -> HookRunner:
            if kind not in made:
                uid = 0 if kind == "root" else NOBODY if os.getuid() == 0 else os.getuid()
                made[kind] = HookRunner(Driver(uid, Path(name) / kind, _apptainer()), busybox_rootfs)
            return made[kind]

        yield give
        for runner in made.values():
            runner.clean()
            runner.driver.close()


@pytest.fixture
def hooks(hook_runners: Callable[[str], HookRunner]) -> Iterator[HookRunner]:
    """The runner of an ordinary user; nothing of a job may be left afterwards."""
    yield from _used(hook_runners("ordinary"))


@pytest.fixture(params=USERS)
def all_hooks(request: pytest.FixtureRequest, hook_runners: Callable[[str], HookRunner]) -> Iterator[HookRunner]:
    """The runner of each kind of user."""
    yield from _used(hook_runners(request.param))


def _used(runner: HookRunner) -> Iterator[HookRunner]:
    runner.clean()
    try:
        yield runner
    finally:
        runner.clean()
    runner.assert_nothing_left()


def job(*steps: Mapping[str, object] | str, container: object = BUSYBOX, **more: object) -> Plain:
    """A job: each step a dict, or the text of a `run:`; named `1`, `2`, … unless it says otherwise."""
    found = []
    for number, one in enumerate(steps, 1):
        found.append({"name": str(number), **({"run": one} if isinstance(one, str) else one)})
    return {**({"container": container} if container else {}), "steps": found, **more}
