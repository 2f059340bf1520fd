"""A writable layer in an image file, for machines with nothing but network storage: full use, restarts, kills, and what it says."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from debian_tools import Tool
from driving import Driver, linked_usr

SLEEP = "ExecRequest(argv=('/usr/bin/sh', '-c', 'while :; do sleep 0.05; done; exit 0'), env=PATH)"
START = """
import dataclasses
said = []
facts = dataclasses.replace(facts, **%(facts)r)
settings = dataclasses.replace(settings, layer_memory=0, layer_image_bytes=%(size)d << 20)
engine = open_engine(facts, settings, tell=said.append)
from gha_apptainer.node.engine import deciding
deciding.Looks.nature = lambda *_: 'network'
"""
CREATE = """
identity = engine.create(spec(%(root)r, mounts=(Mount(source='/usr', target='/usr', read_only=True),), main=%(main)s))
engine.start(identity)
"""


@pytest.fixture
def fuse2fs(driver: Driver, debian_tool: Tool) -> str:
    """A fuse2fs that this user can start: the machine's, else Debian's with the library it needs."""
    if not driver.run("try:\n    os.close(os.open('/dev/fuse', os.O_RDWR))\n    answer(True)\nexcept OSError:\n    answer(False)"):
        pytest.skip("/dev/fuse cannot be opened by this user")
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for name in ("mke2fs", "e2fsck"):
        if not shutil.which(name, path=search):
            pytest.skip("%s is not here" % name)
    found = shutil.which("fuse2fs", path=search)
    if found:
        return found
    folder = driver.folder / "fuse2fs"
    shutil.copytree(debian_tool("fuse2fs", "./usr/*"), folder, symlinks=True)
    package = next(folder.glob("*.deb"))
    needs = subprocess.run(["dpkg-deb", "-f", str(package), "Depends"], capture_output=True, check=True, timeout=60).stdout.decode()
    library = next(word.strip() for word in needs.replace("(", ",").split(",") if word.strip().startswith("libfuse"))
    place = next(Path(debian_tool(library, "./*")).rglob("libfuse*.so*")).parent
    shutil.copytree(place, folder / "lib", symlinks=True)
    program = next(folder.rglob("bin/fuse2fs"))
    wrapper = folder / "run"
    wrapper.write_text('#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' % (folder / "lib", program))
    wrapper.chmod(0o755)
    driver.own(folder)
    return str(wrapper)


def _tree(driver: Driver) -> str:
    root = linked_usr(driver.images / "linked")
    (root / "opt/old").mkdir()
    (root / "opt/old/file").write_text("image")
    (root / "opt/other").write_text("other")
    return str(driver.own(root))


def _script(driver: Driver, fuse2fs: str, *, size: int = 256, main: str = "None") -> str:
    return START % {"facts": {"fuse2fs": fuse2fs}, "size": size} + CREATE % {"root": _tree(driver), "main": main}


def _again(fuse2fs: str, identity: str) -> str:
    """Start a container once more, in another process; what is asked for stands at %s."""
    start = START % {"facts": {"fuse2fs": fuse2fs}, "size": 256}
    return start + "identity = %r\nengine.start(identity)\nanswer([%%s, said])" % identity


def _files(driver: Driver) -> list[Path]:
    return sorted(driver.state.rglob("layer.ext4*"))


def _helpers(driver: Driver, name: bytes = b"layer.ext4") -> list[int]:
    found = []
    for pid in driver.processes():
        try:
            if name in Path("/proc", str(pid), "cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def _await_none(driver: Driver) -> None:
    deadline = time.monotonic() + 20
    while _helpers(driver) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _helpers(driver)


def test_a_layer_in_a_file_is_used_like_any_and_kept_over_a_restart(driver: Driver, fuse2fs: str) -> None:
    script = _script(driver, fuse2fs) + (
        "made = run(identity, '/usr/bin/sh', '-c', 'dd if=/dev/urandom of=/opt/big bs=1M count=50 2>/dev/null && sha256sum /opt/big')\n"
        "done = run(identity, '/usr/bin/sh', '-c', 'rm -rf /opt/old && mkdir /opt/old && ls -A /opt/old && echo more >> /etc/group && touch /opt/new"
        " && chown 5:5 /opt/new && mv /opt/other /opt/renamed && ln -s renamed /opt/link && cat /opt/link')\n"
        "engine.stop(identity, 0)\nanswer([identity, made, done, said])"
    )
    identity, made, done, said = driver.run(script)
    kept, mechanism, again = driver.run(
        _again(fuse2fs, identity)
        % (
            "run(identity, '/usr/bin/sh', '-c', 'sha256sum /opt/big; ls -A /opt/old; tail -1 /etc/group; cat /opt/link; ls /opt'), "
            "engine._records.running(identity).mechanism"
        )
    )
    assert (made["code"], done["code"], kept["code"]) == (0, 0, 0), (made, done, kept)
    assert done["out"] == "other"
    assert kept["out"] == made["out"] + "more\nother" + "big\nlink\nnew\nold\nrenamed\n"
    assert mechanism == "fuse-overlayfs"
    path = _files(driver)
    assert len(path) == 1
    assert path[0].stat().st_blocks * 512 >= path[0].stat().st_size == 256 << 20  # reserved: no other file can take it away
    assert said == ["the writable layer is in an image file of 256 MB, %s: there is only network storage for it" % path[0]]
    assert again == []  # it was closed well
    assert driver.run("for one in engine.list():\n    engine.remove(one.id)\nanswer(1)") == 1
    _await_none(driver)
    assert not _files(driver)


@pytest.mark.skipif(os.getuid() != 0, reason="needs an image that belongs to root and a user who is not")
@pytest.mark.parametrize("driver", ["ordinary"], indirect=True)
def test_an_image_of_root_is_writable_for_a_user(driver: Driver, fuse2fs: str) -> None:
    root = _tree(driver)
    for top, _, _ in os.walk(root):
        os.chown(top, 0, 0)
    driver.images.chmod(0o755)
    script = START % {"facts": {"fuse2fs": fuse2fs}, "size": 256} + CREATE % {"root": root, "main": "None"}
    done = driver.run(
        script + "answer(run(identity, '/usr/bin/sh', '-c', 'rm -r /opt/old && mkdir /opt/old && ls -A /opt/old && cat /opt/other'))"
    )
    assert (done["code"], done["out"]) == (0, "other"), done
    assert _files(driver)


def test_a_full_layer_is_told_to_the_command_and_goes_on(driver: Driver, fuse2fs: str) -> None:
    script = _script(driver, fuse2fs, size=64) + (
        "full = run(identity, '/usr/bin/dd', 'if=/dev/zero', 'of=/opt/big', 'bs=1M', 'count=200')\n"
        "after = run(identity, '/usr/bin/sh', '-c', 'rm /opt/big && echo still > /opt/here && cat /opt/here')\n"
        "answer([full, after])"
    )
    full, after = driver.run(script)
    assert full["code"] == 1
    assert "No space left" in full["err"]
    assert (after["code"], after["out"]) == (0, "still\n"), after


def test_a_lost_file_system_is_a_failure(driver: Driver, fuse2fs: str) -> None:
    tell = "print(identity, flush=True)\nended = engine.wait(identity, 60)\nanswer([ended.exit_code, ended.reason])"
    child = driver.start(_script(driver, fuse2fs, main=SLEEP) + tell)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        helpers = _helpers(driver)
        assert len(helpers) == 1
        os.kill(helpers[0], signal.SIGTERM)  # a TERM to a whole job must not end it
        time.sleep(0.3)
        assert _helpers(driver) == helpers
        os.kill(helpers[0], signal.SIGKILL)
    finally:
        out, err = child.communicate(timeout=90)
    assert b"root file system lost" in out, err
    assert not out.split(b"[")[-1].startswith(b"0,")


def test_after_a_killed_monitor_nothing_runs_and_the_file_is_repaired(driver: Driver, fuse2fs: str) -> None:
    script = _script(driver, fuse2fs) + (
        "before = run(identity, '/usr/bin/sh', '-c', 'echo first > /opt/first && sync /opt/first && mkdir /opt/more && touch /opt/more/a')\n"
        "os.kill(engine._records.monitor(identity)[0], 9)\n"
        "ended = engine.wait(identity, 30)\nengine.reap()\nanswer([identity, before, ended.exit_code])"
    )
    identity, before, code = driver.run(script)
    assert before["code"] == 0, before
    assert code != 0
    _await_none(driver)
    kept, said = driver.run(_again(fuse2fs, identity) % "run(identity, '/usr/bin/cat', '/opt/first')")
    assert kept["out"] == "first\n", kept
    assert len(said) == 1
    assert said[0].endswith("had not been closed; e2fsck repaired it")


def test_without_fuse2fs_the_layer_lies_on_the_storage_and_it_says_why(driver: Driver) -> None:
    script = START % {"facts": {"fuse2fs": "", "fuse_reason": ""}, "size": 256} + CREATE % {"root": _tree(driver), "main": "None"}
    code, said = driver.run(script + "answer([run(identity, '/usr/bin/touch', '/opt/new')['code'], said])")
    assert code == 0
    assert "on network storage as it is" in said[0]
    assert "needs fuse2fs" in said[0]
    assert not _files(driver)
