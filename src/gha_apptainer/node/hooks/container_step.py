"""run_container_step: a `docker://` or Dockerfile action, in a container of its own that is gone when it ends."""

from __future__ import annotations

import os
import time
from typing import Optional, Tuple

from gha_apptainer.domain.containers import ContainerSpec, ExitStatus
from gha_apptainer.domain.errors import DOCKER_FAILURE, InputError
from gha_apptainer.domain.hook_requests import HookRequest
from gha_apptainer.domain.images import Image
from gha_apptainer.domain.step_records import verdict
from gha_apptainer.domain.values import replace
from gha_apptainer.domain.verdicts import Word
from gha_apptainer.node import files, process
from gha_apptainer.node.engine import cgroups, flat, join
from gha_apptainer.node.hooks import cards, cleanup, guarding
from gha_apptainer.node.hooks.cancelling import Watch, name
from gha_apptainer.node.hooks.jobs import JobRecord, new_id
from gha_apptainer.node.hooks.planning import STEP, Planned, Planner, owner
from gha_apptainer.node.hooks.prepare import root_helpers
from gha_apptainer.node.hooks.step import root_lost
from gha_apptainer.node.hooks.surroundings import Surroundings

_END_LIMIT = 10.0


def run(request: HookRequest, around: Surroundings, watch: Watch) -> int:
    """Run the action's container; its exit code, 125 where the failure is ours. Without a job there is nothing to belong to."""
    assert request.container is not None
    job = _job(request, around)
    wanted = request.container
    planner = Planner(around, job.id if job else new_id(), (wanted,))
    planner.step_network = job.network if job else ""
    planned = planner.plan(wanted, STEP, "container step", "job-" + job.id[:16] if job else "")
    image = _image(planned, around)
    scope = owner(around, planner.job, os.getpid(), process.start_time(os.getpid()))
    spec = planner.spec(planned, image, scope)
    _card(planner, image, around, with_job=job is not None)
    around.debug("container step: %s %s from %s" % (image.reference, image.digest.text, image.route))
    return _ended(_run(spec, planner.work, around, watch), around)


def _run(spec: ContainerSpec, work: str, around: Surroundings, watch: Watch) -> ExitStatus:
    """Hold the container, look at what is mounted in it, then run its command; it is gone when this returns, or when we are."""
    assert spec.main is not None
    engine, main = around.engine, spec.main
    wanted = guarding.identities(spec.mounts, work)
    identity = engine.create(replace(spec, main=None, usual=main))
    try:
        engine.start(identity)
        base = os.path.join(around.host.state_dir, "containers", identity)
        record = flat.read(os.path.join(base, "join"))
        guarding.check(record, wanted)
        helpers, before = root_helpers(around, identity), cgroups.oom_kills()
        env = flat.read_settings(os.path.join(base, "exec")).env
        began = time.time()
        watch.starting()
        try:
            pid = join.spawn(record, join.Command(main.argv, env, main.cwd, main.user, -1, 1, 2, create_cwd=True))
        except join.JoinFailed as failed:
            return ExitStatus(failed.code, started=began, finished=time.time(), reason=failed.text, ran=False)
        watch.command(pid)
        _, ended, usage = os.wait4(pid, 0)
        code = watch.finish(join.exit_code(ended))
        reason = "cancelled by %s" % name(watch.number) if watch.number else ""
        if not reason and (engine.wait(identity, 0.0) is not None or root_lost(helpers)):
            reason = "the container or its root file system ended before its command did"
        oom = code == 137 and 0 <= before < cgroups.oom_kills()
        killed = os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0
        return ExitStatus(code, killed, oom, began, time.time(), reason, usage.ru_maxrss * 1024)
    finally:
        from gha_apptainer.node.hooks.serving import deaf

        deaf()
        monitor = _monitor(around, identity)
        engine.remove(identity)
        deadline = time.monotonic() + _END_LIMIT
        while (
            process.alive(*monitor) and time.monotonic() < deadline
        ):  # it removes its own record, and is not done when that is out of sight
            time.sleep(0.002)


def _monitor(around: Surroundings, identity: str) -> Tuple[int, int]:
    try:
        text = files.decode(files.read_whole(os.path.join(around.host.state_dir, "containers", identity, "monitor")))
    except FileNotFoundError:
        return 0, 0
    pid, _, began = text.partition(" ")
    return int(pid), int(began)


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
