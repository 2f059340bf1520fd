"""Layers of builds in a store: found again while they are whole, never when they may not be; and their content's digest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gha_apptainer.node.dockerfile.trees import flatten
from gha_apptainer.node.images.build_layers import LayerCache, StoredLayer, content_digest
from gha_apptainer.node.images.build_remains import spare_parts
from gha_apptainer.node.images.store import RECOUNT_AFTER, Store

KEY, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    made.prepare()
    return made


@pytest.fixture
def cache(store: Store) -> LayerCache:
    return LayerCache(store, "this-boot")


def made(store: Store, text: str = "x") -> str:
    place = store.path("work", "made-" + os.urandom(4).hex())
    os.makedirs(place + "/tree/dir")
    Path(place, "tree/dir/file").write_text(text)
    return place


def publish(store: Store, cache: LayerCache, text: str = "x", key: str = KEY) -> StoredLayer:
    return cache.publish(made(store, text), key, "RUN x", whole=False, ids=False)


def test_what_was_published_is_found_and_another_key_is_not(store: Store, cache: LayerCache) -> None:
    layer = publish(store, cache)
    assert cache.find(KEY) == layer
    assert cache.find(OTHER) is None
    assert Path(cache.tree(layer), "dir/file").read_text() == "x"
    newer = publish(store, cache, "y")
    assert cache.find(KEY) == newer, "the last one counts"
    assert cache.read(layer.id) == layer, "who leans on the older one still has it"
    assert publish(store, cache, "x", OTHER).digest == layer.digest != newer.digest


Damage = Callable[[Path], object]


def purge(entry: Path) -> None:
    (entry / "tree/dir/file").unlink()
    os.utime(entry / "used", (1, 1))


def turn(top: Path) -> None:
    (top / "link").unlink()
    (top / "link").symlink_to("dir")


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "layer.json").write_text("{"),
        lambda entry: (entry / "layer.json").unlink(),
        lambda entry: (entry / "tree").rename(entry / "gone"),
        lambda entry: entry.chmod(0o777),
        purge,
    ],
    ids=["document", "no document", "no tree", "open to others", "purged in part"],
)
def test_a_damaged_layer_is_as_good_as_none(store: Store, cache: LayerCache, damage: Damage) -> None:
    layer = publish(store, cache)
    damage(Path(cache.tree(layer)).parent)
    assert cache.find(KEY) is None
    assert any(one.trouble for one in spare_parts(store, "this-boot"))


def test_a_forged_name_leads_nowhere(store: Store, cache: LayerCache) -> None:
    publish(store, cache)
    pointer = Path(store.path("layers", "1" * 64 + ".ref"))
    for text in ("sha256:../../../etc", "", "sha256:" + "9" * 64):
        pointer.write_text(text)
        assert cache.find(KEY) is None
    pointer.unlink()
    pointer.symlink_to("/etc/hostname")
    assert cache.find(KEY) is None


def test_after_a_reboot_only_what_was_on_disk_counts(store: Store, cache: LayerCache) -> None:
    layer, kept = publish(store, cache), publish(store, cache, "kept", OTHER)
    cache.synced((kept,))
    later = LayerCache(store, "another-boot")
    assert later.find(KEY) is None
    assert later.find(OTHER) == kept
    assert cache.find(KEY) == layer


def test_what_nobody_used_for_a_day_is_counted_again_and_still_good(store: Store, cache: LayerCache) -> None:
    layer = publish(store, cache)
    old = time.time() - 2 * RECOUNT_AFTER
    os.utime(Path(cache.tree(layer)).parent / "used", (old, old))
    assert cache.find(KEY) == layer
    assert cache.last_use(layer.id) > old, "a use is noted"


def test_holds_and_removal(store: Store, cache: LayerCache) -> None:
    layer = publish(store, cache)
    with cache.hold(layer, "host.boot.build-1"):
        assert cache.holders(layer.id) == ("host.boot.build-1",)
        assert [one.held for one in spare_parts(store, "this-boot")] == [True]
    assert [one.held for one in spare_parts(store, "this-boot")] == [False]
    cache.remove(layer.id)
    assert cache.find(KEY) is None
    assert cache.forget() == 1
    assert os.listdir(store.path("layers")) == []


def tree(place: Path) -> Path:
    (place / "dir").mkdir(parents=True)
    (place / "dir/file").write_text("text")
    (place / "link").symlink_to("dir/file")
    return place


def test_the_digest_is_of_content_and_modes_and_not_of_times(tmp_path: Path) -> None:
    first, second = tree(tmp_path / "a"), tree(tmp_path / "b")
    os.utime(second / "dir/file", (1, 1))
    whole = content_digest(str(first), ids=False)
    assert whole[0] == content_digest(str(second), ids=False)[0]
    assert whole[2] == 3
    changes: list[Callable[[Path], object]] = [
        lambda top: (top / "dir/file").write_text("texT"),
        lambda top: (top / "dir/file").chmod(0o600),
        lambda top: (top / "dir").chmod(0o700),
        lambda top: (top / "dir/file").rename(top / "dir/other"),
        turn,
        lambda top: (top / "dir/file").rename(top / "file"),
        lambda top: (top / "empty").mkdir(),
        lambda top: os.mkfifo(top / "pipe"),
    ]
    seen = {whole[0]}
    for number, change in enumerate(changes):
        top = tree(tmp_path / ("changed%d" % number))
        change(top)
        seen.add(content_digest(str(top), ids=False)[0])
    assert len(seen) == len(changes) + 1


def test_layers_laid_over_a_base(tmp_path: Path) -> None:
    """What needs no whiteouts, which only the kernel or root can make; those are tried with real builds."""
    base = tree(tmp_path / "base")
    (base / ".singularity.d/env").mkdir(parents=True)
    (base / ".run").symlink_to(".singularity.d/actions/run")
    os.link(base / "dir/file", base / "again")
    upper = tmp_path / "upper"
    (upper / "dir").mkdir(parents=True)
    (upper / "dir/file").write_text("new")
    (upper / "dir").chmod(0o711)
    (upper / "link").mkdir()
    (upper / "link/inside").write_text("a directory where a link was")
    (upper / "again").symlink_to("dir/file")
    flatten(str(base), (str(upper),), str(tmp_path / "flat"), link=False)
    flat = tmp_path / "flat"
    assert sorted(str(path.relative_to(flat)) for path in flat.rglob("*")) == ["again", "dir", "dir/file", "link", "link/inside"]
    assert (flat / "dir/file").read_text() == (flat / "again").read_text() == "new"
    assert (flat / "dir").stat().st_mode & 0o777 == 0o711
    assert (flat / "link/inside").stat().st_ino == (upper / "link/inside").stat().st_ino, "a layer's files are shared"
    assert (base / "dir/file").read_text() == "text"
