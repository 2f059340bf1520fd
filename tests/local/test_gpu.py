"""GPUs on a machine without one: a driver that is a stub library, and the errors of a machine that has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from driving import Driver, linked_usr

STUB = r"""
import ctypes, dataclasses
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0
assert libc.mount(None, b"/", None, 0x4000 | (1 << 18), None) == 0
assert libc.mount(%(ldconfig)r.encode(), b"/sbin/ldconfig", None, 4096, None) == 0
facts = dataclasses.replace(facts, nvidia_reason="")
engine = open_engine(facts, settings)
binds = (Mount(source="/usr", target="/usr", read_only=True),)
masks = (("CUDA_VISIBLE_DEVICES", "1"),)
load = "import ctypes, os; ctypes.CDLL('libcuda.so.1'); print(os.environ['LD_LIBRARY_PATH'])"
found = []
for gpu in ("nvidia", "none"):
    made = held(%(root)r, mounts=binds, gpu=gpu, gpu_env=masks)
    for env in (PATH, PATH + (("LD_LIBRARY_PATH", "/opt/mine"),)):
        done = run(made, "/usr/bin/python3", "-I", "-c", load, env=env)
        found.append([done["code"], done["out"].strip()])
    found.append(run(made, "/usr/bin/sh", "-c", "ls /dev | grep -c nvidia")["out"].strip())
answer(found)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="a stub driver can only be shown to Apptainer by root")
@pytest.mark.parametrize("driver", ["root"], indirect=True)
def test_the_hosts_driver_is_found_by_a_joined_process(driver: Driver) -> None:
    root = linked_usr(driver.images / "linked")
    tiny = next(path for path in Path("/usr/lib").glob("*-linux-gnu/libdl.so.2"))
    stub = driver.images / "libcuda.so.1"
    stub.write_bytes(tiny.read_bytes())
    ldconfig = driver.images / "ldconfig"
    ldconfig.write_text("#!/bin/sh\necho '\tlibcuda.so.1 (libc6,x86-64) => %s'\n" % stub)
    ldconfig.chmod(0o755)
    libs = "/.singularity.d/libs"
    found = driver.run(STUB % {"ldconfig": str(ldconfig), "root": str(root)})
    assert found[:2] == [[0, libs], [0, "/opt/mine:" + libs]]
    assert found[3][0] != 0
    assert found[2] == found[5] == "0"


@pytest.mark.parametrize("gpu", ["nvidia", "rocm"])
def test_a_gpu_that_is_not_there_is_an_error(driver: Driver, gpu: str) -> None:
    if os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd"):
        pytest.skip("this machine has a GPU")
    root = driver.own(linked_usr(driver.images / "linked"))
    said = driver.run("try:\n    held(%r, gpu=%r)\nexcept GhaError as error:\n    answer(error.what)" % (str(root), gpu))
    assert "a GPU was asked for" in said
