from __future__ import annotations

from pathlib import Path

import pytest

from gha_apptainer.domain.errors import InputError
from gha_apptainer.node.report import SHOWN, SUMMARY_LIMIT, Report, add_outputs, add_summary, card


class Log:
    def __init__(self, *, github: bool = True, colour: bool = False) -> None:
        self.data = b""
        self.now = 0.0
        self.report = Report(github=github, colour=colour, write=self._write, clock=lambda: self.now)

    def _write(self, data: bytes) -> None:
        self.data += data

    @property
    def lines(self) -> list[str]:
        return self.data.decode("utf-8", "surrogateescape").splitlines()


def _fail_after(log: Log, seconds: float) -> None:
    with log.report.group("Image\nx"):
        log.now = seconds
        raise KeyError


def test_a_group_ends_with_its_time_also_when_it_fails() -> None:
    log = Log()
    with pytest.raises(KeyError):
        _fail_after(log, 1.5)
    assert log.lines == ["::group::Image x", "took 1.50 s", "::endgroup::"]


def test_an_error_is_one_annotation_outside_of_the_group() -> None:
    log = Log()
    with log.report.group("Image"):
        log.report.failed(InputError("what", cause="why", remedy="so"))
    assert log.lines == ["::group::Image", "::endgroup::", "::error title=bad input::what%0Acause: why%0Aremedy: so", "took 0.00 s"]


def test_after_ten_annotations_of_a_kind_the_rest_is_text() -> None:
    log = Log()
    for number in range(SHOWN + 2):
        log.report.warning("w", str(number))
    log.report.notice("n", "::error::x")
    assert sum(line.startswith("::warning") for line in log.lines) == SHOWN
    assert log.lines[SHOWN:] == ["warning: w: 10", "warning: w: 11", "::notice title=n::::error::x"]


def test_our_own_words_are_never_commands() -> None:
    log = Log()
    log.report.line("ok\n::set-output name=x::y\r\n ##[error]z")
    assert log.lines == ["ok", "> ::set-output name=x::y", " ## [error]z"]


def test_elsewhere_there_are_no_commands_and_no_masks() -> None:
    log = Log(github=False)
    log.report.mask("hunter2")
    with log.report.group("Image"):
        log.report.error("bad", ["a", "b"])
    assert log.lines == ["== Image", "error: bad: a", "  b", "took 0.00 s"]


def test_colour_only_where_asked_for() -> None:
    assert b"\033" in _error(colour=True)
    assert b"\033" not in _error(colour=False)


def _error(*, colour: bool) -> bytes:
    log = Log(github=False, colour=colour)
    log.report.error("bad", ["a"])
    return log.data


def test_masks_come_escaped() -> None:
    log = Log()
    log.report.mask("first line\nsecond line")
    assert log.lines == ["::add-mask::first line%0Asecond line", "::add-mask::first line", "::add-mask::second line"]


def test_card() -> None:
    text = card("a|b", [("x", "1|2\n<b>`c`"), ("y", "")])
    assert text == "### a\\|b\n\n| | |\n|---|---|\n| x | 1\\|2 &lt;b&gt;&#96;c&#96; |\n\n"


def test_the_card_never_costs_the_steps_own_summary(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    path.write_bytes(b"x" * (SUMMARY_LIMIT - 10))
    assert not add_summary(str(path), "more than ten bytes")
    assert path.stat().st_size == SUMMARY_LIMIT - 10
    assert add_summary(str(path), "short")


def test_outputs_of_any_text_after_a_line_that_was_left_open(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_bytes(b"user=1")
    add_outputs(str(path), {"a": "x\ny=z\nEOF", "b": ""})
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines[0] == "user=1"
    name, _, end = lines[1].partition("<<")
    assert (name, lines[2:5], lines[5]) == ("a", ["x", "y=z", "EOF"], end)
