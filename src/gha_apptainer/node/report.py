"""What people and the runner read: groups, annotations, masks, the summary card. Of the node side only this module and `main` print.

Rule: on GitHub every line of ours is neutralised unless it is a command that we mean; a step's own output never passes through here.
Without GitHub the same words come as plain text, coloured only on a terminal and without NO_COLOR.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.workflow_commands import command, harmless, masks
from gha_apptainer.node.files import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

SHOWN = 10
"""How many errors, warnings and notices each GitHub shows of one step; more are said as plain lines."""
SUMMARY_LIMIT = 1 << 20
"""The largest job summary of one step, in bytes: GitHub drops the whole summary above it."""
_COLOURS = {"error": "31", "warning": "33", "notice": "36"}


def say(text: str) -> None:
    """One line on stderr, after what stdout holds."""
    sys.stdout.flush()
    sys.stderr.buffer.write(encode(text) + b"\n")
    sys.stderr.flush()


def _write(data: bytes) -> None:
    sys.stdout.flush()
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        return  # nobody reads the log any more; the record tells the end


class Report:
    """One step's report. `github` asks for workflow commands, `colour` for a terminal's colours."""

    def __init__(
        self, *, github: bool, colour: bool = False, write: Callable[[bytes], None] = _write, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._github, self._colour = github, colour
        self._write, self._clock = write, clock
        self._shown: Dict[str, int] = {}
        self._open = False

    def line(self, text: str = "") -> None:
        """A line of ours, whatever its words are."""
        for one in text.split("\n"):
            self._put(harmless(one.rstrip("\r")) if self._github else one)

    def _put(self, text: str) -> None:
        self._write(encode(text) + b"\n")

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        """A phase: folded on GitHub, ended by the time that it took, in seconds."""
        began = self._clock()
        self._open = True
        self._put("::group::" + title.replace("\n", " ") if self._github else self._paint("notice", "== " + title))
        try:
            yield
        finally:
            self._put("took %.2f s" % (self._clock() - began))
            self._close()

    def _close(self) -> None:
        if self._open and self._github:
            self._put("::endgroup::")
        self._open = False

    def error(self, title: str, lines: Sequence[str]) -> None:
        """One root cause: what happened, and below it cause and remedy."""
        self._close()  # an annotation in a folded group is overlooked
        self._annotate("error", title, "\n".join(lines))

    def warning(self, title: str, text: str) -> None:
        """Something that a person should change."""
        self._annotate("warning", title, text)

    def notice(self, title: str, text: str) -> None:
        """A decision that was taken, and that a person may want to know."""
        self._annotate("notice", title, text)

    def _annotate(self, kind: str, title: str, text: str) -> None:
        self._shown[kind] = self._shown.get(kind, 0) + 1
        if self._github and self._shown[kind] <= SHOWN:
            self._put(command(kind, text, {"title": title}))
            return
        first, *rest = text.split("\n")
        self.line(self._paint(kind, "%s: %s: %s" % (kind, title, first)))
        for one in rest:
            self.line("  " + one)

    def _paint(self, kind: str, text: str) -> str:
        return "\033[%sm%s\033[0m" % (_COLOURS[kind], text) if self._colour else text

    def mask(self, secret: str) -> None:
        """Have the runner hide a text from here on. Elsewhere nothing is printed: there is nobody to hide it."""
        if self._github:
            for text in masks(secret):
                self._put(command("add-mask", text))

    def debug(self, text: str) -> None:
        """A line that the runner shows only where it was asked for debugging; elsewhere nobody asked."""
        if self._github:
            self._put(command("debug", text))

    def failed(self, error: GhaError) -> None:
        """An error as a person reads it."""
        self.error(error.title, error.lines())


class Progress:
    """Lines of a longer work, as `tell` of the image room takes them; on a terminal the last line may be rewritten."""

    def __init__(self, report: Report, *, terminal: bool) -> None:
        self._report = report
        if terminal:
            self.rewrite = self._rewrite

    def __call__(self, text: str) -> None:
        """One line."""
        self._report.line(text)

    def _rewrite(self, text: str) -> None:
        _write(b"\r\033[K" + encode(text))


def for_github(environ: Mapping[str, str]) -> Report:
    """The report of a step: commands where a runner listens, colours where a person looks."""
    github = environ.get("GITHUB_ACTIONS") == "true"
    return Report(github=github, colour=not github and os.isatty(1) and "NO_COLOR" not in environ)


def card(title: str, rows: Sequence[Tuple[str, str]]) -> str:
    """The summary card in Markdown: a table of two columns; rows without a value are left out."""
    lines = ["### " + _cell(title), "", "| | |", "|---|---|"]
    lines += ["| %s | %s |" % (_cell(name), _cell(value)) for name, value in rows if value]
    return "\n".join(lines) + "\n\n"


def _cell(text: str) -> str:
    for plain, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\r", " "), ("\n", " "), ("`", "&#96;")):
        text = text.replace(plain, written)
    return text


def add_summary(path: str, text: str) -> bool:
    """Append to the file of GITHUB_STEP_SUMMARY; tells whether it had room. What the step wrote there itself is never lost to our card."""
    data = encode(text)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_CREAT, 0o644)
    try:
        if os.fstat(handle).st_size + len(data) > SUMMARY_LIMIT:
            return False
        os.write(handle, data)
        return True
    finally:
        os.close(handle)


def add_outputs(path: str, values: Mapping[str, str]) -> None:
    """Append to the file of GITHUB_OUTPUT, each value in a block whose end nobody could guess."""
    lines: List[str] = []
    for name, value in values.items():
        end = "gha-%s" % os.urandom(16).hex()
        lines += ["%s<<%s" % (name, end), value, end]
    data = encode("\n".join(lines) + "\n")
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            data = b"\n" + data  # the step's last line was left open
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)
