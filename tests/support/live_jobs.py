"""A job whose hooks are called one by one by the test: for what a runner would never send, and for what happens between two calls."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hook_jobs import BUSYBOX, LIMIT, HookRunner

from gha_apptainer.testing.runner.hooks import PIPES_S
from gha_apptainer.testing.runner.places import Places, volume

Plain = dict[str, Any]


class Called:
    """One finished call."""

    def __init__(self, code: int, out: bytes, err: bytes, response: str) -> None:
        self.code, self.out, self.err, self.response = code, out, err, response

    @property
    def text(self) -> str:
        """All that it wrote."""
        return (self.out + self.err).decode("utf-8", "replace")

    @property
    def answer(self) -> Plain:
        """Its response."""
        return dict(json.loads(self.response))

    def __repr__(self) -> str:
        return "exit code %d\n%s" % (self.code, self.text)


class LiveJob:
    """One job; `with` cleans it up. Requests are built as the runner builds them, and can be changed before they are sent."""

    def __init__(
        self,
        hooks: HookRunner,
        container: Mapping[str, object] | None = None,
        *,
        services: tuple[Mapping[str, object], ...] = (),
        kind: str = "sh",
        policy: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        work: Path | None = None,
    ) -> None:
        self.hooks, self.kind, self.policy = hooks, kind, policy
        self.places = Places(work or hooks.work, hooks.externals, "OWNER/r")
        self.places.make()
        (self.places.temp / "_runner_hook_responses").mkdir(exist_ok=True)
        hooks.driver.own(self.places.work)
        self.state: object = None
        self.container = container
        self.services = services
        self.environ = {
            "RUNNER_TRACKING_ID": "github_%s" % uuid.uuid4(),
            "RUNNER_NAME": "runner",
            "RUNNER_TEMP": str(self.places.temp),
            "GITHUB_RUN_ID": "1",
            "GITHUB_JOB": "job",
            "GITHUB_WORKSPACE": str(self.places.workspace),
            **(environ or {}),
        }

    def __enter__(self) -> LiveJob:
        return self

    def __exit__(self, *_: object) -> None:
        done = self.cleanup()
        assert done.code == 0, done

    def wish(self, more: Mapping[str, object], *, job: bool) -> Plain:
        """A container object as it goes over the wire; `volumes` as a workflow writes them."""
        given = dict(more)
        volumes = given.pop("volumes", ())
        assert isinstance(volumes, (list, tuple))
        return {
            "image": BUSYBOX,
            "dockerfile": None,
            "entryPointArgs": [],
            "entryPoint": None,
            "workingDirectory": "/__w/r/r" if job else None,
            "createOptions": None,
            "registry": None,
            "environmentVariables": {"HOME": "/github/home"} if job else {},
            "portMappings": [],
            "systemMountVolumes": self.places.job_mounts() if job else [],
            "userMountVolumes": [volume(str(one)) for one in volumes],
            **given,
        }

    def start(self, command: str, args: object, state: object = ..., **environ: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a call; gives the hook's process and its response file."""
        response = self.places.temp / "_runner_hook_responses" / ("%s.json" % uuid.uuid4())
        response.touch()
        if self.hooks.driver.uid != os.getuid():
            os.chown(response, self.hooks.driver.uid, self.hooks.driver.uid)
        request = {"command": command, "responseFile": str(response), "args": args, "state": self.state if state is ... else state}
        return self.send(json.dumps(request).encode() + b"\n", **environ), response

    def send(self, data: bytes, **environ: str) -> subprocess.Popen[bytes]:
        """Start the hook with these bytes on its stdin."""
        hook = self.hooks.hook(self.kind, self.policy)
        argv = ["/bin/bash", "-e", str(hook)] if self.kind == "sh" else [str(self.hooks.externals / "node20/bin/node"), str(hook)]
        env = {**self.hooks.driver.environ(), "GITHUB_ACTIONS": "true", "CI": "true", **self.environ, **environ}
        child = subprocess.Popen(
            [*self.hooks.driver.argv()[:-3], *argv], env=env, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdin is not None
        try:
            child.stdin.write(data)
            child.stdin.close()
        except BrokenPipeError:
            pass
        child.stdin = None
        return child

    def finish(self, started: tuple[subprocess.Popen[bytes], Path]) -> Called:
        """The end of a started call."""
        child, response = started
        out, err = _output(child)
        text = response.read_text() if response.is_file() and not response.is_symlink() else ""
        return Called(child.returncode, out, err, text)

    def call(self, command: str, args: object, state: object = ..., **environ: str) -> Called:
        """One call to its end."""
        return self.finish(self.start(command, args, state, **environ))

    def prepare(self, **more: object) -> Called:
        """prepare_job; the state is kept."""
        args = {
            "container": None if self.container is None else self.wish(self.container, job=True),
            "services": [self.wish(one, job=False) for one in self.services],
            **more,
        }
        done = self.call("prepare_job", args)
        if done.code == 0:
            self.state = done.answer["state"]
        return done

    def prepared(self) -> LiveJob:
        """Itself, after a prepare_job that must succeed."""
        done = self.prepare()
        assert done.code == 0, done
        return self

    def script_args(self, text: str, *, program: str = "sh", args: tuple[str, ...] = ("-e", "{0}"), **more: object) -> Plain:
        """The arguments of a run_script_step for a script."""
        script = self.places.temp / ("%s.sh" % uuid.uuid4())
        script.write_text(text + "\n")
        if self.hooks.driver.uid != os.getuid():
            os.chown(script, self.hooks.driver.uid, self.hooks.driver.uid)
        return {
            "entryPointArgs": [one.format(self.places.in_job(str(script))) for one in args],
            "entryPoint": program,
            "environmentVariables": {"GITHUB_WORKSPACE": "/__w/r/r"},
            "prependPath": [],
            "workingDirectory": "/__w/r/r",
            **more,
        }

    def script(self, text: str, state: object = ..., **more: Any) -> Called:
        """run_script_step."""
        return self.call("run_script_step", self.script_args(text, **more), state)

    def step_args(self, *args: str, **more: object) -> Plain:
        """The arguments of a run_container_step."""
        return {
            **self.wish({}, job=False),
            "entryPointArgs": list(args),
            "workingDirectory": "/github/workspace",
            "systemMountVolumes": self.places.step_mounts(),
            **more,
        }

    def step(self, *args: str, state: object = ..., **more: object) -> Called:
        """run_container_step."""
        return self.call("run_container_step", self.step_args(*args, **more), state)

    def cleanup(self, state: object = ...) -> Called:
        """cleanup_job."""
        return self.call("cleanup_job", {}, state)


def _output(child: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What a hook wrote, by the runner's rule: pipes that others keep open are waited for 5 s after its end."""
    began, ended = time.monotonic(), 0.0
    while True:
        try:
            return child.communicate(timeout=0.5)
        except subprocess.TimeoutExpired as late:
            now = time.monotonic()
            if child.poll() is not None:
                ended = ended or now
                if now - ended > PIPES_S:
                    for stream in (child.stdout, child.stderr):
                        if stream is not None:
                            stream.close()
                    return late.stdout or b"", late.stderr or b""
            elif now - began > LIMIT:
                child.kill()
                child.wait()
                raise
