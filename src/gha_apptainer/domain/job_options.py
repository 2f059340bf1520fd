"""The `options:` of a job container or a service: split as a shell would, read by the one table, then judged by the site's policy."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Callable, List, Mapping, Sequence, Tuple

from gha_apptainer.domain.asked import Asked
from gha_apptainer.domain.containers import Args, Mount
from gha_apptainer.domain.docker_options import ParsedOptions, parse_options
from gha_apptainer.domain.docker_table import OPTIONS
from gha_apptainer.domain.docker_values import size, whole
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.hook_policy import HookPolicy, check_device, rights
from gha_apptainer.domain.values import dataclass, replace

if TYPE_CHECKING:
    from gha_apptainer.domain.docker_values import Reader

JOB, SERVICE = "job container", "service"
_FREE_CAPABILITIES = ("SYS_PTRACE", "CAP_SYS_PTRACE")
_FREE_SECURITY = ("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true", "seccomp=unconfined", "seccomp:unconfined")


@dataclass(frozen=True)
class JobOptions:
    """What the options ask for beyond `asked`.

    `cpus` 0 and `cpuset` "" ask for nothing. `limits` are (name, hard) pairs of ulimits, -1 is unlimited. `network` is "" for the site's
    own choice, else host, none or private. `aliases` are names for the job's network, from `--network-alias`, `--name` and `--hostname`.
    """

    asked: Asked = Asked()
    cpus: float = 0.0
    cpuset: str = ""
    limits: Tuple[Tuple[str, int], ...] = ()
    devices: Args = ()
    network: str = ""
    aliases: Args = ()
    warnings: Args = ()
    notes: Args = ()


def read_options(
    text: str,
    kind: str,
    env: Mapping[str, str],
    policy: HookPolicy,
    *,
    read: Reader,
    memory: int,
    cwd: str = "/",
    device_reason: Callable[[str], str] = lambda _: "",
) -> JobOptions:
    """The options in `text`.

    `env` is the container's own map of variables, which alone gives a bare `-e NAME` its value. `memory` is what this machine or
    allocation has, in bytes; `device_reason` says why a device node cannot be used. Raises InputError and Refused, naming the flag.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise InputError("options: %s" % str(error).lower(), remedy="close every quote in `options:`") from error
    parsed = parse_options(words, OPTIONS, environ=env, read=read, cwd=cwd)
    if parsed.help:
        raise InputError("options: unknown option --help")
    if parsed.positional:
        raise InputError(
            "options: %r is no option" % parsed.positional[0], remedy="options begin with a dash; image and command have keys of their own"
        )
    found = _Reading(parsed, kind, policy)
    return found.options(memory, device_reason)


class _Reading:
    """One reading of parsed options."""

    def __init__(self, parsed: ParsedOptions, kind: str, policy: HookPolicy) -> None:
        self._parsed, self._kind, self._policy = parsed, kind, policy
        self._warnings: List[str] = list(parsed.warnings)
        self._notes: List[str] = []

    def options(self, memory: int, device_reason: Callable[[str], str]) -> JobOptions:
        asked = self._parsed.asked
        if asked.entrypoint is not None and self._kind == JOB:
            self._notes.append("--entrypoint is ignored for the job container: it is only held open, every step brings its own command")
            asked = replace(asked, entrypoint=None)
        self._rights()
        self._memory(memory)
        self._namespaces()
        aliases = [*asked.aliases, asked.name, asked.hostname]
        return JobOptions(
            asked=replace(
                asked, name="", aliases=(), network="", network_name="", remove=False, detach=False, tty=False, interactive=False
            ),
            cpus=self._cpus(),
            cpuset=self._last("cpuset-cpus"),
            limits=self._ulimits(),
            devices=self._devices(device_reason),
            network=self._network(),
            aliases=tuple(dict.fromkeys(one for one in aliases if one)),
            warnings=tuple(dict.fromkeys(self._warnings)),
            notes=tuple(self._notes),
        )

    def _all(self, long: str) -> Args:
        return tuple(self._parsed.given.get("--" + long, ()))

    def _last(self, long: str) -> str:
        return self._parsed.last(long)

    def _rights(self) -> None:
        if self._parsed.has("privileged"):
            self._warnings.append(rights(self._policy, "--privileged", ""))
        for value in self._all("cap-add"):
            if value.upper() not in _FREE_CAPABILITIES:
                self._warnings.append(rights(self._policy, "--cap-add", value))
        for value in self._all("security-opt"):
            if value not in _FREE_SECURITY:
                self._warnings.append(rights(self._policy, "--security-opt", value))
        if self._all("group-add"):
            self._warnings.append("--group-add is ignored: an ordinary user cannot take on other groups")

    def _memory(self, memory: int) -> None:
        text = self._last("memory")
        if not text:
            return
        wanted = size("--memory", text)
        if not memory or wanted < memory:
            self._warnings.append("--memory=%s: not enforced: limits are the batch system's or the machine's" % text)

    def _namespaces(self) -> None:
        for long in ("ipc", "pid", "uts", "userns", "cgroupns"):
            value = self._last(long)
            if value.startswith("container:"):
                raise Refused("--%s=%s cannot be honoured" % (long, value), cause="each container has its own namespace of this kind")
            if value not in ("", "private", "shareable"):
                self._warnings.append("--%s=%s changes nothing: each container has its own namespace of this kind" % (long, value))
        if self._last("restart") not in ("", "no"):
            self._warnings.append("--restart=%s: what ends is not started again" % self._last("restart"))

    def _cpus(self) -> float:
        text = self._last("cpus")
        if not text:
            return 0.0
        try:
            wanted = float(text)
        except ValueError as error:
            raise InputError("--cpus: %r is no number" % text) from error
        if not 0.0 <= wanted < 1e6:
            raise InputError("--cpus: %r is no number of processors" % text)
        self._warnings.append("--cpus=%s: kept by the number of processors that it may run on, not by their time" % text)
        return wanted

    def _ulimits(self) -> Tuple[Tuple[str, int], ...]:
        found = []
        for text in self._all("ulimit"):
            name, equals, value = text.partition("=")
            hard = value.rpartition(":")[2]
            if name not in LIMITS or not equals:
                raise InputError("--ulimit: %r is not understood" % text, remedy="NAME=SOFT[:HARD] with a name of " + ", ".join(LIMITS))
            found.append((name, -1 if hard in ("unlimited", "-1") else whole("--ulimit", hard)))
        return tuple(found)

    def _devices(self, reason: Callable[[str], str]) -> Args:
        found = []
        for text in self._all("device"):
            parts = text.split(":")
            path = parts[0]
            if not path.startswith("/dev/") or "/../" in path + "/" or (len(parts) > 1 and parts[1] != path and parts[1].startswith("/")):
                raise Refused("--device %s cannot be honoured" % text, remedy="name a node below /dev, at its own place")
            check_device(self._policy, path)
            why = reason(path)
            if why:
                raise Refused("--device %s cannot be honoured: %s" % (path, why), remedy="use a machine that has it, or leave it out")
            found.append(path)
        return tuple(found)

    def _network(self) -> str:
        value = self._last("network")
        name = value[5:] if value.startswith("name=") and "," not in value else value
        if not name:
            return ""
        if name.startswith("container:"):
            raise Refused("--network=%s cannot be honoured" % value, remedy="a job's containers find each other by name")
        if name not in ("host", "none", "private"):
            self._warnings.append("--network=%s: there is one network a job, which all its containers share" % value)
            return ""
        if name not in self._policy.networks:
            raise Refused("--network=%s is not allowed on this runner" % name, cause="policy allows: " + ", ".join(self._policy.networks))
        return name


LIMITS: Mapping[str, str] = {
    "core": "RLIMIT_CORE",
    "cpu": "RLIMIT_CPU",
    "data": "RLIMIT_DATA",
    "fsize": "RLIMIT_FSIZE",
    "locks": "RLIMIT_LOCKS",
    "memlock": "RLIMIT_MEMLOCK",
    "msgqueue": "RLIMIT_MSGQUEUE",
    "nice": "RLIMIT_NICE",
    "nofile": "RLIMIT_NOFILE",
    "nproc": "RLIMIT_NPROC",
    "rss": "RLIMIT_RSS",
    "rtprio": "RLIMIT_RTPRIO",
    "rttime": "RLIMIT_RTTIME",
    "sigpending": "RLIMIT_SIGPENDING",
    "stack": "RLIMIT_STACK",
}
"""Docker's names of limits, and the kernel's."""


def processors(options: JobOptions, allowed: Sequence[int]) -> Tuple[Tuple[int, ...], str]:
    """The processors that a container is to run on, and a warning or nothing. Empty processors: all of the job's."""
    chosen, warning = sorted(allowed), ""
    if options.cpuset:
        wanted = _cpu_list(options.cpuset)
        chosen = [one for one in chosen if one in wanted]
        if not chosen:
            chosen = sorted(allowed)
            warning = "--cpuset-cpus=%s: none of these is this job's; it has %s" % (options.cpuset, ",".join(map(str, chosen)))
    if options.cpus:
        count = max(1, int(-(-options.cpus // 1)))
        if count > len(chosen):
            warning = "--cpus=%g: this job has %d processors" % (options.cpus, len(chosen))
        chosen = chosen[:count]
    return (tuple(chosen) if len(chosen) < len(allowed) else ()), warning


def _cpu_list(text: str) -> Tuple[int, ...]:
    found: List[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = whole("--cpuset-cpus", first)
        high = whole("--cpuset-cpus", last) if dash else low
        if high < low or high > 1 << 16:
            raise InputError("--cpuset-cpus: %r is no list of processors" % text, remedy="such as 0-3 or 0,2")
        found += range(low, high + 1)
    return tuple(found)


def device_mounts(options: JobOptions) -> Tuple[Mount, ...]:
    """The device nodes as mounts."""
    return tuple(Mount(source=one, target=one) for one in options.devices)
