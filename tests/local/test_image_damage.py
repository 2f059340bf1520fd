"""Damaged, forged, half-written and too large: nothing wrong is ever run, and what can be fetched again is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pulling import Puller
from registries import MANIFEST, Made, Registry, digest, tree


@pytest.fixture
def name(puller: Puller, local_registry: Registry) -> str:
    puller.http = (local_registry.address,)
    return "%s/team/tool:1" % local_registry.address


@pytest.fixture
def pushed(name: str, local_registry: Registry) -> Made:
    return local_registry.push("team/tool", "1", tree(weight=1 << 18))


@pytest.mark.parametrize("blob", ["layer", "config", "manifest"])
def test_spoiled_transfer_is_an_error_and_nothing_is_kept(
    puller: Puller, local_registry: Registry, name: str, pushed: Made, blob: str
) -> None:
    mark = {"layer": pushed.layers[0], "config": pushed.config, "manifest": "/manifests/"}[blob]
    wanted = name.rpartition(":")[0] + "@" + pushed.manifest if blob == "manifest" else name
    local_registry.spoil = lambda path, body: body[:-9] + b" " + body[-8:] if mark in path and len(body) > 9 else body
    got = puller.run("answer(attempt(lambda: pull(%r)))" % wanted)
    assert got["error"] == "ImageFailed", got
    assert local_registry.address in got["text"]
    assert list((puller.store / "images").iterdir()) == []
    assert puller.left() == []
    local_registry.spoil = lambda _path, body: body
    assert puller.run("answer(pull(%r))" % wanted)["digest"]["text"] == pushed.manifest


def _break_config(entry: Path) -> None:
    document = json.loads((entry / "image.json").read_text())
    document["config"]["user"] = 0
    (entry / "image.json").write_text(json.dumps(document))


def _other_digest(entry: Path) -> None:
    document = json.loads((entry / "image.json").read_text())
    document["digest"] = "sha256:" + "0" * 64
    (entry / "image.json").write_text(json.dumps(document))


def _smuggle(entry: Path) -> None:
    document = json.loads((entry / "image.json").read_text())
    document["form"] = "../../../../etc"
    (entry / "image.json").write_text(json.dumps(document))


def _purge(entry: Path) -> None:
    os.utime(entry / "used", (1, 1))
    (entry / "rootfs/etc/marker").unlink()


def _file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("")


def _empty(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.mkdir(0o700)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half-written document": lambda entry: (entry / "image.json").write_text((entry / "image.json").read_text()[:-20]),
    "no document": lambda entry: (entry / "image.json").unlink(),
    "wrong type in it": _break_config,
    "another image's": _other_digest,
    "a form that is a path": _smuggle,
    "rootfs gone": lambda entry: shutil.rmtree(entry / "rootfs"),
    "purged in part": _purge,
    "open to others": lambda entry: entry.chmod(0o777),
    "a file": _file,
    "empty": _empty,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_never_used_and_fetched_again(
    puller: Puller, local_registry: Registry, name: str, pushed: Made, damage: str
) -> None:
    entry = Path(puller.run("answer(pull(%r))" % name)["rootfs"]).parent
    DAMAGES[damage](entry)
    puller.driver.own(puller.store)
    offline = puller.run("answer(attempt(lambda: pull(%r, 'never')))" % name)
    assert offline.get("error") == "ImageFailed", offline
    assert "damaged" in offline["text"]
    again = puller.run("answer(pull(%r))" % name)
    assert (again["route"], again["digest"]["text"]) == ("registry", pushed.manifest)
    assert (Path(again["rootfs"]) / "etc/marker").read_text() == "first"
    assert local_registry.count(pushed.layers[0]) == 2
    assert puller.left() == []


def test_entry_of_another_user_is_refused(puller: Puller, name: str, pushed: Made) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    entry = Path(puller.run("answer(pull(%r))" % name)["rootfs"]).parent
    os.chown(entry, 12345, 12345)
    got = puller.run("answer(attempt(lambda: pull(%r, 'never')))" % name)
    assert "uid 12345" in got["text"]


def test_forged_memory_of_a_reference_leads_nowhere(puller: Puller, name: str, pushed: Made) -> None:
    puller.run("answer(pull(%r))" % name)
    (note,) = (puller.store / "refs").iterdir()
    for digits in ("../../../../etc", "sha256:../../x", "sha256:" + "0" * 64):
        note.write_text(json.dumps({**json.loads(note.read_text()), "digest": digits}))
        assert puller.run("answer(attempt(lambda: pull(%r, 'never')))" % name)["error"] == "ImageFailed"


def test_index_that_names_a_forged_manifest(puller: Puller, local_registry: Registry, name: str, pushed: Made) -> None:
    config = {"digest": "sha256:../x", "size": 1}
    forged = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [{}]}).encode()
    local_registry.answer = lambda _path, _headers: (200, {"content-type": MANIFEST}, forged)
    got = puller.run("answer(attempt(lambda: pull(%r)))" % name)
    assert got["error"] == "ImageFailed"
    assert "descriptor" in got["text"]
    local_registry.answer = lambda _path, _headers: (200, {"content-type": "text/html"}, b"<html>log in</html>")
    got = puller.run("answer(attempt(lambda: pull(%r)))" % name)
    assert "login page" in got["text"]


FULL = r"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
if uid:
    assert libc.unshare(0x10000000 | 0x20000) == 0
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write("%d %d 1" % (uid, uid))
    open("/proc/self/gid_map", "w").write("%d %d 1" % (gid, gid))
else:
    assert libc.unshare(0x20000) == 0
    assert libc.mount(None, b"/", None, 0x4000 | (1 << 18), None) == 0
os.mkdir(STATE + "/small")
assert libc.mount(b"tmpfs", (STATE + "/small").encode(), b"tmpfs", 0, OPTIONS) == 0, ctypes.get_errno()
there = settings(store=STATE + "/small/store")
from gha_apptainer.node.images import forms
"""


@pytest.mark.parametrize("measured", [True, False], ids=["seen before", "met while writing"])
def test_full_disk_is_one_error_that_names_the_path(
    puller: Puller, local_registry: Registry, name: str, pushed: Made, measured: bool
) -> None:
    local_registry.push("team/tool", "1", tree(weight=4 << 20))
    blind = "from gha_apptainer.node.images import fetching\nfetching.placement = lambda s, h, _=0: forms.placement(s, h, 0)\n"
    got = puller.run(
        "OPTIONS = b'size=2m'\n" + FULL + ("" if measured else blind) + "got = attempt(lambda: pull(%r, there=there))\n"
        "answer([got, os.listdir(STATE + '/small/store/images'), os.listdir(STATE + '/small/store/work')])" % name
    )
    assert got[0]["error"] == "DiskFull", got
    assert "small" in got[0]["text"]
    assert got[1:] == [[], []]


def test_no_inodes_left(puller: Puller, local_registry: Registry, name: str, pushed: Made) -> None:
    got = puller.run("OPTIONS = b'size=64m,nr_inodes=12'\n" + FULL + "answer(attempt(lambda: pull(%r, there=there)))" % name)
    assert got.get("error") == "DiskFull", got


def test_memory_and_shared_storage_get_one_file(puller: Puller, local_registry: Registry, name: str, pushed: Made) -> None:
    """The store lies in memory: one SIF, which is checked at each use, and fetched again when it is bitten off."""
    script = (
        "OPTIONS = b'size=64m'\n"
        + FULL
        + (
            "first = pull(%r, there=there)\n"
            "second = pull(%r, there=there)\n"
            "handle = open(first.rootfs, 'r+b')\nhandle.truncate(os.path.getsize(first.rootfs) // 2)\nhandle.close()\n"
            "third = attempt(lambda: pull(%r, 'never', there=there))\n"
            "fourth = pull(%r, there=there)\n"
            "answer([first, second, third, fourth])"
        )
        % ((name,) * 4)
    )
    first, second, third, fourth = puller.run(script)
    assert (first["form"], first["route"], second["route"]) == ("sif", "registry", "store")
    assert first["rootfs"].endswith("/image.sif")
    assert third["error"] == "ImageFailed"
    assert fourth["route"] == "registry"


def test_sif_from_a_registry_is_one_download(puller: Puller, local_registry: Registry, name: str, pushed: Made, tmp_path: Path) -> None:
    made = puller.run(
        "from gha_apptainer.node import apptainer, process\n"
        "root = pull(%r).rootfs\n"
        "argv = apptainer.build_argv(APPTAINER, root, STATE + '/made.sif', sandbox=False)\n"
        "argv = apptainer.guarded_argv(argv, os.getpid(), whole if not os.getuid() else (), whole if not os.getuid() else ())\n"
        "process.run(argv, timeout=60, env=apptainer.build_env(APPTAINER, STATE, STATE, {})).check()\nanswer(STATE + '/made.sif')" % name
    )
    blob = digest(Path(made).read_bytes())
    manifest = local_registry.push_sif("team/sif", "1", Path(made))
    reference = "oras://%s/team/sif:1" % local_registry.address
    sandbox = puller.run("answer(pull(%r))" % reference)
    assert (sandbox["form"], sandbox["digest"]["text"]) == ("sandbox", manifest)
    assert (Path(sandbox["rootfs"]) / "etc/marker").read_text() == "first"
    assert local_registry.count(blob) == 1
    shutil.rmtree(puller.store)
    one_file = puller.run("OPTIONS = b'size=64m'\n" + FULL + "answer(pull(%r, there=there))" % reference)
    assert (one_file["form"], one_file["digest"]["text"]) == ("sif", manifest)
    assert local_registry.count(blob) == 2
