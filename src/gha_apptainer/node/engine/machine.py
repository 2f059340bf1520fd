"""What every face works with: the site's settings, the machine's facts and its engine, each made when it is first asked for."""

from __future__ import annotations

from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings

TYPE_CHECKING = False
if TYPE_CHECKING:  # loading the engine costs more than parsing, and parsing may fail
    from typing import Callable, Mapping, Optional

    from gha_apptainer.node.engine.protocol import Engine


class Machine:
    """This machine as one command sees it. Tests give an engine, facts and settings of their own; `tell` hears what the engine says."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        engine: Optional[Engine] = None,
        host: Optional[HostFacts] = None,
        settings: Optional[NodeSettings] = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.environ = environ
        self._engine, self._host, self._settings, self._tell = engine, host, settings, tell

    @property
    def settings(self) -> NodeSettings:
        """The site's settings."""
        if self._settings is None:
            from gha_apptainer.node import host

            self._settings = host.load_settings(self.environ)
        return self._settings

    @property
    def host(self) -> HostFacts:
        """What this machine can do."""
        if self._host is None:
            from gha_apptainer.node import host

            self._host = host.probe(self.settings, self.environ)
        return self._host

    @property
    def engine(self) -> Engine:
        """The engine of this machine."""
        if self._engine is None:
            from gha_apptainer.node.engine.containers import open_engine

            self._engine = open_engine(self.host, self.settings, self._tell)
        return self._engine
