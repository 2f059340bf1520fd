"""What a face was asked for: the neutral form that action inputs, Docker flags, hooks and pods are parsed to."""

from __future__ import annotations

from gha_apptainer.domain.containers import NETWORK_HOST, Args, Env, Mount
from gha_apptainer.domain.images import PULL_IF_NOT_PRESENT
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple


@dataclass(frozen=True)
class Asked:
    """One wish for a container. None or empty = the image's own value.

    `env` wins over the image's; `unset_env` names variables of the image that are dropped (Docker's `-e NAME` without a value at the
    caller's).
    `gpu` is none, auto (used if present), any (one of the kinds must be present), nvidia or rocm; `gpu_select` narrows the allocation:
    "" all of it, "count:N" its first N, "device:A,B" these. `platform` is os/architecture, "" this machine's.
    `command` None takes the image's CMD; `entrypoint` None its ENTRYPOINT; an empty tuple clears it.
    `add_hosts` are name -> address pairs. `workdir` missing in the image is created. `hold` asks for a container without a main process.
    """

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
    network: str = NETWORK_HOST
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
