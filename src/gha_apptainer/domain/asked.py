"""What a face was asked for: the neutral form that action inputs, Docker flags, hooks and pods are parsed to."""

from __future__ import annotations

from gha_apptainer.domain.containers import Args, Env, Mount, Port
from gha_apptainer.domain.images import PULL_IF_NOT_PRESENT, Health
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

HOST_GATEWAY = "host-gateway"
"""Docker's word for the address of the machine itself."""


@dataclass(frozen=True)
class Asked:
    """One wish for a container. None or empty = the image's own value.

    `env` wins over the image's; `unset_env` names variables of the image that are dropped (Docker's `-e NAME` without a value at the
    caller's).
    `gpu` is none, auto (used if present), any (one of the kinds must be present), nvidia or rocm; `gpu_select` narrows the allocation:
    "" all of it, "count:N" its first N, "device:A,B" these. `platform` is os/architecture, "" this machine's.
    `command` None takes the image's CMD; `entrypoint` None its ENTRYPOINT; an empty tuple clears it.
    `network` is host, none or private, or empty: host, but private where ports are published; `network_name` joins the container to others
    with that name, under `aliases` too. `publish` and `expose` are ports, `publish_all` publishes every exposed one.
    `health` replaces the parts of the image's health check that it states; ("NONE",) as its test switches it off.
    `add_hosts` are name -> address pairs, HOST_GATEWAY being the machine itself. `workdir` missing in the image is created. `hold` asks
    for a container without a main process."""

    image: str = ""
    command: Optional[Args] = None
    entrypoint: Optional[Args] = None
    env: Env = ()
    unset_env: Args = ()
    workdir: str = ""
    user: str = ""
    mounts: Tuple[Mount, ...] = ()
    name: str = ""
    hostname: str = ""
    add_hosts: Tuple[Tuple[str, str], ...] = ()
    network: str = ""
    network_name: str = ""
    aliases: Args = ()
    publish: Tuple[Port, ...] = ()
    publish_all: bool = False
    expose: Tuple[Port, ...] = ()
    dns: Args = ()
    dns_search: Args = ()
    dns_options: Args = ()
    health: Optional[Health] = None
    gpu: str = "none"
    gpu_select: str = ""
    read_only: bool = False
    tty: bool = False
    interactive: bool = False
    detach: bool = False
    remove: bool = False
    init: bool = False
    hold: bool = False
    labels: Tuple[Tuple[str, str], ...] = ()
    stop_signal: str = ""
    pull: str = PULL_IF_NOT_PRESENT
    apptainer_args: Args = ()
    platform: str = ""
