"""The engine inside its own containers, two levels deep: what a runner in a container needs for `container:` jobs."""

from __future__ import annotations

import os

import pytest
from driving import PRELUDE, SRC, Driver, linked_usr

LEVEL = r"""
import json, os, subprocess
script = os.environ["LEVEL_SCRIPT"]
depth = int(os.environ["LEVEL_DEPTH"])
binds = tuple(Mount(source=path, target=path, read_only=True) for path in json.loads(os.environ["LEVEL_BINDS"]))
env = PATH + (
    ("GHA_APPTAINER", os.environ["GHA_APPTAINER"]), ("LEVEL_SCRIPT", script), ("LEVEL_DEPTH", str(depth - 1)),
    ("LEVEL_BINDS", os.environ["LEVEL_BINDS"]), ("LEVEL_ROOT", os.environ["LEVEL_ROOT"]), ("GHA_APPTAINER_STATE", "/tmp/nested"),
)
if depth:
    argv = ("/usr/bin/python3", "-I", "-S", "-c", script)
else:
    argv = ("/usr/bin/sh", "-c", "touch /made && chown 5:5 /made && rm -rf /opt/old && mkdir /opt/old && id -u && exit 42")
made = spec(os.environ["LEVEL_ROOT"], main=ExecRequest(argv=argv, env=env), pid=os.getpid(), mounts=binds, remove=True)
try:
    ended = engine.run(made, "", Stdio(-1, 1, 2))
except GhaError as error:
    sys.stderr.write("level %d: %s" % (depth, " | ".join(error.lines())))
    sys.exit(125)
sys.exit(ended.exit_code)
"""


@pytest.mark.parametrize("depth", [1, 2])
def test_containers_in_containers(driver: Driver, depth: int) -> None:
    root = linked_usr(driver.images / "linked")
    (root / "opt/old").mkdir()
    (root / "opt/old/file").touch()
    driver.own(root)
    prefix = os.path.dirname(os.path.dirname(driver.apptainer))
    script = PRELUDE + LEVEL
    environ = {
        "LEVEL_SCRIPT": script,
        "LEVEL_DEPTH": str(depth),
        "LEVEL_BINDS": '["/usr", "%s", "%s", "%s"]' % (SRC, prefix, root),
        "LEVEL_ROOT": str(root),
    }
    child = driver.start(LEVEL, environ=environ)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (42, b"0\n"), err.decode("utf-8", "replace")
