"""What a step writes, as the runner reads it: lines, workflow commands, masks, annotations, and the files by which steps tell things.

One processor a hook call, as in the runner: a `stop-commands` does not outlive it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

from gha_apptainer.testing.runner.documents import StepResult

_COMMAND = re.compile(r"^\s*::([^\s:]+)(?: ([^:]*(?:%3A[^:]*)*))?::(.*)$", re.DOTALL)
_OLD = re.compile(r"##\[([a-z-]+)(?: ([^\]]*))?\](.*)$", re.DOTALL)
_UNESCAPED = (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%"))
RAW_LIMIT = 4 << 20
"""So many bytes of a stream are kept as they came."""
LINES_LIMIT = 100_000
"""So many lines of a step are kept."""
_ANNOTATIONS = ("error", "warning", "notice")


class Masks:
    """Texts that no log shows."""

    def __init__(self, texts: tuple[str, ...] = ()) -> None:
        self._texts = [text for text in texts if text]

    def add(self, text: str) -> None:
        """Hide a text, and each of its lines, from here on."""
        self._texts += [one for one in (text, *text.splitlines()) if one and one not in self._texts]
        self._texts.sort(key=len, reverse=True)

    def hide(self, text: str) -> str:
        """The text as it may be shown."""
        for one in self._texts:
            text = text.replace(one, "***")
        return text


class Output:
    """One hook call's output, from two streams."""

    def __init__(self, result: StepResult, masks: Masks, *, debug: bool) -> None:
        self._result, self._masks, self._debug = result, masks, debug
        self._lock = threading.Lock()
        self._stop = ""
        self._half = {"stdout": b"", "stderr": b""}

    def feed(self, stream: str, data: bytes) -> None:
        """Bytes of a stream. A carriage return ends a line too."""
        with self._lock:
            kept = self._result.raw.get(stream, b"")
            if len(kept) < RAW_LIMIT:
                self._result.raw[stream] = kept + data
            self._result.bytes += len(data)
            parts = re.split(rb"\r\n|\r(?!$)|\n", self._half[stream] + data)
            self._half[stream] = parts.pop()
            for part in parts:
                if len(self._result.log) >= LINES_LIMIT:  # a person would not read on either
                    break
                self._line(part.decode("utf-8", "replace"))

    def end(self) -> None:
        """No more comes: lines without an end are lines now."""
        with self._lock:
            for stream, data in self._half.items():
                if data:
                    self._line(data.rstrip(b"\r").decode("utf-8", "replace"))
                self._half[stream] = b""

    def say(self, text: str) -> None:
        """A line of the runner's own."""
        with self._lock:
            self._result.log.append(self._masks.hide(text))

    def error(self, text: str) -> None:
        """An error of the runner's own."""
        with self._lock:
            self._note("error", text)

    def _line(self, line: str) -> None:
        found = _COMMAND.match(line) or _OLD.search(line)
        if found is None:
            self._result.log.append(self._masks.hide(line))
            return
        name, properties, message = found.group(1), _properties(found.group(2) or ""), _unescaped(found.group(3))
        if self._stop:
            if name == self._stop:
                self._stop = ""
            self._result.log.append(self._masks.hide(line))
        elif not self._command(name, properties, message):
            self._result.log.append(self._masks.hide(line))

    def _command(self, name: str, properties: dict[str, str], message: str) -> bool:
        """Do what a command says; whether it was one."""
        if name in _ANNOTATIONS:
            self._note(name, message)
        elif name == "add-mask":
            self._masks.add(message)
        elif name in ("group", "endgroup"):
            self._result.log.append(self._masks.hide("##[%s]%s" % (name, message)))
        elif name == "debug":
            if self._debug:
                self._result.log.append(self._masks.hide("##[debug]" + message))
        elif name == "set-output" and "name" in properties:
            self._result.outputs[properties["name"]] = message
        elif name == "stop-commands":
            self._stop = message
        else:
            return name in ("save-state", "echo", "add-matcher", "remove-matcher")
        return True

    def _note(self, kind: str, message: str) -> None:
        text = self._masks.hide(message)
        self._result.annotations.append((kind, text))
        self._result.log.append("##[%s]%s" % (kind, text))


def _properties(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if equals:
            found[key] = _unescaped(value)
    return found


def _unescaped(text: str) -> str:
    for written, plain in _UNESCAPED:
        text = text.replace(written, plain)
    return text


FILE_COMMANDS = ("ENV", "PATH", "OUTPUT", "STATE", "STEP_SUMMARY")


def key_values(path: Path, tell: Callable[[str], None]) -> dict[str, str]:
    """A file of `name=value` lines and `name<<END` blocks. What is none of these is an error that the runner tells."""
    found: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    while lines:
        line = lines.pop(0)
        if not line.strip():
            continue
        equals, heredoc = line.find("="), line.find("<<")
        if equals >= 0 and (heredoc < 0 or equals < heredoc):
            found[line[:equals]] = line[equals + 1 :]
        elif heredoc >= 0:
            name, end = line[:heredoc], line[heredoc + 2 :]
            if end not in lines:
                tell("Invalid value. Matching delimiter not found '%s'" % end)
                break
            at = lines.index(end)
            found[name] = "\n".join(lines[:at])
            lines = lines[at + 1 :]
        else:
            tell("Invalid format '%s'" % line)
    return found
