"""What is decided before a container starts, once its record is there: how its root comes about, and everything that Apptainer is told.

The monitor's process does this; whatever is refused here reaches the caller as an error of the same class.
"""

from __future__ import annotations

import os

from gha_apptainer.domain.containers import ContainerSpec
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import SIF
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass, replace
from gha_apptainer.node import files
from gha_apptainer.node.engine import layers, starting
from gha_apptainer.node.engine.records import Records
from gha_apptainer.node.images.filesystems import NETWORK, measure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Tuple


_NO_ROOT = layers.RootPlan("", "", False)
_NO_START = starting.StartPlan("", (), (), (), False, False)


@dataclass(frozen=True)
class Job:
    """What a monitor does; `attached` ties the container to the channel. What has a default here is for `decide` to say."""

    identity: str
    spec: ContainerSpec
    attached: bool
    root: layers.RootPlan = _NO_ROOT
    start: starting.StartPlan = _NO_START
    layer: str = ""
    fresh_proc: bool = True


class Looks:
    """What is looked at on the machine, and not in facts or settings."""

    def nature(self, path: str) -> str:
        """What kind of storage a path lies on."""
        return measure(path).nature

    def overlay_reason(self, upper_parent: str, lower: str, host: HostFacts) -> str:
        """Why the kernel's overlay does not work there; empty if it does."""
        from gha_apptainer.node.host import overlay_probe

        return overlay_probe(upper_parent, lower, host)

    def sif_offset(self, path: str) -> int:
        """Where a SIF's squashfs begins."""
        from gha_apptainer.node.images.sif import read_sif

        return read_sif(path).offset


def decide(job: Job, records: Records, host: HostFacts, settings: NodeSettings, looks: Looks, *, tell: Callable[[str], None]) -> Job:
    """Everything that can be known before the first mount; makes the layer's directory, and its image file where one is needed.

    `tell` hears of what costs time or space that nobody asked for. Raises HostUnfit, Refused, InputError or DiskFull.
    """
    identity, spec = job.identity, job.spec
    base = records.path(identity)
    layer = starting.layer_directory(identity, base, settings)
    if os.path.dirname(layer) != base:
        records.write(identity, "layer.path", layer)  # first: what is written down can be found again after a kill
    os.makedirs(layer, mode=0o700, exist_ok=True)
    foreign = layers.foreign_owner(spec.image, host)
    lower = "" if spec.image.form == SIF else spec.image.rootfs
    memory, image_file = _layer_place(layer, host, settings, looks.nature(layer), tell)
    root = layers.plan_root(
        spec.image,
        host,
        offset=looks.sif_offset(spec.image.rootfs) if spec.image.form == SIF else 0,
        foreign=foreign,
        overlay_reason="" if foreign or image_file else looks.overlay_reason("/dev/shm" if memory else layer, lower, host),
        memory=memory,
        image_file=image_file,
        above=spec.layers,
    )
    plan = starting.plan_start(spec, host, base, os.path.join(records.state, "volumes"), _resolv_conf())
    return replace(job, root=root, start=plan, layer=layer, fresh_proc=not host.proc_reason)


def _layer_place(layer: str, host: HostFacts, settings: NodeSettings, nature: str, tell: Callable[[str], None]) -> Tuple[int, bool]:
    """Bytes of memory for the writable layer, and whether it is in an image file, which is then there; else it lies as it is."""
    if nature != NETWORK:
        return 0, False
    from gha_apptainer.node.engine import layer_image

    if layer_image.kept(layer, host):
        return 0, True
    memory = layers.layer_memory(nature, settings.layer_memory, layers.available_memory())
    if memory or not settings.layer_image_bytes:
        return memory, False
    reason = layer_image.make(layer, settings.layer_image_bytes, host, tell)
    if reason:
        tell("the writable layer lies on network storage as it is: " + reason)
    return 0, not reason


def _resolv_conf() -> str:
    try:
        return files.decode(files.read_whole("/etc/resolv.conf", limit=1 << 20))
    except OSError:
        return ""
