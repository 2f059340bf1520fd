"""Every way in which a container gets its root: SIF by FUSE, an image of another owner, no FUSE at all; and what happens when FUSE dies."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from driving import Driver, linked_usr

SCRIPT = """
from gha_apptainer.domain.images import SIF
from gha_apptainer.node.engine.containers import open_engine
import dataclasses
said = []
facts = dataclasses.replace(facts, **%(facts)r)
engine = open_engine(facts, settings, tell=said.append)
made = spec(%(root)r, mounts=(Mount(source="/usr", target="/usr", read_only=True),), main=%(main)s)
made = dataclasses.replace(made, image=dataclasses.replace(made.image, form=%(form)r))
try:
    identity = engine.create(made)
    engine.start(identity)
except GhaError as error:
    answer({"error": list(error.lines())})
    sys.exit(0)
"""
CHANGES = (
    "id = run(identity, '/usr/bin/sh', '-c', 'rm -rf /opt/old && mkdir /opt/old && ls /opt/old && echo more >> /etc/group && tail -1 /etc/group"
    " && touch /opt/new && chown 5:5 /opt/new && mv /opt/other /opt/renamed && cat /opt/renamed')\n"
    "answer([id['code'], id['out'], id['err'], engine._records.running(identity).mechanism, said])"
)
ROOTS_IMAGE = pytest.mark.skipif(os.getuid() != 0, reason="needs an image that belongs to root and a user who is not")
SLEEP = "ExecRequest(argv=('/usr/bin/sh', '-c', 'while :; do sleep 0.05; done; exit 0'), env=PATH)"


def _tree(driver: Driver) -> Path:
    root = linked_usr(driver.images / "linked")
    (root / "opt/old").mkdir()
    (root / "opt/old/file").write_text("image")
    (root / "opt/other").write_text("other")
    return root


def _start(root: str, form: str = "sandbox", main: str = "None", **facts: str) -> str:
    return SCRIPT % {"root": root, "form": form, "main": main, "facts": facts}


def _sif(driver: Driver) -> str:
    target = str(driver.images / "image.sif")
    tree = driver.own(_tree(driver))
    command = [driver.apptainer, "-s", "build", target, str(tree)]
    argv = driver.argv("-c", "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *command)
    done = subprocess.run(
        argv, env={**driver.environ(), "HOME": str(driver.images)}, cwd=driver.images, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(driver.images / ".apptainer", ignore_errors=True)
    return target


def _fuse(driver: Driver) -> None:
    script = "try:\n    os.close(os.open('/dev/fuse', os.O_RDWR))\n    answer(True)\nexcept OSError:\n    answer(False)"
    if not driver.run(script):
        pytest.skip("/dev/fuse cannot be opened by this user")


def test_a_sif_is_writable_like_any_image(driver: Driver) -> None:
    _fuse(driver)
    code, out, err, mechanism, said = driver.run(_start(_sif(driver), "sif") + CHANGES)
    assert (code, out) == (0, "more\nother"), err
    assert mechanism == "overlay"
    assert said == []


def test_without_fuse_a_sif_is_copied_and_it_says_so(driver: Driver) -> None:
    code, out, err, mechanism, said = driver.run(_start(_sif(driver), "sif", fuse_reason="/dev/fuse: switched off by a test") + CHANGES)
    assert (code, out) == (0, "more\nother"), err
    assert mechanism == "copy"
    assert "switched off by a test" in said[0]
    assert "MB" in said[1]


@ROOTS_IMAGE
@pytest.mark.parametrize("driver", ["ordinary"], indirect=True)
def test_an_image_of_root_is_writable_for_a_user(driver: Driver) -> None:
    _fuse(driver)
    root = _tree(driver)
    driver.images.chmod(0o755)
    code, out, err, mechanism, _ = driver.run(_start(str(root)) + CHANGES)
    assert (code, out) == (0, "more\nother"), err
    assert mechanism == "fuse-overlayfs"


@ROOTS_IMAGE
@pytest.mark.parametrize("driver", ["ordinary"], indirect=True)
def test_an_image_of_root_without_fuse_is_copied(driver: Driver) -> None:
    root = _tree(driver)
    driver.images.chmod(0o755)
    found = driver.run(_start(str(root), fuse_reason="no FUSE, says a test") + CHANGES)
    assert isinstance(found, list), found
    code, out, err, mechanism, said = found
    assert (code, out) == (0, "more\nother"), err
    assert mechanism == "copy"
    assert "another user" in said[0]


def test_a_layer_where_the_kernels_overlay_fails_its_probe(driver: Driver) -> None:
    root = driver.own(_tree(driver))
    script = _start(str(root)).replace(
        "made = spec(",
        "from gha_apptainer.node.engine import deciding\n"
        "deciding.Looks.overlay_reason = lambda *_: 'the probe failed, says a test'\nmade = spec(",
        1,
    )
    code, out, err, mechanism, _ = driver.run(script + CHANGES)
    assert (code, out) == (0, "more\nother"), err
    assert mechanism in ("fuse-overlayfs", "copy")


def _helpers(driver: Driver) -> list[int]:
    found = []
    for pid in driver.processes():
        try:
            if b"squashfuse" in Path("/proc", str(pid), "cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def test_a_lost_root_is_a_failure_whatever_the_exit_code(driver: Driver) -> None:
    _fuse(driver)
    tell = "print(identity, flush=True)\nended = engine.wait(identity, 60)\nanswer([ended.exit_code, ended.reason])"
    child = driver.start(_start(_sif(driver), "sif", main=SLEEP) + tell)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        helpers = _helpers(driver)
        assert helpers
        for pid in helpers:  # a TERM to a whole job must not end them
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        assert _helpers(driver) == helpers
        for pid in helpers:
            os.kill(pid, signal.SIGKILL)
    finally:
        out, err = child.communicate(timeout=90)
    assert b"root file system lost" in out, err
    assert not out.split(b"[")[-1].startswith(b"0,")


def test_no_helper_is_left_after_the_init_is_killed(driver: Driver) -> None:
    _fuse(driver)
    more = "engine.kill(identity, 9)\nended = engine.wait(identity, 30)\nanswer(ended.exit_code)"
    assert driver.run(_start(_sif(driver), "sif", main=SLEEP) + more) == 137
    deadline = time.monotonic() + 20
    while _helpers(driver) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _helpers(driver)


def test_a_damaged_sif_is_named(driver: Driver) -> None:
    _fuse(driver)
    path = Path(_sif(driver))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 :] = b"\0" * (len(data) - len(data) // 3)
    path.write_bytes(bytes(data))
    said = driver.run(_start(str(path), "sif", main=SLEEP) + "answer({'error': ['nothing']})")
    assert said["error"] != ["nothing"]


def test_where_only_network_storage_is_the_layer_goes_to_memory(driver: Driver) -> None:
    root = driver.own(_tree(driver))
    script = _start(str(root)).replace(
        "made = spec(",
        "from gha_apptainer.node.engine import deciding\ndeciding.Looks.nature = lambda *_: 'network'\nengine._settings = dataclasses.replace(settings, layer_memory=8 << 20)\nmade = spec(",
        1,
    )
    full = "full = run(identity, '/usr/bin/dd', 'if=/dev/zero', 'of=/opt/big', 'bs=1M', 'count=20')\n"
    code, out, err, _, said = driver.run(script + full + "said.append(full['err'])\nrun(identity, '/usr/bin/rm', '/opt/big')\n" + CHANGES)
    assert (code, out) == (0, "more\nother"), err
    assert "at most 8 MB" in said[0]
    assert "No space left" in said[1]
