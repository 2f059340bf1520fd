"""prepare_job: the job container and its services, ready to be used, and a record of them."""

from __future__ import annotations

import os
import resource
import shlex
import time
from functools import partial
from typing import Callable, List, Optional, Sequence, Tuple

from gha_apptainer.domain.containers import BIND, NETWORK_HOST, NETWORK_PRIVATE, Container, ContainerSpec
from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import EngineFailed, GhaError
from gha_apptainer.domain.hook_nodes import NodeFit, node_fit
from gha_apptainer.domain.hook_requests import HookContainer, HookRequest, PrepareAnswer, ServiceAnswer
from gha_apptainer.domain.images import Image
from gha_apptainer.domain.job_options import JOB, SERVICE
from gha_apptainer.domain.values import replace
from gha_apptainer.node import apptainer, files, process
from gha_apptainer.node.engine import cgroups
from gha_apptainer.node.engine import flat as engine_flat
from gha_apptainer.node.hooks import cards, cleanup, looking, parallel
from gha_apptainer.node.hooks.flat import FlatJob
from gha_apptainer.node.hooks.jobs import JobRecord, ServiceRecord, new_id, owner_of
from gha_apptainer.node.hooks.planning import Planned, Planner, node_mounts, owner
from gha_apptainer.node.hooks.surroundings import Surroundings

PULL_LIMIT = 6 * 3600.0
START_LIMIT = 1800.0
"""Seconds that all containers of a job may take to be up and healthy."""
_LAST_LINES = 30
_SERVERS = ("squashfuse", "fuse-overlayfs", "fuse2fs")


def prepare(request: HookRequest, around: Surroundings) -> PrepareAnswer:
    """Make everything that the job asks for; nothing is left of it where that fails."""
    for identity in around.jobs.of_scope(around.scope):
        cleanup.end_job(identity, around)  # an earlier attempt of this very job
    cleanup.sweep(around)
    wanted = ((request.container,) if request.container else ()) + request.services
    one = _Preparation(new_id(), request, around, wanted)
    try:
        return one.run()
    except BaseException:
        undo(one.job, around)
        raise


def undo(job: str, around: Surroundings) -> None:
    """Take back what was prepared. Its own failure must not hide the first: the next hook finds what is left."""
    from gha_apptainer.node.hooks.serving import deaf

    deaf()
    try:
        cleanup.end_job(job, around)
    except (GhaError, OSError) as error:
        around.report.warning("leftovers", str(error))


class _Preparation:
    """One call of prepare_job."""

    def __init__(self, job: str, request: HookRequest, around: Surroundings, wanted: Tuple[HookContainer, ...]) -> None:
        self.job, self._request, self._around = job, request, around
        self._network = "job-" + job[:16]
        self._planner = Planner(around, job, wanted)
        self._owner = owner_of(around.owner)

    def run(self) -> PrepareAnswer:
        plans = self._plans()
        images = self._images(plans)
        record = JobRecord(
            id=self.job,
            scope=self._around.scope,
            owner=self._owner[0],
            owner_started=self._owner[1],
            place=process.here(),
            work=self._planner.work,
        )
        self._around.jobs.add(record)
        owned = owner(self._around, self.job, *self._owner)
        specs = [self._planner.spec(plan, image, owned) for plan, image in zip(plans, images)]
        made = [self._around.engine.create(spec) for spec in specs]
        services = [(plan, identity) for plan, identity in zip(plans, made) if plan.kind == SERVICE]
        record = replace(record, services=tuple(ServiceRecord(identity, plan.title, plan.aliases) for plan, identity in services))
        self._around.jobs.write(record)
        for kind in (SERVICE, JOB):  # the job container comes when the services are there: their names are in its hosts file at once
            chosen = [(plan, identity) for plan, identity in zip(plans, made) if plan.kind == kind]
            if chosen:
                self._start(chosen)
        fit: Optional[NodeFit] = None
        if plans and plans[0].kind == JOB:
            made[0], fit = self._fitted(made[0], specs[0])
            record = replace(record, container=made[0], network=plans[0].asked.network)
            self._around.jobs.write(record)
            self._around.debug("apptainer: " + _shown(specs[0]))
        self._check_reach(plans, made)
        self._publish(plans, images, made, fit)
        return self._answer(record, plans, made, fit)

    def _plans(self) -> List[Planned]:
        plans = []
        if self._request.container is not None:
            plans.append(self._planner.plan(self._request.container, JOB, JOB, self._network))
        titles: List[str] = []
        for one in self._request.services:
            title = _basename(one.image)
            count = sum(title == other.partition("#")[0] for other in titles) + 1
            titles.append(title + ("#%d" % count if count > 1 else ""))
            plan = self._planner.plan(one, SERVICE, "service " + titles[-1], self._network)
            name = title if count == 1 else "%s-%d" % (title, count)
            if count > 1 and not plan.aliases:
                self._around.report.warning(
                    plan.title, "another service has the name %r; this one is found as %r, or give it --network-alias" % (title, name)
                )
            aliases = tuple(dict.fromkeys((name, *plan.aliases)))
            plans.append(
                replace(plan, aliases=aliases, asked=replace(plan.asked, aliases=aliases))
                if plan.asked.network == NETWORK_PRIVATE
                else plan
            )
        return plans

    def _images(self, plans: Sequence[Planned]) -> List[Image]:
        """All images, fetched at once; one that several containers have is fetched once."""
        around = self._around
        tasks: List[Callable[[], str]] = []
        keys: List[Tuple[str, str]] = []
        for plan in plans:
            key = (str(plan.ref), plan.asked.pull)
            if key not in keys:
                keys.append(key)
                tasks.append(partial(self._image, plan))
        found = {}
        for key, result in zip(keys, parallel.run(tasks, PULL_LIMIT)):
            if isinstance(result, GhaError):
                raise result
            found[key] = from_json(Image, result)
        images = [found[str(plan.ref), plan.asked.pull] for plan in plans]
        for plan, image in zip(plans, images):
            around.debug("%s: %s %s from %s" % (plan.title, image.reference, image.digest.text, image.route))
        return images

    def _image(self, plan: Planned) -> str:
        assert plan.ref is not None
        return to_json(self._around.image(plan.ref, plan.asked.pull, plan.login))

    def _start(self, chosen: Sequence[Tuple[Planned, str]]) -> None:
        """Several containers at once, until each is up and, where it has a check, healthy."""
        tasks = [partial(self._up, plan, identity) for plan, identity in chosen]
        failed = []
        for (plan, _), result in zip(chosen, parallel.run(tasks, START_LIMIT)):
            if isinstance(result, GhaError):
                failed.append((plan, result))
        if failed:
            for plan, error in failed[1:]:
                self._around.report.error(plan.title, error.lines())
            raise failed[0][1]

    def _up(self, plan: Planned, identity: str) -> str:
        """In a child of its own: start a container and wait for its health."""
        engine = self._around.engine
        if plan.kind == SERVICE:
            restrict(plan)
        try:
            engine.start(identity)
        except GhaError as error:
            raise type(error)("%s: %s" % (plan.title, error.what), cause=error.cause, remedy=error.remedy) from error
        if plan.kind == SERVICE:
            self._await_health(plan, identity)
        return ""

    def _await_health(self, plan: Planned, identity: str) -> None:
        engine, began = self._around.engine, time.monotonic()
        word = engine.wait_healthy(identity, START_LIMIT)
        if word == "healthy":
            self._around.debug("%s: healthy after %.1f s" % (plan.title, time.monotonic() - began))
            return
        container = engine.get(identity)
        with self._around.report.group("Last lines of %s" % plan.title):
            for line in cleanup.last_lines(self._around, identity, _LAST_LINES):
                self._around.report.line(line)
            for probe in container.health.log[-1:] if container.health else ():
                self._around.report.line("health check: exit code %d: %s" % (probe.exit_code, probe.output.strip()))
        if word == "exited":
            status = container.status
            told = (
                "exit code %d%s" % (status.exit_code, ", " + status.reason if status.reason else "") if status else "no record of its end"
            )
            raise EngineFailed(
                "%s ended: %s" % (plan.title, told), cause="its last lines stand above", remedy="correct its image, env or options"
            )
        raise EngineFailed(
            "%s is %s" % (plan.title, "unhealthy" if word == "unhealthy" else "not healthy within %d s" % START_LIMIT),
            cause="its health check fails; its last lines stand above",
            remedy="correct the check (--health-cmd) or the service",
        )

    def _fitted(self, identity: str, spec: ContainerSpec) -> Tuple[str, NodeFit]:
        """The job container with a node that runs in it, started again where the site's own has to be put over the runner's."""
        around, engine = self._around, self._around.engine
        base = os.path.join(around.host.state_dir, "containers", identity)
        libc = looking.libc(engine_flat.read(os.path.join(base, "join")))
        fit = node_fit(libc, around.host.machine, around.policy.nodes)
        around.debug("the job container has %s" % libc)
        if not fit.place:
            return identity, fit
        mounts = node_mounts(fit.place, spec.mounts)
        if not mounts:
            return identity, replace(fit, problem="the site's node in %s has no tree that the runner has too" % fit.place)
        engine.remove(identity)
        again = engine.create(replace(spec, mounts=spec.mounts + mounts))
        engine.start(again)
        around.report.line("node for %s is taken from %s" % (libc, fit.place))
        return again, fit

    def _check_reach(self, plans: Sequence[Planned], made: Sequence[str]) -> None:
        """What a service listens on must answer where the job looks for it; unless the port is published, which is looked at by itself."""
        if not plans or plans[0].kind != JOB or plans[0].asked.network != NETWORK_HOST:
            return
        for plan, identity in zip(plans[1:], made[1:]):
            found = self._around.engine.get(identity)
            if found.reach.blocked and not found.reach.ports:
                raise EngineFailed(
                    "%s cannot be reached from the job container" % plan.title,
                    cause="; ".join(found.reach.blocked),
                    remedy="publish the port (`ports:`), or give the job a network of its own (options: --network private)",
                )

    def _publish(self, plans: Sequence[Planned], images: Sequence[Image], made: Sequence[str], fit: Optional[NodeFit]) -> None:
        jobs = self._around.jobs
        first = plans[0] if plans and plans[0].kind == JOB else None
        card = cards.text([(plan.title, image) for plan, image in zip(plans, images)])
        files.write_whole(jobs.path(self.job, "card.md"), files.encode(card))
        jobs.write_step(
            self.job,
            FlatJob(
                container=made[0] if first else "",
                image=images[0].reference if first else "",
                scope=self._around.scope,
                node=fit.problem if fit else "",
                cpus=first.cpus if first else "",
                limits=first.limits if first else "",
                work=self._planner.work,
                helpers=root_helpers(self._around, made[0]) if first else "",
                ooms=str(cgroups.oom_kills()),
            ),
        )

    def _answer(self, record: JobRecord, plans: Sequence[Planned], made: Sequence[str], fit: Optional[NodeFit]) -> PrepareAnswer:
        services = []
        for plan, identity in zip(plans, made):
            if plan.kind == SERVICE:
                found: Container = self._around.engine.get(identity)
                ports = tuple((str(one.container), str(one.host)) for one in found.reach.ports)
                services.append(ServiceAnswer(identity, self._network, ports))
        return PrepareAnswer(
            self.job, record.container, self._network if record.container else "", fit.alpine if fit else None, tuple(services)
        )


def root_helpers(around: Surroundings, identity: str) -> str:
    """The FUSE programs behind a container's root, as the flat record keeps them: children of its monitor."""
    found = []
    with open(os.path.join(around.host.state_dir, "containers", identity, "monitor")) as handle:
        monitor = int(handle.read().split()[0])
    for pid in process.children(monitor):
        try:
            with open("/proc/%d/comm" % pid) as handle:
                serves = handle.read().startswith(_SERVERS)
        except OSError:
            continue
        if serves:
            found.append("%d:%d" % (pid, process.start_time(pid)))
    return ",".join(found)


def _shown(spec: ContainerSpec) -> str:
    """The job container as an Apptainer command line, without any variable: those may hold secrets."""
    binds = tuple(apptainer.Bind(one.source, one.target, one.read_only) for one in spec.mounts if one.kind == BIND)
    root = spec.usual.user in ("", "0", "root", "0:0", "root:root")
    argv, _ = apptainer.reproduce_argv(spec.image.rootfs, binds, spec.usual.cwd, ("sh",), gpu="", root=root, writable=spec.writable)
    return " ".join(shlex.quote(word) for word in argv)


def restrict(plan: Planned) -> None:
    """The processors and limits of `options:`, ours and so those of what we start."""
    if plan.cpus:
        os.sched_setaffinity(0, [int(one) for one in plan.cpus.split(",")])
    for one in plan.limits.split(",") if plan.limits else ():
        number, _, hard = one.partition("=")
        resource.setrlimit(int(number), (int(hard), int(hard)))


def _basename(image: str) -> str:
    """The name that an image gives its service: the last part, without tag and digest."""
    name = image.partition("@")[0].rstrip("/").rpartition("/")[2].partition(":")[0]
    return "".join(mark if mark.isalnum() or mark in "._-" else "-" for mark in name) or "service"
