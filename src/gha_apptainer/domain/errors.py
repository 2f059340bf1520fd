"""The one page of errors: every failure a user can meet, with its exit code.

    GhaError                 70  a defect of ours; everything below is expected to happen in the field
    +-- InputError           71  an argument, an input or a file that a person wrote is wrong
    +-- Refused              72  understood, but cannot or may not be honoured here
    +-- HostUnfit            73  the machine lacks something that containers need
    +-- EngineFailed         74  a container could not be set up, entered or ended
    +-- TimedOut             75  something did not happen within its limit
    +-- ImageFailed          76  an image could not be found, fetched or read
    +-- Untrusted            77  a record, a directory or a document is not what it must be (owner, mode, version, form)
    +-- ProcessFailed        78  a program that we started ended badly
    +-- DiskFull             79  no space, no inodes or no quota left

The docker-like verbs, the hooks and the action answer 125 for all of them, as `docker run` does; other commands use the
code of the class. Codes never prove success inside the product: callers read the result record.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Sequence, Tuple

DOCKER_FAILURE = 125
"""Exit code of the docker-like verbs when the failure is ours and not the command's."""
DOCKER_NOT_EXECUTABLE = 126
DOCKER_NOT_FOUND = 127

_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT)


class GhaError(Exception):
    """A failure with a cause and a remedy, printed once by the door that catches it.

    `what` says what happened, naming the thing; `cause` the likely reason; `remedy` what to do next.
    """

    exit_code: ClassVar[int] = 70
    title: ClassVar[str] = "internal error"

    def __init__(self, what: str, *, cause: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.remedy = remedy

    def lines(self) -> Tuple[str, ...]:
        """What a person reads, one thought a line."""
        found = [self.what]
        if self.cause:
            found.append("cause: " + self.cause)
        if self.remedy:
            found.append("remedy: " + self.remedy)
        return tuple(found)


class InputError(GhaError):
    """An argument, an input or a file that a person wrote is wrong."""

    exit_code = 71
    title = "bad input"


class Refused(GhaError):
    """Understood, but it cannot or may not be honoured here; names the option or field."""

    exit_code = 72
    title = "refused"


class HostUnfit(GhaError):
    """The machine lacks something that containers need; names the setting to change."""

    exit_code = 73
    title = "this machine cannot do it"


class EngineFailed(GhaError):
    """A container could not be set up, entered or ended."""

    exit_code = 74
    title = "container failed"


class TimedOut(GhaError):
    """Something did not happen within its limit; names the thing and the limit."""

    exit_code = 75
    title = "timed out"


class ImageFailed(GhaError):
    """An image could not be found, fetched or read; names image, route or registry, and reason."""

    exit_code = 76
    title = "image failed"


class Untrusted(GhaError):
    """A record, a directory or a document is not what it must be: owner, mode, version or form."""

    exit_code = 77
    title = "not trusted"


class ProcessFailed(GhaError):
    """A program that we started ended badly. `code` is its exit code, negative for a signal."""

    exit_code = 78
    title = "program failed"

    def __init__(self, argv: Sequence[str], code: int, stderr: str, *, cause: str = "", remedy: str = "") -> None:
        ended = "signal %d" % -code if code < 0 else "exit code %d" % code
        tail = stderr.strip()[-2000:]
        super().__init__("%s ended with %s%s" % (argv[0] if argv else "?", ended, ": " + tail if tail else ""), cause=cause, remedy=remedy)
        self.argv = tuple(argv)
        self.code = code
        self.stderr = stderr


class DiskFull(GhaError):
    """No space, no inodes or no quota left; names the path."""

    exit_code = 79
    title = "no space left"


def is_disk_full(error: OSError) -> bool:
    """Whether the system's error means that space, inodes or quota ran out."""
    return error.errno in _DISK_ERRNOS


def disk_full(error: OSError, path: str) -> DiskFull:
    """The one error for ENOSPC and EDQUOT, met at write, fsync or close."""
    kind = "the quota is used up" if error.errno == errno.EDQUOT else "the file system is full, or out of inodes"
    return DiskFull(
        "cannot write %s: %s" % (path, error.strerror or "no space"),
        cause=kind,
        remedy="free space there (gha-apptainer image gc), or point the setting at another file system",
    )
