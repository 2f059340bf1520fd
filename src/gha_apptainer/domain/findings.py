"""What doctors, checks and verifications say: one finding a line, one renderer for all."""

from __future__ import annotations

from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclass(frozen=True)
class Finding:
    """One answer of one check. `status` is ok, warn, fail or skip; `remedy` is empty where nothing is to be done."""

    id: str
    status: str
    finding: str
    remedy: str = ""


def worst(findings: Sequence[Finding]) -> str:
    """The gravest status among the findings: fail before warn before ok; skip counts as ok."""
    present = {one.status for one in findings}
    return FAIL if FAIL in present else WARN if WARN in present else OK
