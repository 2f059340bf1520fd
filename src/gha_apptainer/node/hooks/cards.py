"""The job's card: which containers it has, from which images, digests and routes. It goes to the first summary that there is.

"Initialize containers" has no summary of its own, so the card waits in the job's record for the first step that has one.
"""

from __future__ import annotations

import os
import stat
from typing import Sequence, Tuple

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.images import Image
from gha_apptainer.node import files
from gha_apptainer.node.report import SUMMARY_LIMIT, card

COMMANDS = "_temp/_runner_file_commands"


def text(rows: Sequence[Tuple[str, Image]]) -> str:
    """The card of a job: what each container is called, and its image."""
    lines = [
        (title, ", ".join(part for part in (image.reference, image.digest.text, "by route " + image.route if image.route else "") if part))
        for title, image in rows
    ]
    return card("Containers of this job", lines)


def deliver(place: str, summary: str, work: str) -> None:
    """Append a waiting card to a step's summary, once. Whatever hinders it, the step goes on."""
    waiting = os.path.join(place, "card.md")
    taken = os.path.join(place, "card.%d" % os.getpid())
    try:
        os.rename(waiting, taken)  # of several steps at once one takes it
    except OSError:
        return
    try:
        append(summary, files.decode(files.read_whole(taken)), work)
    except (GhaError, OSError):
        return


def append(summary: str, added: str, work: str) -> None:
    """Append to a summary that is the runner's own file, in the runner's own directory: the job can write there, and may have put links."""
    folder = os.path.join(work, COMMANDS)
    if not work or os.path.dirname(summary) != folder or os.path.realpath(folder) != os.path.join(os.path.realpath(work), COMMANDS):
        return
    handle = os.open(summary, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        data = files.encode(added)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_size + len(data) <= SUMMARY_LIMIT:
            os.write(handle, data)
    finally:
        os.close(handle)
