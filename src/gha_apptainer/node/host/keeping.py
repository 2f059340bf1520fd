"""Answers that are dear to find, kept in the state directory as text that needs no parser: every start of a container reads them.

A file is fields divided by NUL: the name of its form, the fields, and a last one that shows that it is whole.
"""

from __future__ import annotations

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Sequence

_WHOLE = "whole"
_LIMIT = 1 << 20


def keep(path: str, form: str, fields: Sequence[str]) -> None:
    """Publish the fields. Raises OSError or DiskFull."""
    files.write_whole(path, files.encode("\0".join((form, *fields, _WHOLE))))


def kept(path: str, form: str) -> Optional[List[str]]:
    """The fields, or None where the file is missing, half-written, forged or of another form."""
    try:
        first, *fields = files.decode(files.read_whole(path, limit=_LIMIT)).split("\0")
    except (OSError, GhaError):
        return None
    if first != form or not fields or fields.pop() != _WHOLE:
        return None
    return fields
