"""What is asked for, and the registry as the routes share it within one fetch: asked once, and only if a route needs the answer."""

from __future__ import annotations

from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import ImageRef
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.images.platforms import platform_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from gha_apptainer.node.images.registry_client import RegistryClient, Resolved


@dataclass(frozen=True)
class Question:
    """What is looked for, and for whom."""

    ref: ImageRef
    policy: str
    settings: NodeSettings
    host: HostFacts


class RegistryRemote:
    """A client that is made at the first question, with what it found."""

    def __init__(self, question: Question, login: Optional[Login], tell: Callable[[str], None]) -> None:
        self._question = question
        self._login = login
        self._tell = tell
        self._client: Optional[RegistryClient] = None
        self._resolved: Optional[Resolved] = None
        self._config = b""

    @property
    def client(self) -> RegistryClient:
        """The client for the question's repository."""
        if self._client is None:
            from gha_apptainer.node.images.registry_client import RegistryClient  # 40 ms that a warm start never needs

            plain = self._question.ref.registry in self._question.settings.registries_http
            self._client = RegistryClient(self._question.ref, plain_http=plain, login=self._login, tell=self._tell)
        return self._client

    def resolved(self) -> Resolved:
        """What the reference is in its registry now, for this machine. Raises ImageFailed."""
        if self._resolved is None:
            self._resolved = self.client.resolve(platform_for(self._question.host.machine))
        return self._resolved

    def config_blob(self) -> bytes:
        """Its configuration. Raises ImageFailed."""
        if not self._config:
            self._config = self.client.config(self.resolved(), platform_for(self._question.host.machine))
        return self._config
