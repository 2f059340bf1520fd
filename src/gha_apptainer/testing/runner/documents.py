"""A job as the service sends it, its expressions evaluated, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ContainerWish:
    """`container:` or one of `services:`. `credentials` are username and password."""

    image: str
    env: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    options: str | None = None
    credentials: Mapping[str, str] = field(default_factory=dict)
    entrypoint: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class DockerAction:
    """A container action's `runs:`. `image` is `docker://…` or the path of a Dockerfile, absolute or in the workspace; `args` None
    leaves them to `with.args`.
    """

    image: str
    entrypoint: str | None = None
    args: tuple[str, ...] | None = None
    pre_entrypoint: str | None = None
    post_entrypoint: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeAction:
    """A JavaScript action's `runs:`: paths of the scripts on the host."""

    main: str
    pre: str | None = None
    post: str | None = None
    using: str = "node20"


@dataclass(frozen=True)
class Step:
    """One step: exactly one of `run`, `docker` and `node`. `condition` is success, failure, always or cancelled."""

    name: str
    id: str = ""
    run: str | None = None
    shell: str = ""
    docker: DockerAction | None = None
    node: NodeAction | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    working_directory: str = ""
    condition: str = "success"
    continue_on_error: bool = False
    timeout_minutes: float = 0.0


@dataclass(frozen=True)
class Job:
    """One job. `secrets` are texts that the log never shows."""

    name: str = "job"
    repository: str = "OWNER/repository"
    container: ContainerWish | None = None
    services: Mapping[str, ContainerWish] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    secrets: tuple[str, ...] = ()
    debug: bool = False


@dataclass
class StepResult:
    """What became of a step: `outcome` success, failure, skipped or cancelled; what it printed, and what it gave to others.

    `raw` is the beginning of what the hook wrote on stdout and stderr, byte by byte, `bytes` how many there were; `log` is what a
    person sees.
    """

    name: str
    outcome: str = "skipped"
    exit_code: int | None = None
    log: list[str] = field(default_factory=list)
    raw: dict[str, bytes] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    annotations: list[tuple[str, str]] = field(default_factory=list)
    summary: str = ""
    seconds: float = 0.0
    bytes: int = 0

    @property
    def text(self) -> str:
        """The log as one text."""
        return "\n".join(self.log)


@dataclass
class JobResult:
    """What became of a job. `context` is `job.container` and `job.services` as expressions would see them."""

    result: str
    steps: list[StepResult]
    context: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def step(self, name: str) -> StepResult:
        """The (last) step of that name."""
        return next(one for one in reversed(self.steps) if one.name == name)

    @property
    def text(self) -> str:
        """All logs."""
        return "\n".join(one.text for one in self.steps)

    def plain(self) -> dict[str, object]:
        """As JSON's own types."""
        return {
            "result": self.result,
            "context": self.context,
            "errors": self.errors,
            "steps": [
                {
                    "name": one.name,
                    "outcome": one.outcome,
                    "exit_code": one.exit_code,
                    "log": one.log,
                    "outputs": one.outputs,
                    "annotations": one.annotations,
                    "summary": one.summary,
                    "seconds": round(one.seconds, 3),
                    "bytes": one.bytes,
                    "raw": {stream: data.decode("latin-1") for stream, data in one.raw.items()},
                }
                for one in self.steps
            ],
        }


def read_job(text: str) -> Job:
    """A job from its JSON; keys are those of a workflow where it has them. Raises ValueError naming an unknown key."""
    raw = json.loads(text)
    _known(raw, "job", ("name", "repository", "container", "services", "env", "steps", "secrets", "debug"))
    return Job(
        name=raw.get("name", "job"),
        repository=raw.get("repository", "OWNER/repository"),
        container=_wish(raw["container"]) if raw.get("container") else None,
        services={name: _wish(one) for name, one in raw.get("services", {}).items()},
        env=raw.get("env", {}),
        steps=tuple(_step(one, at) for at, one in enumerate(raw.get("steps", []))),
        secrets=tuple(raw.get("secrets", ())),
        debug=bool(raw.get("debug", False)),
    )


def _wish(raw: Any) -> ContainerWish:
    if isinstance(raw, str):
        return ContainerWish(raw)
    _known(raw, "container", ("image", "env", "ports", "volumes", "options", "credentials", "entrypoint", "command"))
    return ContainerWish(
        image=raw["image"],
        env=raw.get("env", {}),
        ports=tuple(str(one) for one in raw.get("ports", ())),
        volumes=tuple(raw.get("volumes", ())),
        options=raw.get("options"),
        credentials=raw.get("credentials", {}),
        entrypoint=raw.get("entrypoint"),
        command=raw.get("command"),
    )


def _step(raw: Any, at: int) -> Step:
    known = ("name", "id", "run", "shell", "uses", "runs", "with", "env", "working-directory", "if", "continue-on-error", "timeout-minutes")
    _known(raw, "step", known)
    docker: DockerAction | None = None
    node: NodeAction | None = None
    runs = raw.get("runs", {})
    if runs.get("using") == "docker":
        docker = DockerAction(
            image=runs["image"],
            entrypoint=runs.get("entrypoint"),
            args=tuple(runs["args"]) if "args" in runs else None,
            pre_entrypoint=runs.get("pre-entrypoint"),
            post_entrypoint=runs.get("post-entrypoint"),
            env=runs.get("env", {}),
        )
    elif runs:
        node = NodeAction(runs["main"], runs.get("pre"), runs.get("post"), runs["using"])
    elif raw.get("uses", "").startswith("docker://"):
        docker = DockerAction(image=raw["uses"])
    if (raw.get("run") is not None) + (docker is not None) + (node is not None) != 1:
        raise ValueError("step %d: one of `run`, `uses: docker://…` and `runs` is wanted" % (at + 1))
    return Step(
        name=raw.get("name") or raw.get("id") or "step %d" % (at + 1),
        id=raw.get("id", ""),
        run=raw.get("run"),
        shell=raw.get("shell", ""),
        docker=docker,
        node=node,
        inputs=raw.get("with", {}),
        env=raw.get("env", {}),
        working_directory=raw.get("working-directory", ""),
        condition=raw.get("if", "success"),
        continue_on_error=bool(raw.get("continue-on-error", False)),
        timeout_minutes=float(raw.get("timeout-minutes", 0.0)),
    )


def _known(raw: Any, what: str, names: tuple[str, ...]) -> None:
    unknown = sorted(set(raw) - set(names))
    if unknown:
        raise ValueError("%s: unknown key %s" % (what, ", ".join(map(repr, unknown))))
