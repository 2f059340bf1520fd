"""Programs that tests need and this machine may lack, from Debian packages, unpacked privately for one session."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

Tool = Callable[[str, str], str]
"""Path of a program of a Debian package, unpacked privately."""


@pytest.fixture(scope="session")
def debian_tool(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """Programs of Debian packages that this machine lacks, fetched with its own apt and unpacked beside the other test files."""
    folder = tmp_path_factory.mktemp("debian")

    def fetch(package: str, inside: str) -> str:
        target = folder / package
        if not target.exists():
            if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
                pytest.skip("%s is not here, and this is no Debian to fetch it from" % package)
            target.mkdir()
            got = subprocess.run(["apt-get", "-q", "download", package], cwd=target, capture_output=True, check=False, timeout=600)
            if got.returncode:
                pytest.skip("%s is not here, and apt-get cannot fetch it: %s" % (package, got.stderr.decode()[-200:]))
            with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", *map(str, target.glob("*.deb"))], stdout=subprocess.PIPE) as archive:
                subprocess.run(["tar", "-x", "-C", str(target), "--wildcards", inside], stdin=archive.stdout, check=True, timeout=600)
        return str(target)

    return fetch
