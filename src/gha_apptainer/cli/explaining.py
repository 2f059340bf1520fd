"""A workflow's steps as `explain` shows them: the plan that the action itself would make, from the texts of the file."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gha_apptainer.cli.workflows.documents import Job, Step, Workflow
from gha_apptainer.cli.workflows.plans import OUR_REPOSITORY
from gha_apptainer.domain import image_refs
from gha_apptainer.domain.action_inputs import ENV_CONTEXT, INPUTS, parse_inputs
from gha_apptainer.domain.containers import Mount
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import plan_document
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import images
from gha_apptainer.node.actions.planning import FILE_COMMANDS, StepPlan, plan_step

DOCUMENT = 1
"""Version of the document that `explain --json` prints."""
WORKSPACE, TEMPORARY = "/GITHUB_WORKSPACE", "/RUNNER_TEMP"
"""Stand-ins for what only the runner knows; shown with a dollar sign."""
FROM_IMAGE = "from the image"
BY_RUNNER = "run by the runner itself, on the machine"
NOT_SERVED = "not served here yet: it needs a container daemon; use the container action"

_OURS = re.compile(r"^[\w.-]+/%s(?:/container)?/?@" % re.escape(OUR_REPOSITORY))
_EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
_VIEW = {"view-path", "release-platform", "release", "platform"}
_READ = {*_VIEW, "shell", "binds", "apptainer-args", "apptainer_args", "cvmfs-repositories", "cvmfs_repositories", "cache-dir", "scratch"}
_READ |= {row.name for row in INPUTS if row.choices}


def explain_workflow(raw: object, workflow: Workflow, root: Path, settings: NodeSettings, host: HostFacts) -> list[dict[str, Any]]:
    """Every job with its steps. `raw` is the file's YAML, for the `env` and `defaults` that count for more than one step."""
    top = _env_of(raw)
    found: list[dict[str, Any]] = []
    for job in workflow.jobs:
        raw_job = _at(raw, "jobs", job.id)
        steps = _at(raw_job, "steps")
        env = {**top, **_env_of(raw_job)}
        shown = []
        for step in job.steps:
            raw_step = steps[step.at - 1] if isinstance(steps, Sequence) else {}
            found_step = _step(step, {**env, **_env_of(raw_step)}, root, settings, host)
            condition = _at(raw_step, "if")
            shown.append(found_step if condition is None else {**found_step, "if": _text(condition)})
        found.append({"id": job.id, "runs_on": job.runs_on, "notes": list(_job_notes(job)), "steps": shown})
    return found


def _at(raw: object, *keys: str) -> Any:
    for key in keys:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


def _env_of(raw: object) -> dict[str, str]:
    env = _at(raw, "env")
    return {str(name): _text(value) for name, value in env.items()} if isinstance(env, Mapping) else {}


def _text(value: object) -> str:
    """A YAML value as the runner hands it to an action."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _job_notes(job: Job) -> Iterator[str]:
    if job.calls:
        yield "calls the workflow %s; explain that file by itself" % job.calls
    for name, value in (("container", job.container), ("services", job.services)):
        if value:
            yield "%s: is %s" % (name, NOT_SERVED)
    if job.matrix:
        yield "a matrix: the steps run once for each combination"


def _is_ours(uses: str, root: Path) -> bool:
    if uses.startswith("./"):
        return (root / uses / "action.yml").is_file() and (root / "src" / "gha_apptainer").is_dir() and _plain(uses) in (".", "container")
    return _OURS.match(uses) is not None


def _plain(uses: str) -> str:
    return posixpath.normpath(uses)


def _step(step: Step, env: Mapping[str, str], root: Path, settings: NodeSettings, host: HostFacts) -> dict[str, Any]:
    shown: dict[str, Any] = {"at": step.at, "id": step.id, "title": step.title}
    if step.uses.startswith("docker://"):
        return {**shown, "kind": "docker", "error": "%s is %s" % (step.uses, NOT_SERVED)}
    if not step.uses or not _is_ours(step.uses, root):
        return {**shown, "kind": "runner", "note": BY_RUNNER}
    try:
        return {**shown, "kind": "container", **_container(step, env, root, settings, host)}
    except GhaError as error:
        return {**shown, "kind": "container", "error": "\n".join(error.lines())}


def _container(step: Step, env: Mapping[str, str], root: Path, settings: NodeSettings, host: HostFacts) -> dict[str, Any]:
    given = {str(name): _text(value) for name, value in step.inputs.items()}
    open_inputs = sorted(name for name, value in given.items() if _EXPRESSION.search(value))
    inputs = parse_inputs(_guessed(given), dict.fromkeys(env, ""))
    runner = {
        "GITHUB_WORKSPACE": WORKSPACE,
        "RUNNER_TEMP": TEMPORARY,
        **{name: "%s/%s" % (TEMPORARY, name) for name in FILE_COMMANDS},
        "GITHUB_ACTIONS": "true",
        "CI": "true",
        ENV_CONTEXT: json.dumps(dict(env)),
    }
    plan = plan_step(
        inputs,
        runner,
        machine=host.machine,
        folder=TEMPORARY + "/gha-apptainer-step",
        exists=lambda path: path != "/cvmfs" or host.cvmfs,
    )
    if not inputs.image and _VIEW & set(open_inputs):
        plan = replace(plan, asked=replace(plan.asked, image="${{ … }}"), image_from="the operating system of the view, an expression")
    workflow_names = {*env, *(name for name, _ in plan.env_input)}
    return {
        "image": plan.asked.image,
        "image_from": plan.image_from,
        "route": _route(plan, root, settings, host),
        "command": _command(plan),
        "script": inputs.run,
        "cwd": _shown(plan.asked.workdir),
        "user": plan.asked.user or FROM_IMAGE + ", else root",
        "binds": [_bind(one) for one in plan.asked.mounts],
        "env": sorted(workflow_names),
        "env_besides": "the image's own, GITHUB_*, RUNNER_* and the like, what earlier steps wrote to GITHUB_ENV",
        "gpu": plan.asked.gpu,
        "writable": not plan.asked.read_only,
        "cvmfs": list(plan.repositories),
        "setup_script": plan.setup_script and _shown(plan.setup_script),
        "notes": list(plan.notes),
        "expressions": open_inputs,
    }


def _guessed(given: Mapping[str, str]) -> dict[str, str]:
    """The inputs without the expressions that would have to be read to make a plan: what they become is known only when it runs."""
    unread = {name for name, value in given.items() if name in _READ and _EXPRESSION.search(value)}
    if unread & _VIEW:
        unread |= _VIEW
    return {name: "" if name in unread else value for name, value in given.items()}


def _route(plan: StepPlan, root: Path, settings: NodeSettings, host: HostFacts) -> dict[str, Any]:
    if _EXPRESSION.search(plan.asked.image):
        return {"chosen": "", "why": "the image is an expression", "routes": []}
    found = images.plan(image_refs.parse(plan.asked.image, str(root)), plan.asked.pull, settings, host)
    document = dict(plan_document(found))
    document["why"] = found.chosen.why if found.chosen else "; ".join("%s: %s" % (one.route, one.why) for one in found.steps)
    return document


def _command(plan: StepPlan) -> list[str]:
    """The command line; without a script it is the image's."""
    if plan.asked.entrypoint is None:
        return [FROM_IMAGE + ": ENTRYPOINT and CMD"]
    return [_shown(word) for word in (*plan.asked.entrypoint, *(plan.asked.command or ()))]


def _bind(one: Mount) -> str:
    source, target = _shown(one.source), _shown(one.target)
    return "%s%s%s" % (source, "" if source == target else ":" + target, " (read-only)" if one.read_only else "")


def _shown(path: str) -> str:
    for stand_in in (WORKSPACE, TEMPORARY):
        if path == stand_in or path.startswith(stand_in + "/"):
            return "$" + path[1:]
    return path


def render(document: Mapping[str, Any]) -> Iterator[str]:
    """The document for people."""
    yield "%s (%s)" % (document["name"], document["workflow"])
    for job in document["jobs"]:
        yield ""
        yield "job %s, runs-on %s" % (job["id"], _listed(job["runs_on"]))
        for note in job["notes"]:
            yield "  note: " + note
        for step in job["steps"]:
            yield "  %d. %s" % (step["at"], step["title"])
            yield from ("     " + text for text in _lines(step))


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _lines(step: Mapping[str, Any]) -> Iterator[str]:
    if "if" in step:
        yield "if:       " + step["if"]
    if step.get("error"):
        first, *rest = step["error"].split("\n")
        yield "cannot run: " + first
        yield from ("  " + text for text in rest)
        return
    if step["kind"] != "container":
        yield step["note"]
        return
    route = step["route"]
    yield "image:    %s (%s)" % (step["image"], step["image_from"])
    yield "route:    %s" % (": ".join(one for one in (route["chosen"], route["why"]) if one))
    yield "command:  " + " ".join(step["command"])
    if step["script"]:
        yield from ("            | " + text for text in step["script"].rstrip("\n").split("\n"))
    if step["setup_script"]:
        yield "sources:  " + step["setup_script"]
    yield "cwd:      " + step["cwd"]
    yield "user:     " + step["user"]
    yield "binds:    " + ", ".join(step["binds"])
    yield "env:      %s; besides: %s" % (", ".join(step["env"]) or "none of the workflow's", step["env_besides"])
    yield "gpu:      %s; root file system: %s" % (step["gpu"], "writable, changes gone afterwards" if step["writable"] else "read-only")
    if step["cvmfs"]:
        yield "cvmfs:    " + ", ".join(step["cvmfs"])
    for note in step["notes"]:
        yield "note:     " + note
    if step["expressions"]:
        yield "known only when it runs: " + ", ".join(step["expressions"])
