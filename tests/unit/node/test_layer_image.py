from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.errors import DiskFull, HostUnfit
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import SANDBOX, Digest, Image, OciConfig
from gha_apptainer.node.engine import kernel, layer_image, layers

HOST = HostFacts(
    "here", "boot", "x86_64", "6.1", 1000, 1000, "/tmp/s",
    fuse_overlayfs="/f/fuse-overlayfs", fuse2fs="/f/fuse2fs", mke2fs="/f/mke2fs", e2fsck="/f/e2fsck",
)  # fmt: skip
IMAGE = Image(reference="/i", digest=Digest(), config=OciConfig(), rootfs="/i", form=SANDBOX, route="path")
MB = 1 << 20


@pytest.mark.parametrize(
    ("layer", "host", "word"),
    [
        ("/net/layer", HOST, ""),
        ("/net/layer", replace(HOST, fuse2fs=""), "needs fuse2fs,"),
        ("/net/layer", replace(HOST, mke2fs="", e2fsck=""), "mke2fs and e2fsck"),
        ("/net/layer", replace(HOST, fuse_overlayfs=""), "fuse-overlayfs"),
        ("/net/layer", replace(HOST, fuse_reason="no FUSE here"), "no FUSE here"),
        ("/net/a,b", HOST, "comma"),
    ],
)
def test_what_a_file_needs(layer: str, host: HostFacts, word: str) -> None:
    reason = layer_image.unfit(layer, host)
    assert word in reason
    assert bool(word) is bool(reason)


@pytest.mark.parametrize(
    ("wanted", "free", "found"), [(16 << 30, 1 << 40, 16 << 30), (16 << 30, 2 << 30, 1 << 30), (16 << 30, 100 * MB, 0), (MB, 1 << 40, 0)]
)
def test_size(wanted: int, free: int, found: int) -> None:
    assert layer_image.size(wanted, free) == found


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_a_file_never_takes_more_than_half_of_what_is_free(wanted: int, free: int) -> None:
    found = layer_image.size(wanted, free)
    assert found == 0 or layer_image.LEAST <= found <= min(wanted, free // 2)


def test_a_layer_in_a_file_is_never_the_kernels() -> None:
    plan = layers.plan_root(IMAGE, HOST, offset=0, foreign=False, overlay_reason="", image_file=True)
    assert (plan.mechanism, plan.image_file, plan.squash) == (layers.FUSE, True, False)
    assert layers.plan_root(IMAGE, HOST, offset=0, foreign=True, overlay_reason="", image_file=True).squash
    assert layers.plan_root(IMAGE, HOST, offset=0, foreign=False, overlay_reason="").mechanism == layers.KERNEL


def _refusing(monkeypatch: pytest.MonkeyPatch, number: int, above: int) -> list[int]:
    asked: list[int] = []

    def allocate(handle: int, size: int) -> None:
        asked.append(size)
        if size > above:
            raise OSError(number, os.strerror(number))
        os.ftruncate(handle, size)

    monkeypatch.setattr(kernel, "allocate", allocate)
    return asked


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_is_one_error_that_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    asked = _refusing(monkeypatch, number, 0)
    with pytest.raises(DiskFull, match=str(tmp_path / "layer.ext4")):
        layer_image.make(str(tmp_path), 256 * MB, HOST, lambda text: None)
    assert asked == [256 * MB, 128 * MB, 64 * MB]
    assert not list(tmp_path.iterdir())


def test_a_quota_makes_the_file_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refusing(monkeypatch, errno.EDQUOT, 100 * MB)
    said: list[str] = []
    assert layer_image.make(str(tmp_path), 256 * MB, replace(HOST, mke2fs="/bin/true"), said.append) == ""
    assert (tmp_path / "layer.ext4").stat().st_size == 64 * MB
    assert "64 MB" in said[0]


def test_storage_that_cannot_reserve_gets_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _refusing(monkeypatch, errno.EOPNOTSUPP, 0)
    assert "cannot reserve" in layer_image.make(str(tmp_path), 256 * MB, HOST, lambda text: None)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_began_on_the_storage_stays_there(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    assert layer_image.make(str(tmp_path), 256 * MB, HOST, lambda text: None) == "it began there"


def test_a_kept_file_that_cannot_be_opened_here_is_an_error(tmp_path: Path) -> None:
    assert not layer_image.kept(str(tmp_path), HOST)
    (tmp_path / "layer.ext4").touch()
    assert layer_image.kept(str(tmp_path), HOST)
    with pytest.raises(HostUnfit, match="cannot be opened"):
        layer_image.kept(str(tmp_path), replace(HOST, e2fsck=""))
