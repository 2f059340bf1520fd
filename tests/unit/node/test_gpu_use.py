from __future__ import annotations

import os
import time
from pathlib import Path

from gha_apptainer.node.actions.gpu_use import use_of, watched


def test_use_is_seen_while_the_step_runs(tmp_path: Path) -> None:
    tool, path = tmp_path / "tool", tmp_path / "use"
    tool.write_text("#!/bin/sh\necho 80, 1000\necho 40, 3000\necho '[N/A], [N/A]'\n", encoding="utf-8")
    tool.chmod(0o755)
    with watched("nvidia", str(path), {}, query=(str(tool),), interval=0.1):
        deadline = time.monotonic() + 30
        while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert use_of(str(path)) == "60 % busy on average, 80 % at most, 3000 MiB"


def test_a_tool_that_is_missing_or_another_kind_gives_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "use")
    with watched("nvidia", path, {}, query=("/does/not/exist",)):
        time.sleep(0.1)
    assert use_of(path) == ""
    with watched("none", path + "2", {}):
        assert not os.path.exists(path + "2")


def test_amd_cards_tell_their_use(tmp_path: Path) -> None:
    for name, busy, used in (("card0", "30", 3 << 30), ("card1", "50", 1 << 30), ("card0-DP-1", "", 0)):
        device = tmp_path / "drm" / name / "device"
        device.mkdir(parents=True)
        if busy:
            (device / "gpu_busy_percent").write_text(busy + "\n")
            (device / "mem_info_vram_used").write_text("%d\n" % used)
    path = tmp_path / "use"
    with watched("rocm", str(path), {}, cards=str(tmp_path / "drm"), interval=0.1):
        deadline = time.monotonic() + 30
        while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert use_of(str(path)) == "40 % busy on average, 50 % at most, 3072 MiB"
    with watched("rocm", str(path) + "2", {}, cards="/does/not/exist"):
        time.sleep(0.1)
    assert use_of(str(path) + "2") == ""
