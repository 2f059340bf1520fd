"""What a container wrote, kept line by line in the kubelet's own format, in files of bounded size.

`TIME STREAM TAG TEXT`, TAG F for a whole line and P for a part of one
(https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md).
"""

from __future__ import annotations

import os
import time

from gha_apptainer.domain.containers import LogLine
from gha_apptainer.domain.errors import disk_full, is_disk_full

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Callable, Dict, Iterator, List, Optional, Tuple

PART = 16 << 10
"""The longest piece of a line in one record, in bytes."""
_NAME = "0.log"


class LogWriter:
    """Appends to `directory/0.log`; at `limit` bytes it becomes 1.log and so on, `keep` files in all. Memory stays flat."""

    def __init__(self, directory: str, limit: int, keep: int) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory, self._limit, self._keep = directory, limit, keep
        self._rest: Dict[str, bytes] = {}
        self._handle = self._open()
        self._size = os.fstat(self._handle).st_size

    def _open(self) -> int:
        return os.open(os.path.join(self._directory, _NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def feed(self, stream: str, data: bytes) -> None:
        """Take what came from a stream, whole lines or not. Raises DiskFull."""
        data = self._rest.pop(stream, b"") + data
        lines = data.split(b"\n")
        rest = lines.pop()
        out, size = [], 0
        for line in lines:
            out.append(self._record(stream, line))
            size += len(out[-1])
            if self._size + size >= self._limit:
                self._write(b"".join(out))
                out, size = [], 0
        while len(rest) >= PART:
            out.append(self._format(stream, b"P", rest[:PART]))
            rest = rest[PART:]
        if rest:
            self._rest[stream] = rest
        self._write(b"".join(out))

    def close(self) -> None:
        """Write what is left of unfinished lines and close."""
        for stream, rest in sorted(self._rest.items()):
            self._write(self._format(stream, b"P", rest))
        self._rest = {}
        os.close(self._handle)

    def _record(self, stream: str, line: bytes) -> bytes:
        parts = [line[at : at + PART] for at in range(0, len(line), PART)] or [b""]
        return b"".join(self._format(stream, b"P" if part is not parts[-1] else b"F", part) for part in parts)

    @staticmethod
    def _format(stream: str, tag: bytes, text: bytes) -> bytes:
        now = time.time_ns()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
        return b"%s.%09dZ %s %s %s\n" % (stamp.encode(), now % 10**9, stream.encode(), tag, text)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                written = os.write(self._handle, data)
                data = data[written:]
                self._size += written
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(error, self._directory) from error
            raise
        if self._size >= self._limit:
            self._rotate()

    def _rotate(self) -> None:
        os.close(self._handle)
        for number in range(self._keep - 1, 0, -1):
            older = os.path.join(self._directory, "%d.log" % (number - 1))
            if os.path.exists(older):
                os.rename(older, os.path.join(self._directory, "%d.log" % number))
        if self._keep < 2:
            os.unlink(os.path.join(self._directory, _NAME))
        self._handle = self._open()
        self._size = 0


def parse(record: bytes) -> LogLine:
    """One line of a log file, without its newline. Raises ValueError if it is none."""
    stamp, stream, tag, text = record.split(b" ", 3)
    whole, _, fraction = stamp.rstrip(b"Z").partition(b".")
    moment = time.strptime(whole.decode(), "%Y-%m-%dT%H:%M:%S")
    return LogLine(time=_utc(moment) + int(fraction) / 1e9, stream=stream.decode(), text=text, partial=tag == b"P")


def _utc(moment: time.struct_time) -> float:
    import calendar

    return float(calendar.timegm(moment))


def read(directory: str, *, follow: bool, tail: int, ended: Callable[[], bool], pause: float = 0.05) -> Iterator[LogLine]:
    """The lines of a log, oldest first; `tail` limits to the last so many (-1: all).

    With `follow` it goes on until `ended` says that nothing more will come. Rotation while following loses nothing: the open file is read
    to its end before the next one is opened.
    """
    names = sorted((name for name in _list(directory) if name.endswith(".log")), key=lambda name: -int(name.split(".")[0]))
    older = [name for name in names if name != _NAME]
    lines: List[bytes] = []
    for name in older:
        with open(os.path.join(directory, name), "rb") as handle:
            chunk = handle.read().splitlines()
        lines = (lines + chunk)[-tail:] if tail > 0 else lines + chunk if tail < 0 else []
        if tail < 0:
            yield from map(parse, lines)
            lines = []
    if _NAME not in names and not follow:
        yield from map(parse, lines)
        return
    yield from _current(directory, lines, follow, tail, ended, pause)


def _current(directory: str, before: List[bytes], follow: bool, tail: int, ended: Callable[[], bool], pause: float) -> Iterator[LogLine]:
    path = os.path.join(directory, _NAME)
    handle = _opened(path, ended, pause)
    if handle is None:
        return
    try:
        chunk, rest = _whole_lines(handle.read())
        lines = before + chunk
        yield from map(parse, lines if tail < 0 else lines[len(lines) - min(tail, len(lines)) :])
        while follow:
            last = ended()  # asked before reading: what was written until then is read below
            more, rest = _whole_lines(rest + handle.read())
            yield from map(parse, more)
            if not more and _rotated(path, handle.fileno()):
                following = _opened(path, ended, pause)
                if following is None:
                    return
                handle.close()
                handle = following
            elif last and not more:
                return
            elif not more:
                time.sleep(pause)
    finally:
        handle.close()


def _opened(path: str, ended: Callable[[], bool], pause: float) -> Optional[BinaryIO]:
    """The newest file as soon as it is there; at any moment the writer may be between two of them. None if there will be none."""
    while True:
        last = ended()
        try:
            return open(path, "rb")
        except FileNotFoundError:
            if last:
                return None
        time.sleep(pause)


def _whole_lines(data: bytes) -> Tuple[List[bytes], bytes]:
    lines = data.split(b"\n")
    return lines[:-1], lines[-1]


def _rotated(path: str, handle: int) -> bool:
    try:
        return os.stat(path).st_ino != os.fstat(handle).st_ino
    except FileNotFoundError:
        return False


def _list(directory: str) -> List[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
