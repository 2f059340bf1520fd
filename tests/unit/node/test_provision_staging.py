"""What is made once: published whole by whoever is first, nothing half-made left, whatever happens in between."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from gha_apptainer.domain.errors import DiskFull, EngineFailed, HostUnfit
from gha_apptainer.node.provision.staging import STALE_S, cache, publish, staged


def test_what_is_staged_is_published_with_one_rename(tmp_path: Path) -> None:
    target = str(tmp_path / "made")
    with staged(target) as work:
        assert os.path.dirname(work) == str(tmp_path)
        tree = os.path.join(work, "tree")
        os.mkdir(tree, 0o700)
        publish(tree, target)
    assert os.listdir(tmp_path) == ["made"]
    assert os.stat(target).st_mode & 0o777 == 0o755


def test_who_comes_second_keeps_what_the_first_made(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "by").write_text("first")
    with staged(str(target)) as work:
        os.mkdir(work + "/tree")
        Path(work, "tree", "by").write_text("second")
        publish(work + "/tree", str(target))
    assert (target / "by").read_text() == "first"
    assert os.listdir(tmp_path) == ["made"]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(str(tmp_path / "made")) as work:
            os.makedirs(work + "/closed", 0o000)
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        fail()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path: Path, number: int) -> None:
    def fill() -> None:
        with staged(str(tmp_path / "made")):
            raise OSError(number, os.strerror(number))

    with pytest.raises(DiskFull, match=str(tmp_path)):
        fill()


def test_old_stages_of_killed_processes_go_and_young_ones_stay(tmp_path: Path) -> None:
    old, young = tmp_path / ".stage-old", tmp_path / ".stage-young"
    for path in (old, young):
        path.mkdir()
    past = time.time() - STALE_S - 60
    os.utime(old, (past, past))
    with staged(str(tmp_path / "made")):
        assert not old.exists()
        assert young.exists()


def test_a_file_in_the_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("")
    (tmp_path / "tree").mkdir()
    with pytest.raises(EngineFailed, match="made"):
        publish(str(tmp_path / "tree"), str(tmp_path / "made"))


def test_no_home_is_refused_with_what_to_set() -> None:
    with pytest.raises(HostUnfit) as caught:
        cache({})
    assert "XDG_CACHE_HOME" in caught.value.remedy
