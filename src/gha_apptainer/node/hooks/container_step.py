"""run_container_step: a `docker://` or Dockerfile action, in a container of its own that is gone when it ends."""

from __future__ import annotations

import os
from typing import Optional

from gha_apptainer.domain.containers import ContainerSpec, ExitStatus, Stdio
from gha_apptainer.domain.errors import DOCKER_FAILURE, InputError
from gha_apptainer.domain.hook_requests import HookRequest
from gha_apptainer.domain.images import Image
from gha_apptainer.domain.step_records import verdict
from gha_apptainer.domain.values import replace
from gha_apptainer.domain.verdicts import Word
from gha_apptainer.node import process
from gha_apptainer.node.hooks import cards, cleanup
from gha_apptainer.node.hooks.cancelling import GRACE
from gha_apptainer.node.hooks.jobs import JobRecord, new_id
from gha_apptainer.node.hooks.planning import STEP, Planned, Planner, owner
from gha_apptainer.node.hooks.surroundings import Surroundings


def run(request: HookRequest, around: Surroundings) -> int:
    """Run the action's container; its exit code, 125 where the failure is ours. Without a job there is nothing to belong to."""
    assert request.container is not None
    job = _job(request, around)
    wanted = request.container
    planner = Planner(around, job.id if job else new_id(), (wanted,))
    planned = planner.plan(wanted, STEP, "container step", "job-" + job.id[:16] if job else "")
    image = _image(planned, around)
    scope = owner(around, planner.job, os.getpid(), process.start_time(os.getpid()))
    spec = planner.spec(planned, image, scope)
    _card(planner, image, around, with_job=job is not None)
    around.debug("container step: %s %s from %s" % (image.reference, image.digest.text, image.route))
    status = around.engine.run(_with_cwd(spec), "", Stdio(-1, 1, 2), grace=GRACE)
    return _ended(status, around)


def _job(request: HookRequest, around: Surroundings) -> Optional[JobRecord]:
    """The job of this step, None where the runner has none. Raises InputError for a state that is not this job's."""
    if request.job is None:
        cleanup.sweep(around)
        return None
    job = around.jobs.read(request.job) if request.job else None
    if job is None or job.scope != around.scope:
        raise InputError(
            "the state that came back is not this job's",
            cause="a step may have written into the runner's files, or the job's containers were removed",
        )
    return job


def _image(planned: Planned, around: Surroundings) -> Image:
    if planned.ref is not None:
        return around.image(planned.ref, planned.asked.pull, planned.login)
    from gha_apptainer.node.hooks.building import build_action

    return build_action(planned.dockerfile, around)


def _with_cwd(spec: ContainerSpec) -> ContainerSpec:
    """As `docker run`: a working directory that is not there is made."""
    return spec if spec.main is None else replace(spec, main=replace(spec.main, create_cwd=True))


def _ended(status: ExitStatus, around: Surroundings) -> int:
    ended = verdict(status)
    code = DOCKER_FAILURE if ended.exit_code is None else ended.exit_code
    if ended.word != Word.SUCCEEDED:
        around.report.line("")
        if ended.word == Word.FAILED and not status.reason and code not in (126, 127):
            around.report.line(
                "gha-apptainer: the action's own command ended with exit code %d; the runner's words about its container implementation "
                "that follow stand there for every failed step" % code
            )
        else:
            around.report.error("container step %s" % ended.word.name.lower(), [one for one in (ended.cause, ended.remedy) if one])
    return code if ended.word == Word.SUCCEEDED else code or DOCKER_FAILURE


def _card(planner: Planner, image: Image, around: Surroundings, *, with_job: bool) -> None:
    """The step's own image in the summary, and the job's card where nobody has taken it yet."""
    summary = around.environ.get("GITHUB_STEP_SUMMARY", "")
    if not summary:
        return
    try:
        if with_job:
            cards.deliver(around.jobs.path(planner.job), summary, planner.work)
        cards.append(summary, cards.text([("Container step", image)]), planner.work)
    except OSError:
        return
