"""Tiers, numbered cases, allowed skips, and the fixtures that every local test leans on.

The files here run on Python 3.9 too, where only the unit tests of domain and node are collected.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest_plugins = ["conformance", "skips", "machine", "driving", "debian_tools", "registries", "pulling", "building", "hook_jobs"]

TIERS = ("unit", "local", "site", "soak")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The directory of a test is its tier."""
    for item in items:
        try:
            tier = item.path.relative_to(HERE).parts[0]
        except ValueError:
            continue
        if tier in TIERS:
            item.add_marker(tier)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests steers them; what a test needs it sets itself."""
    for name in list(os.environ):
        if name.startswith(("GITHUB_", "RUNNER_", "APPTAINER", "SINGULARITY")) or name in ("GHA_APPTAINER_SETTINGS", "GHA_APPTAINER_STATE"):
            monkeypatch.delenv(name)


def pytest_report_header() -> str:
    return "user %d, %s" % (os.getuid(), sys.executable)
