"""The joiner's start-up is every step's start-up: what it imports is a list, and the list does not grow by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[3] / "src"
ALLOWED = {"os", "sys", "ctypes", "fcntl", "resource", "select", "signal", "socket", "time", "gha_apptainer", "future"}
SHOW = (
    "import sys; sys.path.insert(0, sys.argv[1]); import os; before = set(sys.modules);"
    "from gha_apptainer.node.engine import enter;"
    "print(' '.join(sorted({name.split('.')[0].strip('_') for name in set(sys.modules) - before})))"
)


def test_the_joiner_imports_what_it_may() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", SHOW, str(SRC)], capture_output=True, timeout=60, check=True)
    found = set(done.stdout.decode().split())
    assert found - ALLOWED == set()


RUN = (
    "import sys; sys.path.insert(0, sys.argv[1]); import gha_apptainer.node.main as main; before = set(sys.modules);"
    "import gha_apptainer.node.main.making, gha_apptainer.node.host, gha_apptainer.node.images.resolving;"
    "import gha_apptainer.node.images.routes.path, gha_apptainer.node.engine.containers, gha_apptainer.node.engine.foreground;"
    "print(' '.join(sorted({name.split('.')[0].strip('_') for name in sys.modules if name not in before})))"
)


def test_a_start_imports_what_it_may() -> None:
    """No typing, re, json, enum or the like: together they cost as much as everything of ours."""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", RUN, str(SRC)], capture_output=True, timeout=60, check=True)
    found = set(done.stdout.decode().split())
    assert found - {"os", "sys", "ctypes", "fcntl", "select", "signal", "socket", "time", "errno", "stat", "gha_apptainer"} == set()
