"""One job from its first step to its last, as the runner's worker plays it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gha_apptainer.testing.runner.documents import ContainerWish, DockerAction, Job, JobResult, Step, StepResult
from gha_apptainer.testing.runner.hooks import Caller, Cancel, HookError, call, run_on_host
from gha_apptainer.testing.runner.output import FILE_COMMANDS, Masks, Output, key_values
from gha_apptainer.testing.runner.places import Places, translated, volume

SHELLS = {
    "": ("sh", "-e {0}", ".sh"),
    "sh": ("sh", "-e {0}", ".sh"),
    "bash": ("bash", "--noprofile --norc -e -o pipefail {0}", ".sh"),
    "python": ("python", "{0}", ".py"),
    "pwsh": ("pwsh", "-command \". '{0}'\"", ".ps1"),
}
"""Shell word -> program, arguments, and the script's ending; any other `shell:` is a command line of its own."""


class Worker:
    """Plays one job. `environ` is the environment that the runner itself was started with."""

    def __init__(
        self, job: Job, caller: Caller, environ: Mapping[str, str], *, before: Callable[[str, Worker], None] | None = None
    ) -> None:
        self.job, self.caller = job, caller
        self.places = Places(caller.work, caller.externals, job.repository)
        self.environ = {"RUNNER_TRACKING_ID": "github_%s" % uuid.uuid4(), **environ}
        self.masks = Masks((*job.secrets, *(job.container.credentials.values() if job.container else ())))
        self.state: object = None
        self.cancelled = False
        self.env: dict[str, str] = dict(job.env)
        self.paths: list[str] = []
        self.results: list[StepResult] = []
        self.context: dict[str, Any] = {}
        self.now = Cancel()
        self.deadline_s = 0.0
        self._failed = False
        self._before = before or (lambda _name, _worker: None)
        self._run_id = "%d" % (uuid.uuid4().int % 10**9)
        self._posts: list[Callable[[], None]] = []
        self._states: dict[str, dict[str, str]] = {}
        self._alpine = False

    # the job

    def run(self) -> JobResult:
        """Play it."""
        self.places.make()
        (self.places.temp / "_github_workflow" / "event.json").write_text("{}")
        hooked = self.job.container is not None or any(one.image for one in self.job.services.values())
        if hooked:
            self._internal("Initialize containers", self._prepare)
        steps = [replace(step, id=step.id or "__run_%d" % (at + 1)) for at, step in enumerate(self.job.steps)]
        for step in steps:
            if step.docker is not None and step.docker.pre_entrypoint:
                self._play(replace(step, name="Pre " + step.name), lambda step=step: self._docker(step, "pre"))  # type: ignore[misc]
            if step.node is not None and step.node.pre:
                self._play(replace(step, name="Pre " + step.name), lambda step=step: self._node(step, step.node.pre))  # type: ignore[misc]
        for step in steps:
            self._one(step)
        for post in reversed(self._posts):
            post()
        if hooked:
            self._internal("Stop containers", self._cleanup)
        result = "cancelled" if self.cancelled else "failure" if self._failed else "success"
        return JobResult(result, self.results, self.context)

    def cancel(self) -> None:
        """Cancel the job: the running hook is signalled; later steps run only if they always do."""
        self.cancelled = True
        self.now.asked.set()

    def _one(self, step: Step) -> None:
        if step.run is not None:
            self._play(step, lambda: self._script(step))
        elif step.node is not None:
            self._play(step, lambda: self._node(step, step.node.main))  # type: ignore[union-attr]
            if step.node.post:
                after = replace(step, name="Post " + step.name, condition="always")
                self._posts.append(lambda: self._play(after, lambda: self._node(step, step.node.post)))  # type: ignore[union-attr]
        else:
            self._play(step, lambda: self._docker(step, ""))
            if step.docker is not None and step.docker.post_entrypoint:
                after = replace(step, name="Post " + step.name, condition="always")
                self._posts.append(lambda: self._play(after, lambda: self._docker(step, "post")))

    def _wanted(self, condition: str) -> bool:
        bad = self._failed or self.cancelled
        return {"always": True, "failure": self._failed and not self.cancelled, "cancelled": self.cancelled}.get(condition, not bad)

    # one step

    def _play(self, step: Step, what: Callable[[], None]) -> None:
        result = StepResult(step.name)
        self.results.append(result)
        if not self._wanted(step.condition):
            return
        self._before(step.name, self)
        self._step_id = step.id
        self.now = Cancel()
        self._output = Output(result, self.masks, debug=self.job.debug)
        self._files = {name: self.places.commands / ("%s_%s" % (name.lower(), uuid.uuid4())) for name in FILE_COMMANDS}
        for path in self._files.values():
            path.touch()
        timer = _Timer(step.timeout_minutes * 60.0, self.now) if step.timeout_minutes else None
        began = time.monotonic()
        try:
            what()
            result.outcome, result.exit_code = "success", 0
        except HookError as error:
            result.outcome, result.exit_code = "failure", error.exit_code
        finally:
            result.seconds = time.monotonic() - began
            if timer is not None:
                timer.stop()
        self._take_files(result)
        if result.outcome != "success" and not step.continue_on_error:
            self._failed = True

    def _take_files(self, result: StepResult) -> None:
        """What the step told by files, read on the host after the hook has ended."""
        tell = self._output.error
        for name, path in self._files.items():
            if not path.exists():
                continue
            if name == "PATH":
                self.paths = [line for line in reversed(path.read_text().split("\n")) if line.strip()] + self.paths
            elif name == "STEP_SUMMARY":
                result.summary = self.masks.hide(path.read_text(errors="replace"))
            elif name == "ENV":
                self.env.update(key_values(path, tell))
            elif name == "OUTPUT":
                result.outputs.update(key_values(path, tell))
            else:
                self._states.setdefault(self._step_id, {}).update(key_values(path, tell))
            path.unlink()

    def _internal(self, name: str, what: Callable[[], None]) -> None:
        """A step of the runner's own: it has no files, and its failure fails the job."""
        result = StepResult(name)
        self.results.append(result)
        self._before(name, self)
        self._step_id = name
        self.now = Cancel()
        self._output = Output(result, self.masks, debug=self.job.debug)
        self._files = {}
        began = time.monotonic()
        try:
            what()
            result.outcome, result.exit_code = "success", 0
        except HookError as error:
            result.outcome, result.exit_code = "failure", error.exit_code
            self._failed = True
        result.seconds = time.monotonic() - began

    # calls of the hook

    def github(self) -> dict[str, str]:
        """GITHUB_* and RUNNER_* of the current step, with host paths."""
        found = {
            "GITHUB_ACTION": self._step_id,
            "GITHUB_ACTOR": "OWNER",
            "GITHUB_EVENT_NAME": "push",
            "GITHUB_EVENT_PATH": str(self.places.temp / "_github_workflow" / "event.json"),
            "GITHUB_JOB": self.job.name,
            "GITHUB_REPOSITORY": self.job.repository,
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_RUN_ID": self._run_id,
            "GITHUB_WORKSPACE": str(self.places.workspace),
            "RUNNER_ARCH": "X64",
            "RUNNER_NAME": "runner",
            "RUNNER_OS": "Linux",
            "RUNNER_TEMP": str(self.places.temp),
            "RUNNER_TOOL_CACHE": str(self.places.work / "_tool"),
            "RUNNER_WORKSPACE": str(self.places.workspace.parent),
        }
        found.update({"GITHUB_" + name: str(path) for name, path in self._files.items()})
        if self.job.debug:
            found["RUNNER_DEBUG"] = "1"
        return found

    def hook(self, command: str, args: Mapping[str, Any]) -> dict[str, Any]:
        """One call; the answer, its state kept."""
        environ = {**self.environ, **self.github(), "GITHUB_ACTIONS": "true", "CI": "true"}
        environ["PATH"] = ":".join([*self.paths, self.environ.get("PATH", "/usr/bin:/bin")])
        answer = call(self.caller, command, args, self.state, environ, self.places.workspace, self._output, self.now)
        if command != "cleanup_job" and isinstance(answer.given.get("state"), dict):
            self.state = answer.given["state"]
        return answer.given

    def _prepare(self) -> None:
        args = {
            "container": self._wish(self.job.container, job=True) if self.job.container else None,
            "services": [self._wish(one, job=False) for one in self.job.services.values()],
        }
        given = self.hook("prepare_job", args)
        context = given.get("context") or {}
        self._alpine = bool(given.get("isalpine"))
        self.context = {"container": context.get("container") or {}, "services": {}}
        for name, found in zip(self.job.services, context.get("services") or (), strict=False):
            self.context["services"][name] = {"id": found.get("id"), "network": found.get("network"), "ports": found["ports"]}

    def _cleanup(self) -> None:
        self.hook("cleanup_job", {})

    def _wish(self, wish: ContainerWish, *, job: bool) -> dict[str, Any]:
        name = self.places.repository.rpartition("/")[2]
        proxies = {key: value for key, value in self.environ.items() if key.lower() in ("http_proxy", "https_proxy", "no_proxy")}
        env = {**wish.env, **proxies, **({"HOME": "/github/home"} if job else {})}
        login = wish.credentials
        registry = (
            {"username": login["username"], "password": login.get("password", ""), "serverUrl": ""} if login.get("username") else None
        )
        return {
            "image": wish.image.removeprefix("docker://"),
            "dockerfile": None,
            "entryPointArgs": wish.command.split(" ") if wish.command else [],
            "entryPoint": wish.entrypoint,
            "workingDirectory": "/__w/%s/%s" % (name, name) if job else None,
            "createOptions": wish.options,
            "registry": registry,
            "environmentVariables": env,
            "portMappings": list(wish.ports),
            "systemMountVolumes": self.places.job_mounts() if job else [],
            "userMountVolumes": [volume(one) for one in wish.volumes],
        }

    def _script(self, step: Step) -> None:
        assert step.run is not None
        program, pattern, ending = SHELLS.get(step.shell) or _custom(step.shell)
        script = self.places.temp / (str(uuid.uuid4()) + ending)
        script.write_text(step.run.replace("\r\n", "\n") + "\n")
        if self.job.container is None:
            environ = {**self.environ, **self.env, **step.env, **self.github()}
            environ["PATH"] = ":".join([*self.paths, self.environ.get("PATH", "/usr/bin:/bin")])
            argv = [program, *pattern.format(script).split(" ")]
            run_on_host(argv, environ, self.places.workspace, self._output, self.now)
            return
        place = step.working_directory or str(self.places.workspace)
        place = place if place.startswith("/") else str(self.places.workspace / place)
        self._in_job(program, pattern.format(self.places.in_job(str(script))), {**self.env, **step.env}, self.places.in_job(place))

    def _node(self, step: Step, script: str | None) -> None:
        assert step.node is not None and script is not None
        env = {**self.env, **step.env, **_inputs(step.inputs)}
        env.update({"STATE_" + name: value for name, value in self._states.get(self._step_id, {}).items()})
        if self.job.container is None:
            environ = {**self.environ, **env, **self.github()}
            node = str(self.caller.externals / step.node.using / "bin" / "node")
            run_on_host([node, script], environ, self.places.workspace, self._output, self.now)
            return
        using = step.node.using + ("_alpine" if self._alpine else "")
        self._in_job("/__e/%s/bin/node" % using, self.places.in_job(script), env, self.places.in_job(str(self.places.workspace)))

    def _in_job(self, program: str, arguments: str, env: Mapping[str, str], place: str) -> None:
        args = {
            "entryPointArgs": arguments.split(" "),
            "entryPoint": program,
            "environmentVariables": translated({**env, **self.github()}, self.places.in_job),
            "prependPath": list(self.paths),
            "workingDirectory": place,
        }
        self.hook("run_script_step", args)

    def _docker(self, step: Step, stage: str) -> None:
        assert step.docker is not None
        action: DockerAction = step.docker
        usual = action.entrypoint or step.inputs.get("entrypoint")
        entrypoint = {"pre": action.pre_entrypoint, "post": action.post_entrypoint}.get(stage, usual)
        if action.args is not None:
            text = " ".join('"%s"' % one.replace('"', '\\"') for one in action.args)
        else:
            text = step.inputs.get("args", "")
        env = {
            **self.env,
            **action.env,
            **step.env,
            **_inputs(step.inputs),
            **self.github(),
            "HOME": str(self.places.temp / "_github_home"),
        }
        env.update({"STATE_" + name: value for name, value in self._states.get(self._step_id, {}).items()})
        is_image = action.image.startswith("docker://")
        args = {
            "image": action.image[len("docker://") :] if is_image else None,
            "dockerfile": None if is_image else str(self.places.workspace / action.image),
            "entryPointArgs": [part.strip() for part in text.split(" ") if part.strip()],
            "entryPoint": entrypoint,
            "workingDirectory": "/github/workspace",
            "createOptions": None,
            "registry": None,
            "environmentVariables": translated(env, self.places.in_step),
            "portMappings": [],
            "systemMountVolumes": self.places.step_mounts(),
            "userMountVolumes": [],
        }
        self.hook("run_container_step", args)


class _Timer:
    """Cancels a step when its time is over."""

    def __init__(self, seconds: float, cancel: Cancel) -> None:
        import threading

        self._timer = threading.Timer(seconds, cancel.asked.set)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """The step has ended."""
        self._timer.cancel()


def _custom(shell: str) -> tuple[str, str, str]:
    program, _, rest = shell.partition(" ")
    return program, rest or "{0}", ""


def _inputs(inputs: Mapping[str, str]) -> dict[str, str]:
    return {"INPUT_" + name.replace(" ", "_").upper(): value for name, value in inputs.items()}


def play(job: Job, caller: Caller, environ: Mapping[str, str]) -> JobResult:
    """Play a job and give its result."""
    return Worker(job, caller, environ).run()
