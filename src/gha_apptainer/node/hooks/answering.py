"""The response file: written once, whole, after everything else has succeeded.

It lies in a directory that the job can write to. So it is opened as what the runner made, a file of its own user with one name, and never
through a link.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Mapping

from gha_apptainer.domain.errors import InputError, Untrusted, disk_full, is_disk_full


def write_response(path: str, answer: Mapping[str, object]) -> None:
    """Write the answer. Raises Untrusted where the file is not the runner's own, InputError where none is named."""
    if not path.startswith("/"):
        raise InputError("the runner named no response file")
    data = json.dumps(answer, ensure_ascii=True).encode("ascii")
    try:
        folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _untrusted(path, str(error.strerror)) from error
    try:
        handle = os.open(
            os.path.basename(path), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=folder
        )
    except OSError as error:
        raise _untrusted(path, str(error.strerror)) from error
    finally:
        os.close(folder)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
            raise _untrusted(path, "it is no file of the runner's own, or has a second name")
        os.ftruncate(handle, 0)
        while data:
            data = data[os.write(handle, data) :]
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(error, path) from error
        raise
    finally:
        os.close(handle)


def _untrusted(path: str, why: str) -> Untrusted:
    return Untrusted(
        "the runner's response file %s cannot be written: %s" % (path, why), cause="a step may have put a link or a file there"
    )
