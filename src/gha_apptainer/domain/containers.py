"""What a container is made of, before it exists and while it lives.

A `ContainerSpec` is complete and closed: the engine adds nothing to it, looks nothing up beyond the user's row in the
image's own passwd file, and reads no environment variable.
"""

from __future__ import annotations

from gha_apptainer.domain.images import Health, Image
from gha_apptainer.domain.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Tuple

Args = tuple[str, ...]
Env = tuple[tuple[str, str], ...]
"""Environment in order; a name stands once. Names may be anything without `=` and NUL."""

NETWORK_HOST, NETWORK_NONE, NETWORK_PRIVATE = "host", "none", "private"
TCP, UDP = "tcp", "udp"
LOOPBACK = "127.0.0.1"
GPU_NONE, GPU_NVIDIA, GPU_ROCM = "none", "nvidia", "rocm"
BIND, VOLUME, TMPFS, ANONYMOUS = "bind", "volume", "tmpfs", "anonymous"


@dataclass(frozen=True)
class Mount:
    """One thing mounted in a container.

    `kind` is bind (`source` a host path), volume (`source` a name), tmpfs (`source` empty) or anonymous (`source` empty,
    removed with the container). `size` limits a tmpfs, in bytes; 0 is the kernel's default. `create` makes a missing bind
    source as a directory, as `docker run -v` does; without it a missing source is an error.
    """

    source: str
    target: str
    read_only: bool = False
    kind: str = BIND
    size: int = 0
    mode: int = 0o1777
    create: bool = False


@dataclass(frozen=True)
class Port:
    """A port of a container, and where it is published: `container` inside, `host` outside (0: any free one), `address` of the listener.

    With `last` the first free one of `host` to `last` is taken. In a record of a running container `host` is the port that was taken.
    """

    container: int
    host: int = 0
    address: str = LOOPBACK
    protocol: str = TCP
    last: int = 0


@dataclass(frozen=True)
class Owner:
    """What a container belongs to, and so the unit of reaping.

    `scope` is "cli", "action:ID", "hook:ID" or "pod:UID". A foreground container belongs to the process `pid` that started
    at `started` (clock ticks since boot, as /proc/PID/stat has them): when that is gone, so is the container. `pid` 0 means
    that the container outlives the command that made it.
    """

    host: str
    boot_id: str
    scope: str
    pid: int = 0
    started: int = 0


@dataclass(frozen=True)
class ExecRequest:
    """A command to run in a container, main process and every exec alike.

    `user` is "", "name", "uid", "name:group" or "uid:gid"; "" is root. HOME is added from the image's passwd file where `env` has none.
    `create_cwd` makes a missing working directory, as Docker does for a container's main process but not for an exec.
    """

    argv: Args
    env: Env = ()
    cwd: str = "/"
    user: str = ""
    tty: bool = False
    create_cwd: bool = False


@dataclass(frozen=True)
class Stdio:
    """Descriptors for a command's standard streams; -1 is /dev/null."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1


@dataclass(frozen=True)
class ContainerSpec:
    """Everything the engine needs to make one container; `main` None means that it is only held open; `usual` is then
    what an exec starts with that asks for nothing else (environment, directory, user).

    `hosts` maps names to addresses for its /etc/hosts. `gpu` is none, nvidia or rocm. `writable` False mounts the root read-only.
    `remove` deletes container, layer and anonymous volumes when it ends. `interactive` keeps the main process's stdin open.

    `network` host is the machine's own, none has only a loopback of its own, private the same with forwarders between it and the world:
    `ports` are published on the machine, `exposed` are ports that the image says it listens on. Containers with the same `network_name`
    find each other by name, `aliases` and hostname; `address` (127.a.b.c, chosen by the engine) is this one's. `dns`, `dns_search` and
    `dns_options` replace the machine's own lines of resolv.conf. `switch_users` makes gosu, su-exec and setpriv of the image
    really change the user where only one id is mapped.

    `layers` are saved writable layers above the image, the uppermost first. `keep` is where the writable layer goes when the main process
    has ended with 0 (a build): as a layer if the image was covered by one, else as a whole tree; nothing of the engine's own is in it, and
    /tmp and /var/tmp are then the image's.
    """

    image: Image
    owner: Owner
    main: Optional[ExecRequest] = None
    usual: ExecRequest = ExecRequest(())
    mounts: Tuple[Mount, ...] = ()
    hostname: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)
    network: str = NETWORK_HOST
    network_name: str = ""
    aliases: Args = ()
    address: str = ""
    ports: Tuple[Port, ...] = ()
    exposed: Tuple[Port, ...] = ()
    dns: Args = ()
    dns_search: Args = ()
    dns_options: Args = ()
    switch_users: bool = False
    gpu: str = GPU_NONE
    gpu_env: Env = ()
    writable: bool = True
    health: Optional[Health] = None
    stop_signal: str = "SIGTERM"
    labels: Mapping[str, str] = field(default_factory=dict)
    remove: bool = False
    interactive: bool = False
    apptainer_args: Args = ()
    layers: Args = ()
    keep: str = ""


@dataclass(frozen=True)
class ExitStatus:
    """How a command ended, told by the process that waited for it.

    `exit_code` is Docker's (128+n for signal n). `reason` is empty for an ordinary end; otherwise it says what went wrong around it
    ("root file system lost", "unknown"), and `exit_code` is then never 0. `peak_memory` (bytes, largest single process) and
    `cpu_seconds` are the kernel's account of the command and of the children it waited for.
    `ran` is False where the command certainly never started.
    """

    exit_code: int
    signal: int = 0
    oom: bool = False
    started: float = 0.0
    finished: float = 0.0
    reason: str = ""
    peak_memory: int = 0
    cpu_seconds: float = 0.0
    ran: bool = True


CREATED, RUNNING, EXITED = "created", "running", "exited"


@dataclass(frozen=True)
class Reach:
    """How a running container can be reached. `ports` are the published ones, each with the host port that was taken.

    `open` are the TCP ports on which something listens inside just now: they answer at `address` too. `blocked` says, a sentence each,
    which of them do not answer there and why; who needs them must treat that as a failure.
    """

    address: str = ""
    ports: Tuple[Port, ...] = ()
    open: Tuple[int, ...] = ()
    blocked: Args = ()


STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"


@dataclass(frozen=True)
class Probe:
    """One run of a health check: times, exit code (-1: it took too long or could not start), the first 4096 bytes it wrote."""

    started: float
    finished: float
    exit_code: int
    output: str = ""


@dataclass(frozen=True)
class HealthState:
    """What a container's health check has found: starting, healthy or unhealthy, failures in a row, and the last five runs."""

    status: str = STARTING
    failing: int = 0
    log: Tuple[Probe, ...] = ()


@dataclass(frozen=True)
class Container:
    """One container as the engine's records tell it. `pid` is the host pid of its init while it runs, else 0.

    `health` is None where there is no health check.
    """

    id: str
    name: str
    state: str
    spec: ContainerSpec
    created: float
    pid: int = 0
    status: Optional[ExitStatus] = None
    reach: Reach = Reach()
    health: Optional[HealthState] = None


@dataclass(frozen=True)
class LogLine:
    """One line that a container wrote. `stream` is stdout or stderr; `partial` lines end without a newline."""

    time: float
    stream: str
    text: bytes
    partial: bool = False
