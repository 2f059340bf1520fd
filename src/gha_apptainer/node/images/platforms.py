"""A machine in the words of image indexes, and which of an index's offers it runs best.

https://github.com/opencontainers/image-spec/blob/main/image-index.md; architectures are Go's GOARCH.
"""

from __future__ import annotations

from gha_apptainer.domain.errors import HostUnfit
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
}


@dataclass(frozen=True)
class Platform:
    """Operating system, architecture and its variant (empty: none told)."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def best(self, offers: Sequence[Platform]) -> Optional[Platform]:
        """The offer for us: our own variant first, then one without, and for amd64 never a higher level than the plain one."""
        fitting = [one for one in offers if (one.os, one.architecture) == (self.os, self.architecture)]
        wanted = [self.variant, "", "v1"] if self.architecture == "amd64" else [self.variant, ""]
        for variant in wanted:
            for one in fitting:
                if one.variant == variant:
                    return one
        return None


def platform_for(machine: str) -> Platform:
    """The platform of a machine as uname names it. Raises HostUnfit for one that images are not made for."""
    if machine not in _MACHINES:
        raise HostUnfit("no image platform is known for machine %r" % machine, remedy="known: " + ", ".join(sorted(_MACHINES)))
    architecture, variant = _MACHINES[machine]
    return Platform("linux", architecture, variant)
