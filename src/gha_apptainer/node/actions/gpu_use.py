"""How busy a step's GPUs were: asked now and then beside the step, by a child that holds nothing of ours and ends with us."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager

from gha_apptainer.domain.containers import GPU_NVIDIA, Args
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node import process
from gha_apptainer.node.files import decode, read_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, List, Mapping, Tuple

QUERY: Args = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")
INTERVAL = 5.0
"""Seconds between two questions."""
_LIMIT = 10.0


@contextmanager
def watched(kind: str, path: str, environ: Mapping[str, str], *, query: Args = QUERY, interval: float = INTERVAL) -> Iterator[None]:
    """While it is entered, the use of the GPUs is written to `path`; only NVIDIA's tool can be asked, elsewhere nothing happens."""
    if kind != GPU_NVIDIA:
        yield
        return
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _watch(parent, path, environ, query, interval)
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _watch(parent: int, path: str, environ: Mapping[str, str], query: Args, interval: float) -> None:
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(one, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)  # the step's streams end with the step, whoever still asks
    env = (*process.minimal_env(), *((name, environ[name]) for name in ("CUDA_VISIBLE_DEVICES",) if name in environ))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    while os.getppid() == parent:
        try:
            os.write(handle, process.run(query, env=env, timeout=_LIMIT).check().stdout)
        except GhaError:
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
