"""Progress: a line now and then in a log, one that is rewritten on a terminal."""

from __future__ import annotations

import time
from typing import List

import pytest

from gha_apptainer.node.images import progress


class Terminal:
    """A `tell` of a terminal."""

    def __init__(self) -> None:
        self.lines: List[str] = []
        self.rewritten: List[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)

    def rewrite(self, text: str) -> None:
        self.rewritten.append(text)


def test_log_gets_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines: List[str] = []
    shown = progress.Progress(lines.append, "image", 200_000_000)
    for tick in range(100):
        now[0] = 100.0 + tick * 0.1
        shown.at(tick * 1_000_000)
    assert lines == ["image: 50.0 MB of 200 MB fetched (5 s)"]


def test_terminal_gets_one_line_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    terminal = Terminal()
    shown = progress.Progress(terminal, "image", 0)
    for tick in range(100):
        now[0] = tick * 0.1
        assert shown.due() == (now[0] - (tick and shown._last) >= progress.TERMINAL_INTERVAL)
        shown.at(tick * 1_000_000, "on disk")
    assert terminal.lines == []
    assert len(terminal.rewritten) > 30
    assert terminal.rewritten[-1].startswith("image: 9")
    assert "on disk" in terminal.rewritten[-1]


@pytest.mark.parametrize(("count", "text"), [(0, "0.0 MB"), (1_550_000, "1.6 MB"), (99_000_000, "99.0 MB"), (2_345_678_901, "2346 MB")])
def test_sizes(count: int, text: str) -> None:
    assert progress.megabytes(count) == text
