"""Fixtures of real things: this machine, root filesystems from packages, and a state directory that must be clean afterwards."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gha_apptainer.domain.hosts import HostFacts

STATE = "GHA_APPTAINER_STATE"
SETTLE_S = 10.0
"""How long what a test started may take to be gone; killing a container takes milliseconds."""


def _nothing(text: str) -> None:
    """Sessions build images silently; failures raise."""


@pytest.fixture(scope="session")
def busybox_rootfs() -> str:
    """The directory of a busybox image. Read only: it is shared and kept."""
    from gha_apptainer.node.provision.base_images import busybox_image

    return busybox_image(os.environ, _nothing)


@pytest.fixture(scope="session")
def debian_rootfs() -> str:
    """The directory of a Debian image with python3 and pip. Read only: it is shared and kept."""
    from gha_apptainer.node.provision.base_images import debian_image

    return debian_image(os.environ, _nothing, ("python3-pip",))


@pytest.fixture
def host(state: str) -> HostFacts:
    """What this machine can do, probed anew, with its records in `state`."""
    from gha_apptainer.node import host as prober

    found = prober.probe(prober.load_settings(os.environ), os.environ)
    assert found.apptainer, "no Apptainer works here (%s): scripts/setup installs one" % found.apptainer_reason
    return found


@pytest.fixture
def state(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh state directory, set for us and for programs we start. Afterwards no process, mount or container of it may be left."""
    with tempfile.TemporaryDirectory(prefix="gha-state-", dir="/tmp") as directory:
        monkeypatch.setenv(STATE, directory)
        yield directory
        marker = request.node.get_closest_marker("leaves")
        left = leftovers(directory)
        if marker is None:
            limit = time.monotonic() + SETTLE_S
            while left and time.monotonic() < limit:
                time.sleep(0.1)
                left = leftovers(directory)
            assert not left, "the test left behind: %s" % "; ".join(left)


def leftovers(directory: str) -> list[str]:
    """Processes that name the state directory in argument, environment or mounts, mounts below it, and containers in it."""
    return [*_processes(directory), *_containers(directory)]


def _processes(directory: str) -> Iterator[str]:
    needle = directory.encode()
    seen_mounts: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        told = [name for name in ("cmdline", "environ") if needle in _read("/proc/%s/%s" % (pid, name))]
        namespace = _link("/proc/%s/ns/mnt" % pid)
        if not told and namespace not in seen_mounts and needle in _read("/proc/%s/mountinfo" % pid):
            told = ["mounts"]
        seen_mounts.add(namespace)
        if told:
            yield "process %s (%s)" % (
                pid,
                _read("/proc/%s/cmdline" % pid).replace(b"\0", b" ").decode("utf-8", "replace").strip() or told[0],
            )
    if needle in _read("/proc/self/mountinfo"):
        yield "a mount below %s" % directory


def _containers(directory: str) -> Iterator[str]:
    try:
        names = os.listdir(os.path.join(directory, "containers"))
    except FileNotFoundError:
        return
    for name in names:
        yield "container record %s" % name


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return path
