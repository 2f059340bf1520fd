"""The result record of a step: written whole, read back, believed only then."""

from __future__ import annotations

import os

from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import DOCKER_FAILURE, Untrusted
from gha_apptainer.domain.step_records import StepRecord
from gha_apptainer.domain.verdicts import Word
from gha_apptainer.node import files

RESULTS = "GHA_APPTAINER_RESULTS"
"""Directory where whoever runs the workflow wants the records of its container steps."""


def publish(record: StepRecord, folder: str, *, keep: bool) -> int:
    """Write the record into `folder`, read it back, and give the exit code that it proves; it stays there if `keep`.

    Raises DiskFull or OSError where it cannot be written, Untrusted where it is not what was written.
    """
    path = os.path.join(folder, "container-step-%d-%s.json" % (os.getpid(), os.urandom(6).hex()))
    files.write_whole(path, to_json(record).encode("ascii"))
    try:
        found = from_json(StepRecord, files.read_whole(path, limit=1 << 20).decode("ascii"))
    finally:
        if not keep:
            os.unlink(path)
    if found != record:
        raise Untrusted("the record of the step is not what was written: %s" % path)
    if found.exit_code == 0 and found.word != Word.SUCCEEDED.name:
        return DOCKER_FAILURE
    return found.exit_code
