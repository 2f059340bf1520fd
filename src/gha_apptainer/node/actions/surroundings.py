"""What a step's machine is like, for the record; and what the runner that started us had in its own environment."""

from __future__ import annotations

import os

from gha_apptainer.domain.containers import GPU_NONE, GPU_NVIDIA
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node import process
from gha_apptainer.node.files import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Tuple

_GPU_LIMIT = 10.0


def environment() -> Mapping[str, str]:
    """Our environment as our text, whatever the locale says."""
    return {decode(name): decode(value) for name, value in os.environb.items()}


def runner_environment() -> Optional[Mapping[str, str]]:
    """What the runner was started with: it is our parent, because the action's shell becomes us. None where it may not be read."""
    try:
        with open("/proc/%d/environ" % os.getppid(), "rb") as handle:
            data = handle.read()
    except OSError:
        return None
    pairs = (one.partition(b"=") for one in data.split(b"\0") if b"=" in one)
    return {decode(name): decode(value) for name, _, value in pairs}


def processor() -> Tuple[str, int]:
    """The processor's name ("" where the kernel does not say) and how many of its threads we may use."""
    name = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as handle:
            for text in handle:
                key, _, value = text.partition(":")
                if key.strip() in ("model name", "Processor", "cpu model"):
                    name = value.strip()
                    break
    except OSError:
        name = ""
    return name, len(os.sched_getaffinity(0))


def graphics(kind: str, environ: Mapping[str, str]) -> str:
    """The names of the GPUs that a step has, as their maker's tool says them, else their kind; "" without one."""
    if kind != GPU_NVIDIA:
        return "" if kind == GPU_NONE else kind
    env = (*process.minimal_env(), *((name, environ[name]) for name in ("CUDA_VISIBLE_DEVICES",) if name in environ))
    try:
        done = process.run(("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"), env=env, timeout=_GPU_LIMIT).check()
    except GhaError:
        return kind
    return ", ".join(row.strip() for row in decode(done.stdout).splitlines() if row.strip()) or kind
