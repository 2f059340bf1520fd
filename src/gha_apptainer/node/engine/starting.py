"""How a container will be started: decided here as a value, done by the monitor."""

from __future__ import annotations

import os

from gha_apptainer.domain.containers import (
    ANONYMOUS,
    BIND,
    GPU_NONE,
    GPU_NVIDIA,
    NETWORK_HOST,
    NETWORK_PRIVATE,
    TMPFS,
    VOLUME,
    Args,
    ContainerSpec,
    ExecRequest,
    Mount,
)
from gha_apptainer.domain.errors import HostUnfit, InputError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Tuple

HOLDER = "/.gha-apptainer-holder"
"""The holder's path inside, gone as soon as it runs."""
GPU_LIBRARIES = "/.singularity.d/libs"
"""Where Apptainer binds the host's GPU libraries."""


@dataclass(frozen=True)
class Placed:
    """A mount with its source outside. `fill` is a volume that takes the image's content while it is empty."""

    source: str
    target: str
    read_only: bool
    kind: str
    size: int = 0
    mode: int = 0o1777
    fill: bool = False
    create: bool = False


@dataclass(frozen=True)
class StartPlan:
    """Everything a monitor does to start one container, but for the root (`layers.RootPlan`).

    `flags` go to Apptainer as they are, `gpu` says that a GPU is among them; `written` are files of the image
    that are ours (path, text); `private_network` asks for a network namespace with only `lo`.
    """

    hostname: str
    placed: Tuple[Placed, ...]
    written: Tuple[Tuple[str, str], ...]
    flags: Args
    gpu: bool
    private_network: bool


def plan_start(spec: ContainerSpec, host: HostFacts, base: str, volumes: str, resolv_conf: str) -> StartPlan:
    """Pure but for nothing: `base` is the container's directory, `volumes` that of named volumes, `resolv_conf` the host's own text.

    Raises Refused, InputError or HostUnfit, before anything is made.
    """
    hostname = spec.hostname
    private = spec.network != NETWORK_HOST
    return StartPlan(
        hostname=hostname,
        placed=_placed(spec, host, base, volumes),
        written=(
            ("/etc/hostname", hostname + "\n"),
            ("/etc/hosts", hosts_text(hostname, spec)),
            ("/etc/resolv.conf", resolver_text(spec, "" if private else resolv_conf)),
        ),
        flags=_gpu(spec, host) + spec.apptainer_args,
        gpu=spec.gpu != GPU_NONE,
        private_network=private,
    )


def named(spec: ContainerSpec, identity: str) -> ContainerSpec:
    """The spec with the hostname that the container will have, and HOSTNAME in its environment, as Docker gives both."""
    hostname = spec.hostname or identity[:12]

    def with_name(request: ExecRequest) -> ExecRequest:
        known = any(name == "HOSTNAME" for name, _ in request.env)
        return request if known else replace(request, env=(*request.env, ("HOSTNAME", hostname)))

    main = None if spec.main is None else with_name(spec.main)
    return replace(spec, hostname=hostname, main=main, usual=with_name(spec.usual))


def hosts_text(hostname: str, spec: ContainerSpec) -> str:
    """The container's /etc/hosts."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "127.0.1.1\t" + hostname]
    lines += ["%s\t%s" % (address, name) for name, address in spec.hosts.items()]
    return "\n".join(lines) + "\n"


def resolver_text(spec: ContainerSpec, machine: str) -> str:
    """The container's resolv.conf: the machine's, each kind of line replaced that the spec states. man 5 resolv.conf"""
    if not (spec.dns or spec.dns_search or spec.dns_options):
        return machine
    replaced = {"nameserver": spec.dns, "search": spec.dns_search, "domain": spec.dns_search, "options": spec.dns_options}
    lines = [line for line in machine.splitlines() if not replaced.get(line.split(" ")[0].split("\t")[0])]
    lines += ["nameserver " + one for one in spec.dns]
    if spec.dns_search and spec.dns_search != (".",):
        lines.append("search " + " ".join(spec.dns_search))
    if spec.dns_options:
        lines.append("options " + " ".join(spec.dns_options))
    return "\n".join(lines) + "\n"


def attended(spec: ContainerSpec) -> bool:
    """Whether a container has anything for `attendants` to do."""
    return spec.network == NETWORK_PRIVATE or bool(spec.ports or spec.network_name or spec.health)


def _gpu(spec: ContainerSpec, host: HostFacts) -> Args:
    if spec.gpu == GPU_NONE:
        return ()
    nvidia = spec.gpu == GPU_NVIDIA
    reason = host.nvidia_reason if nvidia else host.rocm_reason
    if reason:
        raise HostUnfit("a GPU was asked for: %s" % reason, remedy="run on a machine with one, or ask for none")
    return ("--nv",) if nvidia else ("--rocm",)


def _placed(spec: ContainerSpec, host: HostFacts, base: str, volumes: str) -> Tuple[Placed, ...]:
    """All mounts, outer before inner; the container's own /tmp and /var/tmp first, on disk, so that they hold what an image may need."""
    targets = {mount.target for mount in spec.mounts}
    if len(targets) != len(spec.mounts):
        raise InputError("two mounts at the same place: %s" % ", ".join(sorted(mount.target for mount in spec.mounts)))
    found: List[Placed] = [
        Placed(os.path.join(base, "fs", name), target, False, ANONYMOUS, fill=True)
        for name, target in (("tmp", "/tmp"), ("var-tmp", "/var/tmp"))
        if target not in targets and not spec.keep
    ]
    if not host.fuse_reason and "/dev/fuse" not in targets:
        found.append(Placed("/dev/fuse", "/dev/fuse", False, BIND))
    for number, mount in enumerate(spec.mounts):
        found.append(_place(mount, number, base, volumes))
    return tuple(sorted(found, key=lambda one: one.target.rstrip("/").count("/")))


def _place(mount: Mount, number: int, base: str, volumes: str) -> Placed:
    if not mount.target.startswith("/") or mount.target.rstrip("/") == "":
        raise InputError("a mount needs an absolute target below /, not %r" % mount.target)
    source, fill = mount.source, False
    if mount.kind == TMPFS:
        source = os.path.join(base, "tmpfs", str(number))
    elif mount.kind == VOLUME:
        source, fill = os.path.join(volumes, mount.source), True
    elif mount.kind == ANONYMOUS:
        source, fill = os.path.join(base, "volumes", str(number)), True
    elif not source.startswith("/"):
        raise InputError("a bind mount needs an absolute source, not %r" % source)
    return Placed(source, os.path.normpath(mount.target), mount.read_only, mount.kind, mount.size, mount.mode, fill, mount.create)


def layer_directory(identity: str, base: str, settings: NodeSettings) -> str:
    """Where the writable layer lies: where the site says, else in the container's own directory."""
    return (
        os.path.join(settings.layers, "gha-apptainer-%d-%s" % (os.geteuid(), identity)) if settings.layers else os.path.join(base, "layer")
    )
