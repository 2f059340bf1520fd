"""What a check is given, and the four things that it can say."""

from __future__ import annotations

from typing import Mapping, Tuple

from gha_apptainer.domain.findings import FAIL, OK, SKIP, WARN
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass

Said = Tuple[str, str, str]
"""Status, finding, remedy."""


@dataclass(frozen=True)
class Patient:
    """The machine under examination. `scratch` is a private directory on the disk of the state directory, gone afterwards."""

    facts: HostFacts
    settings: NodeSettings
    environ: Mapping[str, str]
    scratch: str


def ok(finding: str) -> Said:
    """As it should be."""
    return (OK, finding, "")


def warn(finding: str, remedy: str = "") -> Said:
    """It works, but slower, or with less."""
    return (WARN, finding, remedy)


def fail(finding: str, remedy: str) -> Said:
    """Containers cannot run like this."""
    return (FAIL, finding, remedy)


def skip(finding: str) -> Said:
    """It does not apply here."""
    return (SKIP, finding, "")
