"""The joiner's start-up is every step's start-up: what it imports is a list, and the list does not grow by accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[3] / "src"
ALLOWED = {"os", "sys", "ctypes", "fcntl", "resource", "select", "signal", "enum", "struct", "time", "gha_apptainer"}
SHOW = (
    "import sys; sys.path.insert(0, sys.argv[1]); import os; before = set(sys.modules);"
    "from gha_apptainer.node.engine import enter;"
    "print(' '.join(sorted({name.split('.')[0].strip('_') for name in set(sys.modules) - before})))"
)


def test_the_joiner_imports_what_it_may() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", SHOW, str(SRC)], capture_output=True, timeout=60, check=True)
    found = set(done.stdout.decode().split())
    # enum brings these for signal, before Python 3.13 more of them
    dragged = {"types", "operator", "functools", "collections", "keyword", "reprlib", "future", "itertools", "heapq"}
    assert found - ALLOWED - dragged == set()
