"""How a piece of work ended: one word, with cause, remedy and figures."""

from __future__ import annotations

from enum import Enum
from typing import Mapping, Optional

from gha_apptainer.domain.values import dataclass, field


class Word(Enum):
    """The whole vocabulary of endings. Only SUCCEEDED is success; UNKNOWN never is."""

    SUCCEEDED = 0
    FAILED = 1
    KILLED = 2
    OOM = 3
    WALLTIME = 4
    CANCELLED = 5
    IMAGE = 6
    REFUSED = 7
    NODE_LOST = 8
    UNKNOWN = 9


@dataclass(frozen=True)
class Verdict:
    """One word for how work ended. `numbers` holds the figures that explain it, in bytes and seconds."""

    word: Word
    exit_code: Optional[int] = None
    cause: str = ""
    remedy: str = ""
    numbers: Mapping[str, int] = field(default_factory=dict)
