"""In CI only the skips of tests/allowed-skips.txt are skips; any other is a failure that says so.

A line of that file is `TEST PATTERN | REASON PATTERN | why this may be`; patterns as in a shell.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Union

import pytest

LIST = Path(__file__).parent.parent / "allowed-skips.txt"


@lru_cache(maxsize=1)
def allowed() -> tuple[tuple[str, str], ...]:
    """The pairs of patterns; a line of another form is an error."""
    pairs = []
    for number, line in enumerate(LIST.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" | ")]
        if len(parts) != 3 or not all(parts):
            raise pytest.UsageError("%s:%d: wanted TEST | REASON | WHY" % (LIST, number))
        pairs.append((parts[0], parts[1]))
    return tuple(pairs)


def is_allowed(test: str, reason: str) -> bool:
    """Whether a skip of this test for this reason is on the list. `reason` may carry pytest's own prefix."""
    reason = reason[len("Skipped: ") :] if reason.startswith("Skipped: ") else reason
    return any(fnmatchcase(test, one) and fnmatchcase(reason, why) for one, why in allowed())


def _judge(report: Union[pytest.TestReport, pytest.CollectReport]) -> None:
    if report.outcome != "skipped" or os.environ.get("CI", "").lower() not in ("1", "true") or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not is_allowed(report.nodeid, reason):
        report.outcome = "failed"
        report.longrepr = "%s\nCI allows only the skips of tests/allowed-skips.txt, and this is none of them" % reason


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _judge(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _judge(report)
    return report
