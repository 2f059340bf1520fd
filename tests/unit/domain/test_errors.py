from __future__ import annotations

import errno
import os

import pytest

from gha_apptainer.domain.errors import disk_full, is_disk_full


@pytest.mark.parametrize(
    ("number", "cause"), [(errno.EDQUOT, "the quota is used up"), (errno.ENOSPC, "the file system is full, or out of inodes")]
)
def test_a_used_up_quota_is_not_told_as_a_full_disk(number: int, cause: str) -> None:
    error = OSError(number, os.strerror(number), "/data/layer")
    assert is_disk_full(error)
    told = disk_full(error, "/data/layer")
    assert (told.exit_code, told.cause) == (79, cause)
    assert told.what == "cannot write /data/layer: %s" % os.strerror(number)
    assert told.remedy


def test_other_errors_are_no_full_disk() -> None:
    assert not is_disk_full(OSError(errno.EIO, "I/O error"))
