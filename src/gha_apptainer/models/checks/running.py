"""Starts trials of a library and reads what they say."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import gha_apptainer
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.models.checks import bare_trial, trial
from gha_apptainer.node import process

_LIMIT_S = 300.0
EMULATED = {1: "core2duo", 2: "Nehalem", 3: "Haswell"}
"""A processor of each level, as QEMU names it."""


def run(library: Path, vectors: Path) -> tuple[dict[str, Any] | None, str]:
    """What the trial found, or None and why there is nothing."""
    sources = str(Path(str(gha_apptainer.__file__)).parent.parent)
    return _answer((sys.executable, "-I", str(trial.__file__), sources, str(library.resolve()), str(vectors.resolve())), b"")


def run_emulated(library: Path, asked: object, program: str, model: str) -> tuple[dict[str, Any] | None, str]:
    """What the library answers on a processor that QEMU plays."""
    argv = (program, "-cpu", model, os.path.realpath(sys.executable), "-I", "-S", str(bare_trial.__file__), str(library.resolve()))
    return _answer(argv, json.dumps(asked).encode())


def _answer(argv: tuple[str, ...], given: bytes) -> tuple[dict[str, Any] | None, str]:
    try:
        done = process.run(argv, env=(*process.minimal_env(), *_single_thread()), timeout=_LIMIT_S, input=given)
    except GhaError as error:
        return None, error.what
    if done.code:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()
        ended = "signal %d" % -done.code if done.code < 0 else "exit code %d" % done.code
        return None, "the process that loaded it ended with %s%s" % (ended, ": " + last[-1] if last else "")
    try:
        return dict(json.loads(done.stdout)), ""
    except ValueError as error:
        return None, "the process that loaded it said nothing: %s" % error


def _single_thread() -> tuple[tuple[str, str], ...]:
    return tuple((name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"))


def emulator() -> str:
    """QEMU for programs of this machine's kind, or empty."""
    machine = os.uname().machine
    for name in ("qemu-%s" % machine, "qemu-%s-static" % machine):
        found = shutil.which(name)
        if found:
            return found
    return ""
