"""cleanup_job, and what prepare_job does before it begins: nothing of a job, or of one whose runner is gone, stays behind."""

from __future__ import annotations

import signal
from typing import Sequence

from gha_apptainer.domain.containers import RUNNING, Container
from gha_apptainer.domain.errors import GhaError, InputError
from gha_apptainer.domain.hook_mounts import volume_prefix
from gha_apptainer.domain.hook_requests import HookRequest
from gha_apptainer.node.hooks.jobs import JobRecord
from gha_apptainer.node.hooks.surroundings import Surroundings

LOG_LINES = 2000
"""How many lines of a service's log are shown at the job's end."""


def clean(request: HookRequest, around: Surroundings) -> int:
    """End the job that the runner means; 0 whatever the state says, once nothing of it is left.

    The state that came back is not needed: a job is found by what its hooks are called with. A state of another job changes nothing.
    """
    jobs = around.jobs
    mine = jobs.of_scope(around.scope)
    if request.job and request.job not in mine:
        around.report.line("the state that came back is not this job's; this job's own record says what there is to remove")
    for identity in mine:
        record = jobs.read(identity)
        if record is not None:
            show_logs(record, around)
        end_job(identity, around)
    sweep(around)
    return 0


def sweep(around: Surroundings) -> None:
    """Remove what jobs left whose runner is gone. What cannot be removed is a warning, never the end of this job."""
    jobs = around.jobs
    try:
        jobs.sweep()
        for identity in jobs.dead():
            end_job(identity, around)
            around.debug("removed what was left of job %s" % identity[:12])
        _orphans(around)
    except (GhaError, OSError) as error:
        around.report.warning("leftovers", "what an earlier job left cannot be removed: %s" % error)


def _orphans(around: Surroundings) -> None:
    """Containers and volumes of jobs that have no record any more: killed while they were removed."""
    containers, volumes = around.engine.list(), around.jobs.volumes("job-")
    known = set(around.jobs.ids())  # read last: a job's record is there before anything of it is
    for one in containers:
        scope = one.spec.owner.scope
        if scope.startswith("hook:") and scope[5:] not in known and not _owned(one):
            around.engine.remove(one.id)
    prefixes = {volume_prefix(identity) for identity in known}
    for path in volumes:
        if not any(path.rpartition("/")[2].startswith(prefix) for prefix in prefixes):
            around.jobs.drop(path)


def _owned(one: Container) -> bool:
    from gha_apptainer.node import process

    return process.alive(one.spec.owner.pid, one.spec.owner.started)


def end_job(identity: str, around: Surroundings) -> None:
    """Everything of one job: containers, volumes, record. Gone already is fine."""
    engine = around.engine
    ours = list(engine.list("hook:" + identity))
    for one in ours:  # first all of them at once: ends overlap
        if one.state == RUNNING:
            try:
                engine.kill(one.id, signal.SIGKILL)
            except InputError:
                continue
    for one in ours:
        engine.remove(one.id)
    for path in around.jobs.volumes(volume_prefix(identity)):
        around.jobs.drop(path)
    around.jobs.discard(identity)


def show_logs(record: JobRecord, around: Surroundings) -> None:
    """Each service's log in a group of its own, as the runner shows it where there is Docker."""
    for service in record.services:
        try:
            lines = last_lines(around, service.container, LOG_LINES)
        except (GhaError, OSError):
            continue
        with around.report.group("Log of %s" % service.title):
            for text in lines:
                around.report.line(text)


def last_lines(around: Surroundings, identity: str, count: int) -> Sequence[str]:
    """The last lines that a container wrote."""
    return [line.text.decode("utf-8", "replace").rstrip("\r\n") for line in around.engine.logs(identity, tail=count)]
