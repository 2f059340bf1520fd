"""Runs on Python 3.9 as well: every module of domain and node can be imported alone, with warnings as errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for floor in ("domain", "node")
    for path in (SOURCE / "gha_apptainer" / floor).rglob("*.py")
    if path.name != "__init__.py"
)
PROGRAM = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    importlib.import_module(name)
foreign = sorted(name for name, one in sys.modules.items() if "site-packages" in (getattr(one, "__file__", None) or ""))
assert not foreign, foreign
"""


def import_alone(*modules: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-I", "-S", "-B", "-W", "error", "-c", PROGRAM, str(SOURCE), *modules]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_all_together_need_only_the_standard_library() -> None:
    done = import_alone(*MODULES)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", MODULES)
def test_each_alone(module: str) -> None:
    done = import_alone(module)
    assert (done.returncode, done.stderr) == (0, "")
