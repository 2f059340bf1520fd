"""How busy a step's GPUs were: asked now and then beside the step, by a child that holds nothing of ours and ends with us."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager

from gha_apptainer.domain.containers import GPU_NONE, GPU_NVIDIA, Args
from gha_apptainer.domain.errors import GhaError, HostUnfit
from gha_apptainer.node import process
from gha_apptainer.node.files import decode, read_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator, List, Mapping, Tuple

QUERY: Args = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")
AMD_CARDS = "/sys/class/drm"
"""Where AMD's driver tells use and memory of each card: https://docs.kernel.org/gpu/amdgpu/thermal.html"""
INTERVAL = 5.0
"""Seconds between two questions."""
_LIMIT = 10.0


@contextmanager
def watched(
    kind: str, path: str, environ: Mapping[str, str], *, query: Args = QUERY, cards: str = AMD_CARDS, interval: float = INTERVAL
) -> Iterator[None]:
    """While it is entered, the use of the GPUs is written to `path`: by NVIDIA's tool, or as AMD's driver tells it for all cards."""
    if kind == GPU_NONE:
        yield
        return
    env = (*process.minimal_env(), *((name, environ[name]) for name in ("CUDA_VISIBLE_DEVICES",) if name in environ))

    def ask() -> bytes:
        return process.run(query, env=env, timeout=_LIMIT).check().stdout if kind == GPU_NVIDIA else amd_use(cards)

    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _watch(parent, path, ask, interval)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def amd_use(cards: str) -> bytes:
    """Use (percent) and memory in use (MiB) of each AMD card, a line each, as NVIDIA's tool prints them. Raises HostUnfit without one."""
    lines = []
    for card in sorted(os.listdir(cards)):
        device = os.path.join(cards, card, "device")
        try:
            busy = decode(read_whole(os.path.join(device, "gpu_busy_percent"))).strip()
            used = int(decode(read_whole(os.path.join(device, "mem_info_vram_used"))))
        except (OSError, ValueError):
            continue  # a card of another maker, or a connector of one
        lines.append("%s, %d\n" % (busy, used >> 20))
    if not lines:
        raise HostUnfit("no card tells its use in %s" % cards)
    return "".join(lines).encode()


def _watch(parent: int, path: str, ask: Callable[[], bytes], interval: float) -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(one, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)  # the step's streams end with the step, whoever still asks
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    while os.getppid() == parent:
        try:
            os.write(handle, ask())
        except (GhaError, OSError):
            return  # a tool that fails once is not asked again
        until = time.monotonic() + interval
        while os.getppid() == parent and time.monotonic() < until:
            time.sleep(0.2)


def use_of(path: str) -> str:
    """What was seen, for the card: mean and highest use over all GPUs and questions; "" where nothing was."""
    try:
        text = decode(read_whole(path, limit=16 << 20))
    except OSError:
        return ""
    seen: List[Tuple[float, float]] = []
    for row in text.splitlines():
        words = row.split(",")
        try:
            seen.append((float(words[0]), float(words[1])))
        except (ValueError, IndexError):
            continue  # "[N/A]", or a line that was being written
    if not seen:
        return ""
    busy = [one[0] for one in seen]
    return "%.0f %% busy on average, %.0f %% at most, %.0f MiB" % (sum(busy) / len(busy), max(busy), max(one[1] for one in seen))
