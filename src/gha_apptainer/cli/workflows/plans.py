"""From a workflow to the one act command that runs it, decided before anything is started."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gha_apptainer.cli.workflows.documents import Job, Step, Workflow, load_yaml, read_steps, read_workflow
from gha_apptainer.cli.workflows.matrices import combinations
from gha_apptainer.cli.workflows.options import ActOptions
from gha_apptainer.cli.workflows.runner_labels import given_inputs, labels
from gha_apptainer.domain.errors import InputError, Refused

OUR_REPOSITORY = "apptainer-gha-runner"
"""The repository under whose name workflows use the container action, with any owner."""

_REMOTE = re.compile(r"^(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(?P<path>/[^@]*)?@(?P<ref>.+)$")
_NESTING = 9
"""How deep composite actions and reusable workflows are followed; GitHub allows ten and four levels."""


@dataclass(frozen=True)
class Expected:
    """A job that must end with a result. `count` results (None: at least one); `key` names it as its file does, callers first."""

    key: str
    id: str
    count: int | None
    conditional: bool
    needs: tuple[str, ...]


@dataclass(frozen=True)
class RunPlan:
    """Everything that is decided about one run.

    `repositories` are the `owner/name@ref` that mean this checkout, `warnings` what may go wrong and is not refused.
    """

    workflow: Workflow
    root: Path
    event: str
    job: str
    labels: tuple[str, ...]
    repositories: tuple[str, ...]
    expected: tuple[Expected, ...]
    artifacts: bool
    cache: bool
    warnings: tuple[str, ...]
    containers: tuple[Step, ...]


@dataclass(frozen=True)
class _Way:
    """What the callers of a workflow mean for its jobs: the front of their keys, and as in Expected."""

    key: str
    conditional: bool
    needs: tuple[str, ...]
    times: int | None


@dataclass
class _Seen:
    problems: list[str]
    labels: set[str]
    repositories: set[str]
    expected: list[Expected]
    programs: dict[str, str]
    uses: set[str]
    containers: list[Step]


def repository_root(path: Path, top_level: str) -> Path:
    """The directory that a checkout of the workflow would hold: git's, else that above `.github`, else the file's own."""
    if top_level:
        return Path(top_level)
    for parent in path.parents:
        if (parent / ".github").is_dir():
            return parent
    return path.parent


def choose_event(workflow: Workflow, asked: str) -> str:
    """The event to play: the asked one, else push, else the first. Raises InputError or Refused."""
    if asked:
        if asked not in workflow.events:
            raise InputError(f"{workflow.path} does not run on '{asked}'", remedy="its events: " + ", ".join(workflow.events))
        return asked
    own = [one for one in workflow.events if one != "workflow_call"]
    if not own:
        raise Refused(f"{workflow.path} is only called by other workflows", remedy="run the workflow that calls it")
    return "push" if "push" in own else own[0]


def plan(workflow: Workflow, root: Path, options: ActOptions, which: Callable[[str], str | None]) -> RunPlan:
    """Read the workflow against what can be honoured here. Raises Refused with one sentence for each thing that cannot."""
    event = choose_event(workflow, options.event)
    if options.job and options.job not in {one.id for one in workflow.jobs}:
        raise InputError(f"{workflow.path} has no job '{options.job}'", remedy="its jobs: " + ", ".join(one.id for one in workflow.jobs))
    seen = _Seen([], set(options.labels), set(), [], {}, set(), [])
    _visit_workflow(workflow, _Way("", False, (), 1), root, options, seen, options.job)
    if seen.problems:
        more = "" if len(seen.problems) == 1 else f" ({len(seen.problems)} reasons)"
        raise Refused(f"{workflow.path} cannot run on this machine{more}:\n  " + "\n  ".join(seen.problems))
    warnings = tuple(why for program, why in seen.programs.items() if which(program) is None)
    return RunPlan(
        workflow=workflow,
        root=root,
        event=event,
        job=options.job,
        labels=tuple(sorted(seen.labels)),
        repositories=tuple(sorted(seen.repositories)),
        expected=tuple(seen.expected),
        artifacts=bool(seen.uses & {"actions/upload-artifact", "actions/download-artifact"}) or options.given("--artifact-server-path"),
        cache=bool(seen.uses & {"actions/cache", "actions/cache/restore", "actions/cache/save"}),
        warnings=warnings,
        containers=tuple(seen.containers),
    )


def _needed(workflow: Workflow, start: str) -> set[str]:
    jobs = {one.id: one for one in workflow.jobs}
    found: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += jobs[name].needs
    return found


def _visit_workflow(workflow: Workflow, way: _Way, root: Path, options: ActOptions, seen: _Seen, job_filter: str = "") -> None:
    wanted = _needed(workflow, job_filter) if job_filter else {one.id for one in workflow.jobs}
    for job in (one for one in workflow.jobs if one.id in wanted):
        where = f"workflow '{workflow.title}', job '{job.id}'"
        known = None if options.given("--matrix") else combinations(job.matrix)
        here = _Way(
            key=way.key + job.id,
            conditional=way.conditional or job.conditional,
            needs=way.needs + tuple(way.key + one for one in job.needs),
            times=None if known is None or way.times is None else way.times * len(known),
        )
        if job.calls:
            _visit_call(where, job, workflow, here, root, options, seen)
            continue
        seen.expected.append(Expected(here.key, job.id, here.times, here.conditional, here.needs))
        _visit_job(where, job, workflow, root, options, seen)


def _visit_call(where: str, job: Job, workflow: Workflow, way: _Way, root: Path, options: ActOptions, seen: _Seen) -> None:
    if not job.calls.startswith("./"):
        seen.problems.append(f"{where}: the reusable workflow {job.calls} lies in another repository, which is not fetched; copy it here")
    elif way.key.count("/") >= _NESTING:
        seen.problems.append(f"{where}: reusable workflows call each other more than {_NESTING} levels deep")
    else:
        called = read_workflow(root / job.calls)
        called = replace(called, input_defaults={**called.input_defaults, **given_inputs(job, workflow.input_defaults)})
        _visit_workflow(called, replace(way, key=way.key + "/"), root, options, seen)


def _visit_job(where: str, job: Job, workflow: Workflow, root: Path, options: ActOptions, seen: _Seen) -> None:
    if job.container:
        seen.problems.append(f"{where}: `container:` needs a container daemon, and none is used here; use the container action")
    if job.services:
        names = ", ".join(map(str, job.services)) if isinstance(job.services, Mapping) else str(job.services)
        seen.problems.append(f"{where}: `services:` ({names}) would silently not be started by act on a host")
    found = labels(job, workflow.input_defaults)
    if found is not None:
        seen.labels.update(found)
    elif not options.labels:
        seen.problems.append(
            f"{where}: the label of `runs-on: {job.runs_on}` is known only while the workflow runs; "
            "map it yourself: -- -P LABEL=-self-hosted"
        )
    for step in job.steps:
        _visit_step(f"{where}, step {step.at} '{step.title}'", step, root, options, seen, 0)


def _visit_step(where: str, step: Step, root: Path, options: ActOptions, seen: _Seen, depth: int) -> None:
    if step.run:
        if step.shell.split(" ")[0] == "python":
            seen.programs["python"] = f"{where} has `shell: python`, and there is no program called python here"
        return
    if step.uses.startswith("docker://"):
        seen.problems.append(f"{where}: {step.uses} needs a container daemon, and none is used here; use the container action")
        return
    if depth >= _NESTING:
        seen.problems.append(f"{where}: actions use each other more than {_NESTING} levels deep")
        return
    folder = _folder(step.uses, root, options, seen, where)
    if folder is not None:
        _visit_action(where, step, folder, root, options, seen, depth)
    if _is_ours(step.uses):
        seen.containers.append(step)


def _is_ours(uses: str) -> bool:
    match = _REMOTE.match(uses)
    return match is not None and match["name"].lower() == OUR_REPOSITORY


def _folder(uses: str, root: Path, options: ActOptions, seen: _Seen, where: str) -> Path | None:
    """Where the action's files lie, if that is known before the run."""
    if uses.startswith("./"):
        return root / uses
    match = _REMOTE.match(uses)
    if match is None:
        seen.problems.append(f"{where}: '{uses}' is no action; write ./FOLDER, OWNER/NAME@REF or OWNER/NAME/FOLDER@REF")
        return None
    repository = f"{match['owner']}/{match['name']}"
    seen.uses.add(repository + (match["path"] or ""))
    if match["name"].lower() == OUR_REPOSITORY:
        seen.repositories.add(f"{repository}@{match['ref']}")
        return None
    local = dict(options.repositories).get(f"{repository}@{match['ref']}")
    if local is not None:
        return Path(local) / (match["path"] or "").lstrip("/")
    if repository == "actions/checkout":
        return None  # act copies the working tree itself
    seen.programs.setdefault("git", f"{where} fetches {uses}, and there is no git here")
    seen.programs.setdefault("node", f"{where} may be a JavaScript action, and there is no node here")
    if repository == "actions/cache":
        seen.programs["zstd"] = f"{where} packs with zstd, and there is no zstd here"
    return None


def _visit_action(where: str, step: Step, folder: Path, root: Path, options: ActOptions, seen: _Seen, depth: int) -> None:
    file = next((folder / name for name in ("action.yml", "action.yaml") if (folder / name).is_file()), None)
    if file is None:
        if (folder / "Dockerfile").is_file():
            seen.problems.append(_dockerfile(where, step))
        return  # it may come into being during the job
    raw = load_yaml(file)
    runs = raw.get("runs") if isinstance(raw, Mapping) else None
    if not isinstance(runs, Mapping):
        raise InputError(f"{file} has no `runs:`")
    using = str(runs.get("using", ""))
    if using == "docker":
        seen.problems.append(_dockerfile(where, step))
    elif using.startswith("node"):
        seen.programs["node"] = f"{where} is a JavaScript action, and there is no node here"
    else:
        for inner in read_steps(str(file), runs.get("steps")):
            _visit_step(f"{where}, its step {inner.at} '{inner.title}'", inner, root, options, seen, depth + 1)


def _dockerfile(where: str, step: Step) -> str:
    return f"{where}: {step.uses} is a Docker action and needs a container daemon, and none is used here"


def container_steps(plan: RunPlan) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The container steps: title and inputs as written."""
    return ((step.title, step.inputs) for step in plan.containers)
