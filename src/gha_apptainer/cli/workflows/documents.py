"""A workflow file as values: what the launcher must know of it, nothing of how to run it.

https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from gha_apptainer.domain.errors import InputError

READ_LIMIT = 1 << 20
"""The largest workflow or action file that is read, in bytes."""


@dataclass(frozen=True)
class Step:
    """One step. `at` is its number in the job, from 1; `title` is what GitHub shows for it."""

    at: int
    id: str
    title: str
    uses: str = ""
    run: bool = False
    shell: str = ""
    inputs: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One job. `matrix`, `runs_on`, `container` and `services` are as written; `calls` is a reusable workflow instead of steps.

    `inputs` are what the job gives to the workflow that it calls.
    """

    id: str
    title: str
    runs_on: object
    matrix: object
    needs: tuple[str, ...]
    conditional: bool
    steps: tuple[Step, ...]
    calls: str = ""
    inputs: Mapping[str, object] = field(default_factory=dict)
    container: object = None
    services: object = None


@dataclass(frozen=True)
class Workflow:
    """One workflow file. `events` are the names under `on:`, in order; `input_defaults` those of its inputs that have one."""

    path: Path
    title: str
    events: tuple[str, ...]
    jobs: tuple[Job, ...]
    input_defaults: Mapping[str, object]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's booleans, as GitHub reads them: `on` and `yes` are words. A key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """As the parent does, refusing repeated keys."""
        seen: set[object] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name != "<<" and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {name!r} is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_yaml(path: Path) -> object:
    """The file's YAML. Raises InputError naming file, line and reason."""
    try:
        with path.open("rb") as handle:
            text = handle.read(READ_LIMIT + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", remedy="give the path of a workflow file") from error
    if len(text) > READ_LIMIT:
        raise InputError(f"{path} is larger than {READ_LIMIT} bytes and no workflow file")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - the loader is a subclass of the safe one
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error


def read_workflow(path: Path) -> Workflow:
    """The workflow in `path`. Raises InputError naming the key that is wrong."""
    raw = load_yaml(path)
    if not isinstance(raw, Mapping) or not isinstance(raw.get("jobs"), Mapping) or not raw["jobs"]:
        raise InputError(f"{path} has no jobs", remedy="a workflow file is a mapping with `on:` and `jobs:`")
    if not raw.get("on"):
        raise InputError(f"{path} has no `on:`", remedy="say which events start it, for example `on: push`")
    events = raw["on"]
    names = (events,) if isinstance(events, str) else tuple(map(str, events)) if isinstance(events, (Mapping, Sequence)) else ()
    jobs = tuple(_job(path, str(key), item) for key, item in raw["jobs"].items())
    known = {one.id for one in jobs}
    for job in jobs:
        for other in job.needs:
            if other not in known:
                raise InputError(f"{path}: job '{job.id}' needs '{other}', which does not exist")
    return Workflow(path, str(raw.get("name") or path.name), names, jobs, _input_defaults(events))


def _input_defaults(events: object) -> Mapping[str, object]:
    found: dict[str, object] = {}
    if isinstance(events, Mapping):
        for event in ("workflow_call", "workflow_dispatch"):
            declared = events.get(event)
            inputs = declared.get("inputs") if isinstance(declared, Mapping) else None
            for name, item in inputs.items() if isinstance(inputs, Mapping) else ():
                if isinstance(item, Mapping) and "default" in item:
                    found[str(name)] = item["default"]
    return found


def _job(path: Path, key: str, raw: object) -> Job:
    where = f"{path}: job '{key}'"
    if not isinstance(raw, Mapping):
        raise InputError(f"{where} is no mapping")
    strategy = raw.get("strategy")
    needs = raw.get("needs") or ()
    calls = raw.get("uses") or ""
    inputs = raw.get("with")
    steps = raw.get("steps")
    if not calls and (not isinstance(steps, Sequence) or isinstance(steps, str) or not steps):
        raise InputError(f"{where} has no steps", remedy="a job has `steps:` or `uses:`")
    if not calls and not raw.get("runs-on"):
        raise InputError(f"{where} has no `runs-on`")
    return Job(
        id=key,
        title=str(raw.get("name") or key),
        runs_on=raw.get("runs-on"),
        matrix=strategy.get("matrix") if isinstance(strategy, Mapping) else None,
        needs=(needs,) if isinstance(needs, str) else tuple(map(str, needs)),
        conditional="if" in raw,
        steps=tuple(_step(where, at, item) for at, item in enumerate(steps or (), 1)) if not calls else (),
        calls=str(calls),
        inputs=inputs if isinstance(inputs, Mapping) else {},
        container=raw.get("container"),
        services=raw.get("services"),
    )


def read_steps(where: str, raw: object) -> tuple[Step, ...]:
    """The steps of a composite action, named `where` in errors."""
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        return ()
    return tuple(_step(where, at, item) for at, item in enumerate(raw, 1))


def _step(where: str, at: int, raw: object) -> Step:
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}, step {at} is no mapping")
    uses, run = raw.get("uses"), raw.get("run")
    if (uses is None) == (run is None):
        raise InputError(f"{where}, step {at} must have either `uses` or `run`")
    title = raw.get("name") or (uses if uses is not None else str(run).strip().split("\n")[0])
    inputs = raw.get("with")
    return Step(
        at=at,
        id=str(raw.get("id") or ""),
        title=str(title),
        uses=str(uses or ""),
        run=run is not None,
        shell=str(raw.get("shell") or ""),
        inputs=inputs if isinstance(inputs, Mapping) else {},
    )
