"""Without the extra everything else works, and what needs it says how to get it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[3] / "src"
WITHOUT = """
import sys
sys.path.insert(0, %r)
for name in ("numpy", "scipy", "h5py", "sklearn", "skops", "onnx", "treelite", "elftools", "capstone"):
    sys.modules[name] = None  # as if it were not installed
import gha_apptainer, gha_apptainer.models, gha_apptainer.domain.binary_tags
from gha_apptainer.cli import main
sys.exit(main(%r))
"""


def without(*argv: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT % (str(SRC), list(argv))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_other_commands_and_help_need_no_extra() -> None:
    for argv in (["--help"], ["models", "--help"], ["models", "compile", "--help"], ["config", "--help"]):
        done = without(*argv)
        assert (done.returncode, done.stderr) == (0, ""), argv
    assert "Compile trained models" in without("models", "--help").stdout


def test_a_missing_extra_is_named() -> None:
    done = without("models", "explain", "net.keras")
    assert done.returncode == 73
    assert "`import numpy` is missing" in done.stderr
    assert 'pip install "gha-apptainer[models]"' in done.stderr
