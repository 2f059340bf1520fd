"""The merge of an image and a wish into a container: every face ends here.

The rules are Docker's: https://docs.docker.com/reference/dockerfile/#understand-how-cmd-and-entrypoint-interact for the command,
https://docs.docker.com/reference/cli/docker/container/run/ for the rest. Nothing is read from the machine but what HostFacts and the caller
hand in; whether bind sources exist is told by `check_sources`, which takes the question as a function.
"""

from __future__ import annotations

from gha_apptainer.domain.apptainer_args import ApptainerArgs, parse_apptainer_args
from gha_apptainer.domain.asked import HOST_GATEWAY, Asked
from gha_apptainer.domain.containers import (
    ANONYMOUS,
    BIND,
    GPU_NONE,
    GPU_NVIDIA,
    GPU_ROCM,
    LOOPBACK,
    NETWORK_HOST,
    NETWORK_NONE,
    NETWORK_PRIVATE,
    Args,
    ContainerSpec,
    Env,
    ExecRequest,
    Mount,
    Owner,
    Port,
)
from gha_apptainer.domain.docker_values import signal_name, target
from gha_apptainer.domain.errors import HostUnfit, InputError, Refused
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import Health, Image, OciConfig
from gha_apptainer.domain.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Mapping, Optional, Tuple

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_STOP_SIGNAL = "SIGTERM"
GPU_MASKS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")
"""The variables by which a batch system says which GPUs an allocation has."""

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}


def container_spec(
    image: Image, asked: Asked, host: HostFacts, owner: Owner, *, gpu_masks: Optional[Mapping[str, str]] = None
) -> ContainerSpec:
    """Everything that the engine needs to make the container.

    `gpu_masks` are the allocation's masks (GPU_MASKS, those that are set); a container with a GPU gets them, and can narrow but not widen
    them. Raises InputError for a wish that contradicts itself or names no command, Refused for another platform, HostUnfit for a GPU that
    is asked for by kind and absent.
    """
    check_platform(asked, host)
    extra = parse_apptainer_args(asked.apptainer_args)
    config = image.config
    gpu = _gpu(extra.gpu or asked.gpu, host)
    wanted_env = dict(extra.env + asked.env)
    gpu_env = _gpu_env(gpu, asked.gpu_select, gpu_masks or {}, wanted_env)
    cwd = asked.workdir or extra.workdir or config.workdir or "/"
    usual = ExecRequest(
        argv=() if asked.hold else _argv(config, asked),
        env=_environment(config, asked, tuple(wanted_env.items()), gpu_env),
        cwd=cwd if cwd.startswith("/") else "/" + cwd,
        user=asked.user or config.user,
        tty=asked.tty,
        create_cwd=True,
    )
    network, ports, exposed = _network(config, asked)
    return ContainerSpec(
        image=image,
        owner=owner,
        main=None if asked.hold else usual,
        usual=usual,
        mounts=_mounts(config, asked, extra),
        hostname=asked.hostname,
        hosts=_hosts(asked, network),
        network=network,
        network_name=asked.network_name,
        aliases=asked.aliases,
        ports=ports,
        exposed=exposed,
        dns=asked.dns,
        dns_search=asked.dns_search,
        dns_options=asked.dns_options,
        switch_users=not asked.hold and bool(config.entrypoint if asked.entrypoint is None else asked.entrypoint),
        gpu=gpu,
        gpu_env=gpu_env,
        writable=not asked.read_only,
        health=_health(config.healthcheck, asked.health),
        stop_signal=signal_name(asked.stop_signal or config.stop_signal or DEFAULT_STOP_SIGNAL, "stop signal"),
        labels=dict(config.labels + asked.labels),
        remove=asked.remove,
        interactive=asked.interactive,
    )


def exec_request(spec: ContainerSpec, asked: Asked, argv: Args) -> ExecRequest:
    """A further command in a container, with Docker's rules for exec: what the main process has, unless asked otherwise.

    In a container that is only held open the image's own values take the main process's place. Raises InputError without a command.
    """
    if not argv:
        raise InputError("no command to execute", remedy="gha-apptainer exec CONTAINER COMMAND [ARG…]")
    config = spec.image.config
    main = spec.main or (spec.usual if spec.usual.env else None)
    env = dict(main.env if main is not None else _environment(config, Asked(hostname=spec.hostname), (), spec.gpu_env))
    if asked.tty:
        env.setdefault("TERM", "xterm")
    for name in asked.unset_env:
        env.pop(name, None)
    env.update(asked.env)
    env.update(_clamped(dict(asked.env), dict(spec.gpu_env)))
    return ExecRequest(
        argv=argv,
        env=tuple(env.items()),
        cwd=asked.workdir or (main.cwd if main is not None else config.workdir or "/"),
        user=asked.user or (main.user if main is not None else config.user),
        tty=asked.tty,
    )


def check_platform(asked: Asked, host: HostFacts) -> None:
    """Refuse a platform that is not this machine's: nothing here emulates another. The variant (`linux/arm64/v8`) is not compared."""
    if not asked.platform:
        return
    words = asked.platform.lower().split("/")
    system, machine = (words[0], words[1]) if len(words) > 1 else ("linux", words[0]) if words[0] != "linux" else ("linux", "")
    machine = _MACHINES.get(machine, machine)
    own = _MACHINES.get(host.machine, host.machine)
    if system != "linux" or machine not in ("", own):
        raise Refused(
            "--platform %s cannot be honoured: this machine is linux/%s" % (asked.platform, own), remedy="use a machine of that platform"
        )


def check_sources(mounts: Tuple[Mount, ...], exists: Callable[[str], bool]) -> None:
    """InputError for a bind whose source does not exist and is not to be made."""
    for one in mounts:
        if one.kind == BIND and not one.create and not exists(one.source):
            raise InputError("cannot bind %s on %s: it does not exist" % (one.source, one.target), remedy="create it, or correct the path")


def _argv(config: OciConfig, asked: Asked) -> Args:
    """An entrypoint that was asked for drops the image's CMD, as `docker run --entrypoint` does."""
    if asked.entrypoint is not None:
        argv = asked.entrypoint + (asked.command or ())
    else:
        argv = config.entrypoint + (config.cmd if asked.command is None else asked.command)
    if not argv:
        raise InputError(
            "no command specified",
            cause="the image has neither ENTRYPOINT nor CMD that would be used",
            remedy="name a command after the image",
        )
    return argv


def _environment(config: OciConfig, asked: Asked, wanted: Env, gpu_env: Env) -> Env:
    """Defaults, then the image's, then the asked ones; a name keeps its first place and gets its last value."""
    env: Dict[str, str] = {"PATH": DEFAULT_PATH}
    if asked.hostname:
        env["HOSTNAME"] = asked.hostname
    if asked.tty:
        env["TERM"] = "xterm"
    env.update(config.env)
    for name in asked.unset_env:
        env.pop(name, None)
    env.update(wanted)
    env.update(gpu_env)
    return tuple(env.items())


def _mounts(config: OciConfig, asked: Asked, extra: ApptainerArgs) -> Tuple[Mount, ...]:
    """The asked mounts, checked, and an anonymous volume for each VOLUME of the image that none of them covers."""
    found: List[Mount] = []
    seen: Dict[str, Mount] = {}
    for wish in asked.mounts + extra.mounts:
        one = replace(wish, target=target("mount", wish.target))
        if one.target in seen:
            raise InputError("two mounts on %s" % one.target, remedy="keep one of them")
        if one.kind == BIND and not one.source.startswith("/"):
            raise InputError("mount on %s: %r is no absolute path on the host" % (one.target, one.source))
        seen[one.target] = one
        found.append(one)
    for path in config.volumes:
        inside = target("VOLUME of the image", path if path.startswith("/") else "/" + path)
        if inside not in seen:
            seen[inside] = Mount(source="", target=inside, kind=ANONYMOUS)
            found.append(seen[inside])
    return tuple(found)


def _network(config: OciConfig, asked: Asked) -> Tuple[str, Tuple[Port, ...], Tuple[Port, ...]]:
    """The kind of network, the published and the exposed ports."""
    network = asked.network or (NETWORK_PRIVATE if asked.publish or asked.publish_all else NETWORK_HOST)
    exposed: Dict[Tuple[int, str], Port] = {}
    if config.ports or asked.expose:
        from gha_apptainer.domain.docker_networks import expose

        for text in config.ports:
            exposed.update({(one.container, one.protocol): one for one in expose("EXPOSE of the image", text)})
        exposed.update({(one.container, one.protocol): one for one in asked.expose})
    ports = asked.publish
    if asked.publish_all:
        covered = {(one.container, one.protocol) for one in ports}
        ports += tuple(one for key, one in exposed.items() if key not in covered)
    if ports and network == NETWORK_NONE:
        raise InputError("ports cannot be published from a container without a network", remedy="use --network private")
    if asked.aliases and not asked.network_name:
        raise InputError("names in a network need a network that has a name", remedy="add --network NAME")
    taken = [(one.address, one.host, one.protocol) for one in ports if one.host and not one.last]
    for one in taken:
        if taken.count(one) > 1:
            raise InputError("%s:%d/%s is published twice" % one, remedy="publish each port of the machine once")
    return network, ports, tuple(exposed.values())


def _hosts(asked: Asked, network: str) -> Dict[str, str]:
    """The further lines of /etc/hosts; the machine itself can be named only where its network is the container's."""
    found = dict(asked.add_hosts)
    for name, address in asked.add_hosts:
        if address == HOST_GATEWAY:
            if network != NETWORK_HOST:
                raise Refused(
                    "%s=%s cannot be honoured: a private network has no way to the machine itself" % (name, HOST_GATEWAY),
                    remedy="use --network host",
                )
            found[name] = LOOPBACK
    return found


def _health(image: Optional[Health], asked: Optional[Health]) -> Optional[Health]:
    """The health check to run: the image's, with what was asked for in its place. None if there is none."""
    found = image
    if asked is not None:
        base = image or Health(())
        found = Health(
            asked.test or base.test,
            asked.interval or base.interval,
            asked.timeout or base.timeout,
            asked.start_period or base.start_period,
            asked.retries or base.retries,
            asked.start_interval or base.start_interval,
        )
    if found is None or not found.test or found.test[0] == "NONE":
        return None
    if found.test[0] not in ("CMD", "CMD-SHELL") or len(found.test) < 2:
        raise InputError("the health check %r is not understood" % (found.test,), remedy="use --health-cmd, or --no-healthcheck")
    return found


def _gpu(wish: str, host: HostFacts) -> str:
    nvidia, rocm = host.nvidia_reason, host.rocm_reason
    if wish in (GPU_NVIDIA, GPU_ROCM):
        reason = nvidia if wish == GPU_NVIDIA else rocm
        if reason:
            raise HostUnfit(
                "a GPU was asked for (%s), but: %s" % (wish, reason), remedy="run on a node with such a GPU, or do not ask for one"
            )
        return wish
    if wish in ("auto", "any"):
        if not nvidia:
            return GPU_NVIDIA
        if not rocm:
            return GPU_ROCM
        if wish == "any":
            raise HostUnfit("a GPU was asked for, but: %s; %s" % (nvidia, rocm), remedy="run on a node with a GPU, or do not ask for one")
        return GPU_NONE
    if wish != GPU_NONE:
        raise InputError("unknown GPU kind %r" % wish, remedy="use none, auto, any, nvidia or rocm")
    return GPU_NONE


def _gpu_env(gpu: str, select: str, masks: Mapping[str, str], wanted: Mapping[str, str]) -> Env:
    """The masks of a container with a GPU: the allocation's, narrowed by `select` and by what the environment asks for."""
    if gpu == GPU_NONE:
        return ()
    allocated = {name: masks[name] for name in GPU_MASKS if name in masks}
    if select:
        own = ("CUDA_VISIBLE_DEVICES",) if gpu == GPU_NVIDIA else ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
        name = next((one for one in own if one in allocated), own[0])
        allocated[name] = _selected(select, allocated.get(name))
    allocated.update(_clamped(wanted, allocated))
    return tuple(allocated.items())


def _selected(select: str, mask: Optional[str]) -> str:
    """A mask narrowed by `count:N` or `device:A,B`. An index counts within the mask, a UUID must stand in it."""
    kind, _, text = select.partition(":")
    have = None if mask is None else [one for one in mask.split(",") if one]
    if kind == "count":
        count = int(text)
        if have is None:
            if count > 1:
                raise Refused("%d GPUs cannot be chosen: nothing says which GPUs this job has" % count, remedy="use all, or device=0,1")
            have = ["0"]
        if count > len(have):
            raise HostUnfit(
                "%d GPUs were asked for, the allocation has %d (%s)" % (count, len(have), mask), remedy="ask the batch system for more"
            )
        return ",".join(have[:count])
    chosen = []
    for one in text.split(","):
        if have is None or (one in have and not one.isdigit()):
            chosen.append(one)
        elif one.isdigit() and int(one) < len(have):
            chosen.append(have[int(one)])
        else:
            raise HostUnfit("GPU %s was asked for, the allocation has %s" % (one, mask or "none"), remedy="ask the batch system for it")
    return ",".join(chosen)


def _clamped(wanted: Mapping[str, str], allocated: Mapping[str, str]) -> Dict[str, str]:
    """For each mask: what is wanted where it is part of the allocation's, else the allocation's own."""
    found = {}
    for name, mask in allocated.items():
        want = wanted.get(name)
        narrower = want is not None and set(want.split(",")) <= set(mask.split(",")) | {""}
        found[name] = want if want is not None and narrower else mask
    return found
