"""What every face sees of an engine; the real one and the double are siblings behind it."""

from __future__ import annotations

from gha_apptainer.domain.containers import Container, ContainerSpec, ExecRequest, ExitStatus, LogLine, Stdio
from gha_apptainer.domain.findings import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Optional, Protocol, Sequence
else:
    Protocol = object


class Engine(Protocol):
    """What every face sees of an engine. Ids are 64 hex digits; where one is taken, a name or a unique beginning serves too."""

    def create(self, spec: ContainerSpec, name: str = "") -> str:
        """Record a container; nothing runs yet."""

    def start(self, id: str, stdio: Optional[Stdio] = None) -> None:
        """Start it; it goes on by itself."""

    def run(self, spec: ContainerSpec, name: str, stdio: Stdio, *, grace: float = 0.0) -> ExitStatus:
        """Create, start and wait in the foreground; the container ends with this process."""

    def exec(self, id: str, request: ExecRequest, stdio: Stdio) -> ExitStatus:
        """Run a command in a running container and wait for it."""

    def stop(self, id: str, grace: float) -> ExitStatus:
        """The stop signal, the grace (seconds), then SIGKILL."""

    def kill(self, id: str, number: int) -> None:
        """A signal to the main process."""

    def wait(self, id: str, timeout: float) -> Optional[ExitStatus]:
        """How it ended, or None if it still runs after `timeout` seconds."""

    def wait_healthy(self, id: str, timeout: float) -> str:
        """Until its health is known: "healthy", "unhealthy", "exited", or "starting" when `timeout` seconds are over.

        A running container without a health check is "healthy" at once. An unhealthy one may become healthy later.
        """

    def logs(self, id: str, *, follow: bool = False, tail: int = -1) -> Iterator[LogLine]:
        """What it wrote, line by line."""

    def list(self, scope: str = "") -> Sequence[Container]:
        """All containers of this user on this host, or of one scope."""

    def get(self, id: str) -> Container:
        """One container; InputError if there is none."""

    def remove(self, id: str) -> None:
        """End it if it runs, and remove all of it."""

    def reap(self) -> Sequence[Finding]:
        """Clean up what dead owners left."""
