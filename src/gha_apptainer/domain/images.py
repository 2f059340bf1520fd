"""Images: what was asked for, what it resolved to, and what the image says of itself."""

from __future__ import annotations

from gha_apptainer.domain.errors import ImageFailed
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Tuple

SANDBOX, SIF = "sandbox", "sif"
PULL_ALWAYS, PULL_IF_NOT_PRESENT, PULL_NEVER = "always", "if-not-present", "never"
PULL_POLICIES = (PULL_ALWAYS, PULL_IF_NOT_PRESENT, PULL_NEVER)


@dataclass(frozen=True)
class Health:
    """A health check. `test` is Docker's array: ("NONE",), ("CMD", …) or ("CMD-SHELL", text). Times in seconds; 0 is Docker's default.

    `start_interval` is the interval while the container is starting, within its `start_period`.
    """

    test: Tuple[str, ...]
    interval: float = 0.0
    timeout: float = 0.0
    start_period: float = 0.0
    retries: int = 0
    start_interval: float = 0.0


@dataclass(frozen=True)
class OciConfig:
    """The part of an OCI image configuration that says how to run it, and with `shell` and `onbuild` how to build from it.

    https://github.com/opencontainers/image-spec/blob/main/config.md
    """

    entrypoint: Tuple[str, ...] = ()
    cmd: Tuple[str, ...] = ()
    env: Tuple[Tuple[str, str], ...] = ()
    user: str = ""
    workdir: str = ""
    volumes: Tuple[str, ...] = ()
    ports: Tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Optional[Health] = None
    labels: Tuple[Tuple[str, str], ...] = ()
    shell: Tuple[str, ...] = ()
    onbuild: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Digest:
    """A digest and what it is the digest of: index, manifest (of one platform), config, file, build, or none (`text` empty).

    A build's is of configuration, base and layers, by content: the same build gives the same one.
    """

    text: str = ""
    kind: str = "none"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Image:
    """A root filesystem that is ready to run. `form` is sandbox (`rootfs` a directory) or sif (a file).

    `route` names how it was found (alias, path, cvmfs, store, registry), `reference` is the canonical reference that was asked for.
    """

    reference: str
    digest: Digest
    config: OciConfig
    rootfs: str
    form: str
    route: str


def check_pull_policy(text: str) -> str:
    """The policy itself, or ImageFailed naming the accepted ones."""
    if text not in PULL_POLICIES:
        raise ImageFailed("unknown pull policy %r" % text, remedy="use one of: " + ", ".join(PULL_POLICIES))
    return text
