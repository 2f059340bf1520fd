"""The table of numbered cases: which hold, which fail, which could not be tried.

A test names the cases it holds by `@pytest.mark.case("apptainer-3", …)` or by a parameter id of the same form. A case holds if
every test that names it passed; a case with a skipped test and no failed one is "not tried".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

FAMILIES = ("apptainer", "peers", "act", "hooks", "pod", "interlink", "scaleset", "models", "doctor", "image", "action", "workflow")
_CASE = re.compile(r"(?:%s)(?:-[a-z]+)*-\d+[a-z]?" % "|".join(FAMILIES))
_results: dict[str, set[str]] = {}


def _cases(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("case"):
        yield from (str(name) for name in marker.args)
    parameters = getattr(item, "callspec", None)
    if parameters is not None:
        yield from _CASE.findall(parameters.id)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in _cases(item):
            if not _CASE.fullmatch(name):
                known = ", ".join(FAMILIES)
                raise pytest.UsageError("%s: %r is no case: wanted FAMILY-NUMBER with a family of %s" % (item.nodeid, name, known))
            item.user_properties.append(("case", name))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        for key, name in report.user_properties:
            if key == "case":
                _results.setdefault(str(name), set()).add(report.outcome)


def _word(outcomes: set[str]) -> str:
    return "FAILS" if "failed" in outcomes else "not tried" if "skipped" in outcomes else "holds"


def _order(name: str) -> tuple[str, int, str]:
    family, _, number = name.rpartition("-")
    return family, int(re.sub(r"\D", "", number)), number


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = {key: len(found) for key, found in terminalreporter.stats.items() if key in _COUNTED}
    collected = os.environ.get("GHA_TEST_COUNTS")
    if collected:
        with open(collected, "a", encoding="utf-8") as file:
            file.write(json.dumps(counts) + "\n")
    if not _results:
        return
    words = {name: _word(outcomes) for name, outcomes in _results.items()}
    terminalreporter.section("numbered cases")
    by_family: dict[str, list[str]] = {}
    for name in sorted(words, key=_order):
        by_family.setdefault(name.rpartition("-")[0], []).append(name)
    for family, names in by_family.items():
        for word in ("holds", "FAILS", "not tried"):
            numbers = [name.rpartition("-")[2] for name in names if words[name] == word]
            if numbers:
                terminalreporter.write_line("%-24s %-9s %3d  %s" % (family, word, len(numbers), " ".join(numbers)))
    held = sum(1 for word in words.values() if word == "holds")
    terminalreporter.write_line("%d of %d numbered cases hold" % (held, len(words)))


_COUNTED = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "warnings")
