"""The table of numbered cases: which hold, which fail, which could not be tried.

A test names the cases it holds by `@pytest.mark.case("apptainer-3", …)` or by a parameter id of the same form. A case holds if
every test that names it passed; a case with a skipped test and no failed one is "not tried". A test whose expected result is that
something is refused says `@pytest.mark.refused("hooks-61", …)` instead; a case that has only such tests is "refused as specified", and only
the cases may be so whose own words offer it. Of a family whose numbers are all known it is said which are missing.
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
WHOLE = {"hooks": 80}
"""Families whose cases are numbered from 1 to this: docs/reference says what each means."""
REFUSABLE = {"hooks": frozenset({38, 55, 56, 60, 61, 64, 65, 66, 70, 73, 79})}
_results: dict[str, set[str]] = {}
_refusals: dict[str, set[str]] = {}


def _cases(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("case"):
        yield from (str(name) for name in marker.args)
    for marker in item.iter_markers("refused"):
        for name in map(str, marker.args):
            family, _, number = name.rpartition("-")
            if int(number) not in REFUSABLE.get(family, ()):
                raise pytest.UsageError("%s: %s may not be met by a refusal" % (item.nodeid, name))
            yield "refused " + name
    parameters = getattr(item, "callspec", None)
    if parameters is not None:
        yield from _CASE.findall(parameters.id)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name in _cases(item):
            if not _CASE.fullmatch(name.rpartition(" ")[2]):
                known = ", ".join(FAMILIES)
                raise pytest.UsageError("%s: %r is no case: wanted FAMILY-NUMBER with a family of %s" % (item.nodeid, name, known))
            item.user_properties.append(("case", name))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        for key, name in report.user_properties:
            if key == "case":
                word, _, plain = str(name).rpartition(" ")
                (_refusals if word else _results).setdefault(plain, set()).add(report.outcome)


_REFUSED = "refused as specified"


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
    if not _results and not _refusals:
        return
    words = {name: _word(outcomes | _refusals.get(name, set())) for name, outcomes in _results.items()}
    words.update({name: _REFUSED if _word(found) == "holds" else _word(found) for name, found in _refusals.items() if name not in words})
    terminalreporter.section("numbered cases")
    by_family: dict[str, list[str]] = {}
    for name in sorted(words, key=_order):
        by_family.setdefault(name.rpartition("-")[0], []).append(name)
    for family, names in by_family.items():
        for word in ("holds", _REFUSED, "FAILS", "not tried"):
            numbers = [name.rpartition("-")[2] for name in names if words[name] == word]
            if numbers or (word == _REFUSED and family in WHOLE):
                terminalreporter.write_line("%-24s %-20s %3d  %s" % (family, word, len(numbers), " ".join(numbers)))
        if family in WHOLE:
            missing = [str(number) for number in range(1, WHOLE[family] + 1) if "%s-%d" % (family, number) not in words]
            terminalreporter.write_line("%-24s %-20s %3d  %s" % (family, "missing", len(missing), " ".join(missing)))
    held = sum(1 for word in words.values() if word in ("holds", _REFUSED))
    terminalreporter.write_line("%d of %d numbered cases hold" % (held, len(words)))


_COUNTED = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "warnings")
