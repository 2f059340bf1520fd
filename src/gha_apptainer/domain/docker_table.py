"""The one table of Docker's flags: what each is called, what it takes, and how far it is honoured.

It serves the docker-like verbs, the `options:` of workflows, the help texts and the page docs/reference/docker-options.md. A flag that
Docker knows is here even when it is refused, so that the refusal can name it and say why. Names and spelling are Docker 28's:
https://docs.docker.com/reference/cli/docker/container/run/.
"""

from __future__ import annotations

from gha_apptainer.domain import docker_values as values
from gha_apptainer.domain.asked import HOST_GATEWAY
from gha_apptainer.domain.containers import NETWORK_PRIVATE, TMPFS, Mount, Port
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.images import PULL_ALWAYS, PULL_IF_NOT_PRESENT, PULL_NEVER
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

    from gha_apptainer.domain.docker_values import Reader

HONOURED, APPROXIMATE, REFUSED = "honoured", "approximate", "refused"

RUN, CREATE, EXEC, START, STOP, KILL = "run", "create", "exec", "start", "stop", "kill"
REMOVE, PS, LOGS, INSPECT, WAIT = "rm", "ps", "logs", "inspect", "wait"
VERBS = (RUN, CREATE, START, EXEC, STOP, KILL, REMOVE, PS, LOGS, INSPECT, WAIT)
"""The docker-like verbs."""
MAKING = (RUN, CREATE)
OPTIONS = "options"
"""The pseudo-verb under which the `options:` of workflows are read."""


class Draft:
    """What the options said so far; `asked` collects fields of Asked, `given` the verb's own options by long name."""

    def __init__(self, environ: Mapping[str, str], read: Reader, cwd: str) -> None:
        self.environ = environ
        self.read = read
        self.cwd = cwd
        self.asked: Dict[str, Any] = {}
        self.given: Dict[str, List[str]] = {}
        self.file_env: List[Tuple[str, Optional[str]]] = []
        self.env: List[Tuple[str, Optional[str]]] = []
        self.file_labels: List[Tuple[str, str]] = []
        self.labels: List[Tuple[str, str]] = []
        self.mounts: List[Mount] = []
        self.hosts: List[Tuple[str, str]] = []
        self.shm: Optional[Mount] = None
        self.publish: List[Port] = []
        self.expose: List[Port] = []
        self.aliases: List[str] = []
        self.lists: Dict[str, List[str]] = {}
        self.health: Dict[str, Any] = {}
        self.warnings: List[str] = []

    def warn(self, text: str) -> None:
        """Note an approximation, once."""
        if text not in self.warnings:
            self.warnings.append(text)


NO_WAY_OUT = "its containers reach each other and are reached by published ports; there is no way from them to other machines"

if TYPE_CHECKING:
    Apply = Callable[[Draft, str, str], None]
    """Takes the draft, the flag as the person wrote it, and its value ("true" or "false" for a switch)."""


@dataclass(frozen=True)
class Option:
    """One row. `value` is the name of what it takes, "" for a switch. `note` is the approximation, or the reason of a refusal.

    Without `apply` an honoured option is the verb's own and kept in `given`.
    """

    long: str
    help: str
    short: str = ""
    value: str = ""
    repeatable: bool = False
    verbs: Tuple[str, ...] = MAKING
    treatment: str = HONOURED
    note: str = ""
    aliases: Tuple[str, ...] = ()
    apply: Optional[Apply] = None

    @property
    def flag(self) -> str:
        """The long spelling with its dashes."""
        return "--" + self.long


def _ignore(_draft: Draft, _flag: str, _value: str) -> None:
    """Already so."""


def _text(name: str) -> Apply:
    def apply(draft: Draft, _flag: str, value: str) -> None:
        draft.asked[name] = value

    return apply


def _switch(name: str) -> Apply:
    def apply(draft: Draft, _flag: str, value: str) -> None:
        draft.asked[name] = value == "true"

    return apply


def _only(accepted: Tuple[str, ...], reason: str) -> Apply:
    """Of all values only those that describe what happens anyway."""

    def apply(_draft: Draft, flag: str, value: str) -> None:
        if value not in accepted:
            remedy = "accepted: " + ", ".join(one or "the empty text" for one in accepted)
            raise Refused("%s=%s cannot be honoured: %s" % (flag, value, reason), remedy=remedy)

    return apply


def _name(draft: Draft, flag: str, value: str) -> None:
    if not values.is_name(value):
        raise InputError("%s: %r is no name" % (flag, value), remedy="two or more of a-z A-Z 0-9 _ . -, beginning with a letter or digit")
    draft.asked["name"] = value


def _env(draft: Draft, flag: str, value: str) -> None:
    name, equals, text = value.partition("=")
    if not name:
        raise InputError("%s: %r has no name before the `=`" % (flag, value), remedy="write NAME=VALUE, or NAME for the caller's own value")
    draft.env.append((name, text if equals else draft.environ.get(name)))


def _env_file(draft: Draft, flag: str, value: str) -> None:
    draft.file_env += values.key_values(flag, value, draft.read, draft.environ)


def _label(draft: Draft, flag: str, value: str) -> None:
    name, _, text = value.partition("=")
    if not name:
        raise InputError("%s: %r has no name before the `=`" % (flag, value))
    draft.labels.append((name, text))


def _label_file(draft: Draft, flag: str, value: str) -> None:
    draft.file_labels += [(name, text or "") for name, text in values.key_values(flag, value, draft.read, None)]


def _volume(draft: Draft, flag: str, value: str) -> None:
    draft.mounts.append(values.volume(flag, value, draft.cwd, draft.warn))


def _mount(draft: Draft, flag: str, value: str) -> None:
    draft.mounts.append(values.mount(flag, value, draft.cwd, draft.warn))


def _tmpfs(draft: Draft, flag: str, value: str) -> None:
    draft.mounts.append(values.tmpfs(flag, value, draft.warn))


_SHM = "/dev/shm"  # a mount point inside, not a file of ours


def _shm_size(draft: Draft, flag: str, value: str) -> None:
    draft.shm = Mount(source="", target=_SHM, kind=TMPFS, size=values.size(flag, value)) if value != "0" else None


def _workdir(draft: Draft, flag: str, value: str) -> None:
    if not value.startswith("/"):
        raise InputError("%s: %r is no absolute path in the container" % (flag, value))
    draft.asked["workdir"] = value


def _user(draft: Draft, flag: str, value: str) -> None:
    user, colon, group = value.partition(":")
    if (colon and not (user and group)) or ":" in group:
        raise InputError("%s: %r is no user" % (flag, value), remedy="write name, uid, name:group or uid:gid")
    draft.asked["user"] = value


def _entrypoint(draft: Draft, _flag: str, value: str) -> None:
    draft.asked["entrypoint"] = (value,) if value else ()


def _hostname(draft: Draft, flag: str, value: str) -> None:
    labels = value.split(".")
    if (
        len(value) > 63
        or not value.isascii()
        or not all(one and one[0] != "-" and one[-1] != "-" and one.replace("-", "").replace("_", "").isalnum() for one in labels)
    ):
        raise InputError("%s: %r is no host name" % (flag, value), remedy="at most 63 letters, digits, dots and dashes")
    draft.asked["hostname"] = value


_GPU_KINDS = {"nvidia": "nvidia", "rocm": "rocm", "amd": "rocm", "auto": "auto", "none": "none"}


def _gpus(draft: Draft, flag: str, value: str) -> None:
    gpu, select = "any", ""
    for field in values.csv_fields(flag, value):
        key, equals, text = field.partition("=")
        if not equals and select.startswith("device:"):
            select += "," + field  # `device=0,1` without the quotes that CSV wants
        elif (not equals and (key == "all" or key.isdigit())) or key == "count":
            number = text if equals else key
            select = "" if number in ("all", "-1") else "count:%d" % values.whole(flag, number)
        elif equals and key == "device" and text:
            select = "device:" + text
        elif (key == "driver" and text in _GPU_KINDS) or (not equals and key in _GPU_KINDS):
            gpu = _GPU_KINDS[text or key]
        elif key != "capabilities":  # the driver's libraries are bound as a whole
            raise InputError(
                "%s: %r not understood in %r" % (flag, field, value), remedy="all, a number, device=0,1, nvidia, rocm, auto or none"
            )
    if select == "count:0":
        gpu, select = "none", ""
    if select:
        draft.warn("%s: the devices are chosen by the visible-devices variables; the others' device nodes stay reachable" % flag)
    draft.asked["gpu"], draft.asked["gpu_select"] = gpu, select


def _network(draft: Draft, flag: str, value: str) -> None:
    from gha_apptainer.domain import docker_networks as networks  # here and below: a command that asks for none need not load it

    kind, name, aliases = networks.network(flag, value)
    if kind == NETWORK_PRIVATE and value != NETWORK_PRIVATE:
        draft.warn("%s=%s: %s" % (flag, value, NO_WAY_OUT))
    draft.asked["network"], draft.asked["network_name"] = kind, name
    draft.aliases += aliases


def _network_alias(draft: Draft, flag: str, value: str) -> None:
    from gha_apptainer.domain import docker_networks as networks

    draft.aliases.append(networks.alias(flag, value))


def _publish(draft: Draft, flag: str, value: str) -> None:
    from gha_apptainer.domain import docker_networks as networks

    draft.publish += networks.publish(flag, value)


def _expose(draft: Draft, flag: str, value: str) -> None:
    from gha_apptainer.domain import docker_networks as networks

    draft.expose += networks.expose(flag, value)


def _name_server(draft: Draft, flag: str, value: str) -> None:
    import ipaddress

    try:
        draft.lists.setdefault("dns", []).append(str(ipaddress.ip_address(value)))
    except ValueError as error:
        raise InputError("%s: %r is no IP address" % (flag, value)) from error


def _word_of(name: str) -> Apply:
    """A word for a line of resolv.conf."""

    def apply(draft: Draft, flag: str, value: str) -> None:
        if not value or not value.isprintable() or " " in value:
            raise InputError("%s: %r is no single word" % (flag, value))
        draft.lists.setdefault(name, []).append(value)

    return apply


def _health_command(draft: Draft, _flag: str, value: str) -> None:
    draft.health["test"] = ("CMD-SHELL", value) if value else ()


def _health_time(name: str) -> Apply:
    def apply(draft: Draft, flag: str, value: str) -> None:
        from gha_apptainer.domain import docker_networks as networks

        draft.health[name] = networks.duration(flag, value)

    return apply


def _health_retries(draft: Draft, flag: str, value: str) -> None:
    draft.health["retries"] = values.whole(flag, value)


def _no_health(draft: Draft, _flag: str, value: str) -> None:
    draft.health["off"] = value == "true"


def _add_host(draft: Draft, flag: str, value: str) -> None:
    import ipaddress  # only here: it is slow to load

    name, mark, address = value.partition("=" if "=" in value else ":")
    address = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        if address != HOST_GATEWAY:
            ipaddress.ip_address(address)
    except ValueError as error:
        raise InputError("%s: %r has no IP address" % (flag, value), remedy="write name:address") from error
    if not name or not mark or any(letter in " \t\n#" for letter in name):
        raise InputError("%s: %r has no host name" % (flag, value), remedy="write name:address")
    draft.hosts.append((name, address))


def _stop_signal(draft: Draft, flag: str, value: str) -> None:
    draft.asked["stop_signal"] = values.signal_name(value, flag)


_PULL = {
    "always": PULL_ALWAYS,
    "missing": PULL_IF_NOT_PRESENT,
    PULL_IF_NOT_PRESENT: PULL_IF_NOT_PRESENT,
    "never": PULL_NEVER,
    "": PULL_IF_NOT_PRESENT,
}


def _pull(draft: Draft, flag: str, value: str) -> None:
    if value not in _PULL:
        raise InputError("%s: unknown policy %r" % (flag, value), remedy="use always, missing or never")
    draft.asked["pull"] = _PULL[value]


_LIMITS = "limits belong to the batch system or the machine's administrator, a container here cannot set them"
_RIGHTS = "a container never has more rights than the user who starts it"
_NET = "a network here has names and forwarded ports, but no interfaces with addresses of their own"
_LOGGING = "a container's output is kept by its monitor, in one form"
_WINDOWS = "it is for Windows"
_GROUPS = "an ordinary user cannot take on other groups"
_NAMESPACE = "each container has its own namespace of this kind"


def _no(
    long: str, reason: str, *, value: str = "VALUE", short: str = "", verbs: Tuple[str, ...] = MAKING, aliases: Tuple[str, ...] = ()
) -> Option:
    return Option(long, "", short, value, True, verbs, REFUSED, reason, aliases)


_HONOURED = (
    Option("add-host", "add a line to /etc/hosts", "", "NAME:ADDRESS", True, apply=_add_host),
    Option("detach", "leave it running and print its id", "d", verbs=(RUN,), apply=_switch("detach")),
    Option("entrypoint", "replace the image's ENTRYPOINT and drop its CMD; empty clears it", "", "PROGRAM", apply=_entrypoint),
    Option(
        "env",
        "set a variable; a bare NAME takes the caller's value, and drops the image's where there is none",
        "e",
        "NAME[=VALUE]",
        True,
        (RUN, CREATE, EXEC),
        apply=_env,
    ),
    Option(
        "env-file",
        "read variables from a file of NAME=VALUE lines, without quoting",
        "",
        "FILE",
        True,
        (RUN, CREATE, EXEC),
        apply=_env_file,
    ),
    Option("gpus", "give GPUs: all, a number, device=0,1; also nvidia, rocm, auto; an error where there are none", "", "GPUS", apply=_gpus),
    Option("hostname", "the container's host name", "h", "NAME", apply=_hostname),
    Option("init", "an init that reaps processes; there always is one", apply=_switch("init")),
    Option("interactive", "keep stdin open", "i", verbs=(RUN, CREATE, EXEC), apply=_switch("interactive")),
    Option("ipc", "the IPC namespace: always private", "", "MODE", apply=_only(("", "private"), _NAMESPACE)),
    Option("label", "set a label", "l", "NAME[=VALUE]", True, apply=_label),
    Option("label-file", "read labels from a file of NAME=VALUE lines", "", "FILE", True, apply=_label_file),
    Option("mount", "mount something: type=bind|volume|tmpfs,source=…,target=…[,readonly]", "", "MOUNT", True, apply=_mount),
    Option("name", "the container's name", "", "NAME", apply=_name),
    Option("dns", "a name server for resolv.conf, instead of the machine's", "", "ADDRESS", True, apply=_name_server),
    Option("dns-option", "an option for resolv.conf", "", "OPTION", True, aliases=("dns-opt",), apply=_word_of("dns_options")),
    Option("dns-search", "a search domain for resolv.conf; `.` for none", "", "DOMAIN", True, apply=_word_of("dns_search")),
    Option(
        "expose", "a port that the container listens on, for -P and for its network: 80, 53/udp, 7000-7009", "", "PORT", True, apply=_expose
    ),
    Option("health-cmd", "a command for the shell that says whether the container is healthy", "", "COMMAND", apply=_health_command),
    Option("health-interval", "the time between two checks (30s)", "", "DURATION", apply=_health_time("interval")),
    Option("health-retries", "so many failures in a row make it unhealthy (3)", "", "N", apply=_health_retries),
    Option(
        "health-start-interval", "the time between two checks while it starts (5s)", "", "DURATION", apply=_health_time("start_interval")
    ),
    Option(
        "health-start-period", "failures do not count for so long after the start (0s)", "", "DURATION", apply=_health_time("start_period")
    ),
    Option("health-timeout", "a check that takes longer has failed (30s)", "", "DURATION", apply=_health_time("timeout")),
    Option(
        "network",
        "the network: host (the default), none, private (or bridge: loopback only, ports forwarded), or a name that containers share",
        "",
        "NETWORK",
        aliases=("net",),
        apply=_network,
    ),
    Option("network-alias", "a further name in its network", "", "NAME", True, aliases=("net-alias",), apply=_network_alias),
    Option("no-healthcheck", "do not run the image's health check", apply=_no_health),
    Option(
        "publish",
        "forward a port of this machine to one of the container: [ADDRESS:][HOST:]CONTAINER[/udp]; 127.0.0.1 and a free port unless said",
        "p",
        "PORT",
        True,
        apply=_publish,
    ),
    Option("publish-all", "publish every exposed port on a free one of this machine", "P", apply=_switch("publish_all")),
    Option("pid", "the PID namespace: always its own", "", "MODE", apply=_only(("", "private"), _NAMESPACE)),
    Option("platform", "the platform of the image: only this machine's own", "", "OS/ARCH", apply=_text("platform")),
    Option("pull", "when to ask the registry: always, missing or never", "", "POLICY", apply=_pull),
    Option("quiet", "say nothing about the image", "q"),
    Option("read-only", "make the root filesystem read-only", apply=_switch("read_only")),
    Option(
        "restart",
        "only no: nothing outlives a container to start it again",
        "",
        "POLICY",
        apply=_only(("", "no"), "nothing outlives a container to start it again"),
    ),
    Option("rm", "remove the container and its anonymous volumes when it ends", apply=_switch("remove")),
    Option(
        "security-opt",
        "only no-new-privileges, which always holds",
        "",
        "OPTION",
        True,
        apply=_only(("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"), _RIGHTS),
    ),
    Option("shm-size", "the size of /dev/shm", "", "BYTES", apply=_shm_size),
    Option("sig-proxy", "pass signals on to the process: always", verbs=(RUN,), apply=_only(("true",), "signals are always passed on")),
    Option("stop-signal", "the signal that asks it to end", "", "SIGNAL", apply=_stop_signal),
    Option("tmpfs", "mount a tmpfs: /path[:size=64m,mode=1777,ro]", "", "PATH[:OPTIONS]", True, apply=_tmpfs),
    Option("tty", "give it a terminal", "t", verbs=(RUN, CREATE, EXEC), apply=_switch("tty")),
    Option("user", "the user inside, by name or number", "u", "USER[:GROUP]", verbs=(RUN, CREATE, EXEC), apply=_user),
    Option("uts", "the UTS namespace: always its own", "", "MODE", apply=_only(("", "private"), _NAMESPACE)),
    Option("volume", "mount a host path, a named or an anonymous volume", "v", "[SOURCE:]TARGET[:OPTIONS]", True, apply=_volume),
    Option("workdir", "the working directory inside", "w", "DIRECTORY", verbs=(RUN, CREATE, EXEC), apply=_workdir),
    Option(
        "disable-content-trust",
        "signatures of images are not checked",
        treatment=APPROXIMATE,
        note="Docker's content trust does not exist here; pin a digest instead",
        apply=_ignore,
    ),
)

_REFUSED = (
    _no("annotation", "annotations are for OCI runtimes, and there is none here"),
    _no("attach", "a container that is started in the foreground has all its streams", short="a", value="STREAM"),
    _no("blkio-weight", _LIMITS),
    _no("blkio-weight-device", _LIMITS),
    _no("cap-add", _RIGHTS),
    _no("cap-drop", "the set of capabilities is fixed: Docker's default, within the user's own rights"),
    _no("cgroup-parent", _LIMITS),
    _no("cgroupns", _LIMITS),
    _no("cidfile", "`gha-apptainer create` and `run -d` print the id: write it where you need it"),
    _no("cpu-count", _WINDOWS),
    _no("cpu-percent", _WINDOWS),
    _no("cpu-period", _LIMITS),
    _no("cpu-quota", _LIMITS),
    _no("cpu-rt-period", _LIMITS),
    _no("cpu-rt-runtime", _LIMITS),
    _no("cpu-shares", _LIMITS, short="c"),
    _no("cpus", _LIMITS),
    _no("cpuset-cpus", _LIMITS),
    _no("cpuset-mems", _LIMITS),
    _no("detach-keys", "a terminal is left by ending its command", verbs=(RUN, EXEC, START)),
    _no("device", "device nodes are not handed out; for GPUs use --gpus, for a device that your user may open bind it with -v"),
    _no("device-cgroup-rule", _RIGHTS),
    _no("device-read-bps", _LIMITS),
    _no("device-read-iops", _LIMITS),
    _no("device-write-bps", _LIMITS),
    _no("device-write-iops", _LIMITS),
    _no("domainname", "there is no NIS domain in a container; put the domain in --hostname"),
    _no("group-add", _GROUPS),
    _no("io-maxbandwidth", _WINDOWS),
    _no("io-maxiops", _WINDOWS),
    _no("ip", _NET),
    _no("ip6", _NET),
    _no("isolation", _WINDOWS),
    _no("kernel-memory", _LIMITS),
    _no("link", "give both containers the same --network NAME: they find each other by name and --network-alias"),
    _no("link-local-ip", _NET),
    _no("log-driver", _LOGGING),
    _no("log-opt", _LOGGING),
    _no("mac-address", _NET),
    _no("memory", _LIMITS, short="m"),
    _no("memory-reservation", _LIMITS),
    _no("memory-swap", _LIMITS),
    _no("memory-swappiness", _LIMITS),
    _no("oom-kill-disable", _LIMITS, value=""),
    _no("oom-score-adj", _LIMITS),
    _no("pids-limit", _LIMITS),
    _no("privileged", _RIGHTS, value="", verbs=(RUN, CREATE, EXEC)),
    _no("runtime", "there is one engine: Apptainer"),
    _no("stop-timeout", "say it when you stop it: `gha-apptainer stop -t SECONDS`"),
    _no("storage-opt", "where layers lie is the site's setting"),
    _no("sysctl", _RIGHTS),
    _no("ulimit", "a container has the limits of the user who starts it, raised as far as that user may"),
    _no("use-api-socket", "there is no Docker daemon whose socket could be given", value=""),
    _no("userns", "each container has its own user namespace"),
    _no("volume-driver", "volumes are directories of this machine"),
    _no("volumes-from", "name the volumes with -v in both containers"),
    _no("detach", "a command that nobody waits for has no exit code; start it in a shell with &", value="", short="d", verbs=(EXEC,)),
    _no("checkpoint", "containers cannot be checkpointed", verbs=(START,)),
    _no("checkpoint-dir", "containers cannot be checkpointed", verbs=(START,)),
    _no("link", "containers have no links", value="", short="l", verbs=(REMOVE,)),
    _no("size", "sizes are not kept", value="", short="s", verbs=(PS, INSPECT)),
    _no("details", "log lines carry no attributes", value="", verbs=(LOGS,)),
    _no("since", "print --timestamps and cut there", verbs=(LOGS,)),
    _no("until", "print --timestamps and cut there", verbs=(LOGS,)),
)

_OWN = (
    Option("attach", "show its output, pass signals on and wait for its end", "a", verbs=(START,)),
    Option("interactive", "pass stdin on as well", "i", verbs=(START,)),
    Option("signal", "the signal to send", "s", "SIGNAL", verbs=(STOP, KILL)),
    Option("timeout", "seconds before it is killed (10)", "t", "SECONDS", verbs=(STOP,), aliases=("time",)),
    Option("force", "kill it first if it runs", "f", verbs=(REMOVE,)),
    Option("volumes", "its anonymous volumes go with it; this changes nothing", "v", verbs=(REMOVE,)),
    Option("all", "show those that do not run as well", "a", verbs=(PS,)),
    Option("filter", "show those with id=, name=, label=, status=, health=, network= or ancestor=", "f", "KEY=VALUE", True, (PS,)),
    Option("format", "table or json; templates are not understood", "", "FORMAT", verbs=(PS,)),
    Option("format", "only json, which it is anyway; templates are not understood", "f", "FORMAT", verbs=(INSPECT,)),
    Option("json", "one JSON document", verbs=(PS, INSPECT)),
    Option("last", "show the last N, running or not", "n", "N", verbs=(PS,)),
    Option("latest", "show the last one, running or not", "l", verbs=(PS,)),
    Option("no-trunc", "show ids and commands whole", verbs=(PS,)),
    Option("quiet", "show ids only", "q", verbs=(PS,)),
    Option("follow", "go on until the container ends", "f", verbs=(LOGS,)),
    Option("tail", "only the last N lines (all)", "n", "N", verbs=(LOGS,)),
    Option("timestamps", "put the time before each line", "t", verbs=(LOGS,)),
    Option(
        "type", "only container", "", "TYPE", verbs=(INSPECT,), apply=_only(("", "container"), "only containers are known by these verbs")
    ),
)

TABLE: Tuple[Option, ...] = _HONOURED + _OWN + _REFUSED


def options_of(verb: str) -> Tuple[Option, ...]:
    """The rows of one verb. `options` is what a workflow's `options:` may say: create's rows, but for those that a job reads otherwise."""
    if verb == OPTIONS:
        from gha_apptainer.domain.docker_jobs import ROWS  # no verb of the command line waits for these

        own = {row.long for row in ROWS}
        return ROWS + tuple(row for row in TABLE if CREATE in row.verbs and row.long not in own)
    return tuple(row for row in TABLE if verb in row.verbs)
