"""From a container of a request to a wish for the engine: everything that can be refused is refused here, before anything is fetched."""

from __future__ import annotations

import os
import resource
from typing import Any, Dict, List, Optional, Tuple

from gha_apptainer.domain.asked import Asked
from gha_apptainer.domain.container_specs import GPU_MASKS, check_platform, container_spec
from gha_apptainer.domain.containers import NETWORK_HOST, NETWORK_NONE, NETWORK_PRIVATE, ContainerSpec, Env, Mount, Owner
from gha_apptainer.domain.docker_networks import publish
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.hook_arguments import rejoined, step_arguments
from gha_apptainer.domain.hook_mounts import (
    EXTERNALS,
    HostView,
    allowed_mounts,
    host_spelling,
    image_path_reason,
    system_mounts,
    user_mounts,
    work_of,
)
from gha_apptainer.domain.hook_policy import GITHUB_HOME, check_image
from gha_apptainer.domain.hook_requests import HookContainer
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import PATH, ImageRef, parse
from gha_apptainer.domain.images import PULL_IF_NOT_PRESENT, Image
from gha_apptainer.domain.job_options import JOB, LIMITS, SERVICE, JobOptions, device_mounts, processors, read_options
from gha_apptainer.domain.values import dataclass, replace
from gha_apptainer.node import files
from gha_apptainer.node.hooks.surroundings import Surroundings, memory_of_machine

STEP = "container step"
HOME = "/github/home"
HOME_CHOICE = "GHA_APPTAINER_HOME"
"""A variable of the job container's `env:`: with the value `image` HOME is the image's, not the runner's."""


@dataclass(frozen=True)
class Planned:
    """A container that is decided: `ref` None is built from `dockerfile`. `cpus` and `limits` are as in the flat record."""

    title: str
    kind: str
    asked: Asked
    ref: Optional[ImageRef]
    login: Optional[Login] = None
    dockerfile: str = ""
    cpus: str = ""
    limits: str = ""
    aliases: Tuple[str, ...] = ()


class Planner:
    """Plans the containers of one job."""

    def __init__(self, around: Surroundings, job: str, wanted: Tuple[HookContainer, ...]) -> None:
        self._around = around
        mounts = [one for container in wanted for one in container.system_mounts]
        self.work = work_of(tuple(mounts), around.environ)
        self.job = job
        self.step_network = ""
        """The network of the job's container, which its container steps have too; empty: the site's usual one."""
        self._view = HostView(self.work, job, real_path, os.path.lexists)

    def plan(self, wanted: HookContainer, kind: str, title: str, network: str) -> Planned:
        """One container. `network` is the name of the job's network. Raises InputError and Refused."""
        policy = self._around.policy
        ref = None if wanted.dockerfile else self._ref(wanted, title)
        options = read_options(
            wanted.options,
            kind,
            dict(wanted.env),
            policy,
            read=self._read_file,
            memory=memory_of_machine(),
            cwd=self.work or "/",
            device_reason=_device_reason,
        )
        for text in options.warnings:
            self._around.report.warning(title, text)
        for text in options.notes:
            self._around.debug("%s: %s" % (title, text))
        cpus, warning = processors(options, sorted(os.sched_getaffinity(0)))
        if warning:
            self._around.report.warning(title, warning)
        asked = replace(
            options.asked,
            image=wanted.image or wanted.dockerfile,
            env=self._environment(wanted, options, kind),
            mounts=self._mounts(wanted, options, kind),
            workdir=wanted.workdir or options.asked.workdir,
            hold=kind == JOB,
            pull=policy.pull if options.asked.pull == PULL_IF_NOT_PRESENT else options.asked.pull,
            labels=(*options.asked.labels, ("gha-apptainer.hook", kind)),
            **self._program(wanted, options, kind),
            **self._networking(wanted, options, kind, network),
        )
        check_platform(asked, self._around.host)
        return Planned(
            title,
            kind,
            asked,
            ref,
            self._login(wanted, ref),
            wanted.dockerfile,
            ",".join(map(str, cpus)),
            self._limits(options, title),
            options.aliases,
        )

    def spec(self, planned: Planned, image: Image, owner: Owner) -> ContainerSpec:
        """The container of a plan and its image."""
        masks = {name: self._around.environ[name] for name in GPU_MASKS if name in self._around.environ}
        spec = container_spec(image, planned.asked, self._around.host, owner, gpu_masks=masks)
        return replace(spec, remove=planned.kind == STEP)

    # the parts

    def _ref(self, wanted: HookContainer, title: str) -> ImageRef:
        if not wanted.image:
            raise InputError("%s: no image" % title, remedy="name one with `image:`")
        ref = parse(wanted.image, self.work)
        check_image(self._around.policy, ref)
        if ref.transport == PATH:
            reason = image_path_reason(ref.path, self._around.policy, self._view)
            if reason:
                raise Refused("%s: the image %s is not allowed on this runner" % (title, ref.path), cause=reason)
        return ref

    def _login(self, wanted: HookContainer, ref: Optional[ImageRef]) -> Optional[Login]:
        """The login that came with the image, else the site's for its registry: the runner sends none for actions."""
        if wanted.login is not None:
            self._around.report.mask(wanted.login.password.reveal())
            return wanted.login
        if ref is None or not self._around.policy.logins:
            return None
        from gha_apptainer.node.images.credentials import read_login

        login = read_login(self._around.policy.logins, ref)
        if login is not None:
            self._around.report.mask(login.password.reveal())
        return login

    def _environment(self, wanted: HookContainer, options: JobOptions, kind: str) -> Env:
        """What the site lets in, what `options:` set, what the workflow's `env:` sets; HOME as the site or the job wants it."""
        policy, environ = self._around.policy, self._around.environ
        found = {name: environ[name] for name in policy.host_env if name in environ}
        found.update(options.asked.env)
        found.update(wanted.env)
        own_home = policy.home != GITHUB_HOME or found.get(HOME_CHOICE) == "image"
        if kind == JOB and own_home and found.get("HOME") == HOME:
            del found["HOME"]
        elif kind == JOB and not own_home:
            found.setdefault("HOME", HOME)
        if kind == STEP:
            found.setdefault("HOME", HOME)
            found.setdefault("CI", "true")
            found["GITHUB_ACTIONS"] = "true"
        return tuple(found.items())

    def _mounts(self, wanted: HookContainer, options: JobOptions, kind: str) -> Tuple[Mount, ...]:
        policy, view = self._around.policy, self._view
        system = system_mounts(wanted.system_mounts, view)
        more = host_spelling(system, self.work) if kind == JOB else ()
        asked = user_mounts(wanted.user_mounts, policy, view) + allowed_mounts(options.asked.mounts, policy, view)
        taken = {one.target for one in system}
        for one in asked:
            if one.target in taken:
                raise Refused("the volume on %s cannot be honoured: the runner itself needs that place" % one.target)
        targets = {one.target for one in asked}
        return system + tuple(one for one in more if one.target not in targets) + asked + device_mounts(options)

    def _program(self, wanted: HookContainer, options: JobOptions, kind: str) -> Dict[str, Any]:
        """ENTRYPOINT and CMD: a container step's, or those of a service; a job container has no program of its own."""
        if kind == JOB:
            return {"entrypoint": None, "command": None}
        env = dict(wanted.env)
        arguments = step_arguments(wanted.args, env.get("INPUT_ARGS")) if kind == STEP else rejoined(wanted.args)
        entrypoint = options.asked.entrypoint
        if wanted.entrypoint:
            entrypoint = rejoined((wanted.entrypoint,)) if kind == SERVICE else (wanted.entrypoint,)
        return {"entrypoint": entrypoint, "command": arguments or None}

    def _networking(self, wanted: HookContainer, options: JobOptions, kind: str, name: str) -> Dict[str, Any]:
        """A job container and steps have the machine's network and the names of the job's; services have a network of their own."""
        policy = self._around.policy
        usual = NETWORK_PRIVATE if kind == SERVICE and NETWORK_PRIVATE in policy.networks else policy.networks[0]
        chosen = options.network or (self.step_network if kind == STEP else "") or usual
        ports = list(options.asked.publish)
        for text in wanted.ports:
            ports += publish("ports", text)
        if kind == JOB and chosen == NETWORK_HOST:
            ports = []  # its ports are the machine's, unchanged
        return {
            "network": chosen,
            "network_name": "" if chosen == NETWORK_NONE else name,
            "aliases": () if chosen != NETWORK_PRIVATE else options.aliases,
            "publish": tuple(ports),
        }

    def _limits(self, options: JobOptions, title: str) -> str:
        """Ulimits below what the user has, as the flat record keeps them; for others a warning."""
        found: List[str] = []
        for name, hard in options.limits:
            kind = getattr(resource, LIMITS[name], None)
            if kind is None:
                continue
            most = resource.getrlimit(kind)[1]
            if most != resource.RLIM_INFINITY and (hard == -1 or hard > most):
                self._around.report.warning(
                    title, "--ulimit %s=%s: the user's own limit is %d" % (name, "unlimited" if hard == -1 else hard, most)
                )
            elif hard != -1 and (most == resource.RLIM_INFINITY or hard < most):
                found.append("%d=%d" % (kind, hard))
        return ",".join(found)

    def _read_file(self, path: str) -> bytes:
        """A file that an option names; only where the job could mount it as well."""
        mount = allowed_mounts((Mount(path, "/file", read_only=True),), self._around.policy, self._view)[0]
        return files.read_whole(mount.source, limit=1 << 20)


def owner(around: Surroundings, job: str, pid: int, started: int) -> Owner:
    """Whom a job's container belongs to."""
    return Owner(around.host.hostname, around.host.boot_id, "hook:" + job, pid, started)


def node_mounts(place: str, mounts: Tuple[Mount, ...]) -> Tuple[Mount, ...]:
    """The site's nodeNN over the runner's own, for each that both have."""
    externals = next((one.source for one in mounts if one.target == EXTERNALS), "")
    try:
        names = sorted(os.listdir(place))
    except OSError as error:
        raise InputError(
            "the site's node %s cannot be read: %s" % (place, error.strerror), remedy="correct the policy key `nodes`"
        ) from error
    return tuple(
        Mount(os.path.join(place, name), "%s/%s" % (EXTERNALS, name), read_only=True)
        for name in names
        if name.startswith("node") and os.path.isdir(os.path.join(externals, name)) and os.path.isdir(os.path.join(place, name))
    )


def real_path(path: str) -> str:
    """The path without links. Raises Refused for one that this user cannot follow."""
    try:
        return os.path.realpath(path)
    except OSError as error:
        raise Refused(
            "the path %s is not allowed in a container on this runner: %s" % (path, error.strerror),
            cause="no policy can judge a path that the runner's user cannot follow",
        ) from error


def _device_reason(path: str) -> str:
    if not os.path.exists(path):
        return "there is no such device on this machine"
    if not os.access(path, os.R_OK):
        return "the runner's user may not open it"
    return ""
