"""What the docker-like verbs work with: settings, facts of the machine, images and the engine, each made when first needed."""

from __future__ import annotations

import os

from gha_apptainer.domain.asked import Asked
from gha_apptainer.domain.containers import Args, ContainerSpec, ExitStatus, Owner, Stdio
from gha_apptainer.domain.docker_options import ParsedOptions, parse_options
from gha_apptainer.domain.errors import DOCKER_FAILURE, GhaError, InputError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import Image
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files, process
from gha_apptainer.node.main import complain, notes, tell

TYPE_CHECKING = False
if TYPE_CHECKING:  # loading the engine costs more than parsing, and parsing may fail
    from typing import Callable, List, Mapping, Optional, Sequence, Tuple

    from gha_apptainer.domain.image_plans import Login
    from gha_apptainer.domain.image_refs import ImageRef
    from gha_apptainer.node.engine.protocol import Engine

AUTHFILE = "GHA_APPTAINER_AUTHFILE"
"""What `images.credentials.AUTHFILE_VARIABLE` says; asked here first, because that module is slow to load."""
SCOPE = "cli"
"""The owner's scope of containers that these verbs make."""


class Context:
    """One verb's surroundings. Tests give an engine, facts and settings of their own."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        engine: Optional[Engine] = None,
        host: Optional[HostFacts] = None,
        settings: Optional[NodeSettings] = None,
    ) -> None:
        self.environ = environ
        self._engine = engine
        self._host = host
        self._settings = settings

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

            self._engine = open_engine(self.host, self.settings)
        return self._engine

    def parse(self, argv: Args, verb: str) -> Optional[ParsedOptions]:
        """The verb's arguments; None when help was asked for and has been printed. Approximations are said on stderr."""
        parsed = parse_options(argv, verb, environ=self.environ, read=files.read_whole, cwd=os.getcwd())
        if parsed.help:
            from gha_apptainer.node.main.helping import verb_help

            tell(verb_help(verb))
            return None
        for text in parsed.warnings:
            complain(("warning: " + text,))
        return parsed

    def spec(self, asked: Asked, *, lasting: bool, quiet: bool) -> ContainerSpec:
        """The container that was asked for, its image fetched. `lasting` ones belong to nobody, others to this process."""
        from gha_apptainer.domain.container_specs import GPU_MASKS, check_platform, check_sources, container_spec

        check_platform(asked, self.host)
        owner = Owner(self.host.hostname, self.host.boot_id, SCOPE)
        if not lasting:
            owner = Owner(owner.host, owner.boot_id, SCOPE, os.getpid(), process.start_time(os.getpid()))
        image = self.image(asked, quiet=quiet)
        masks = {name: self.environ[name] for name in GPU_MASKS if name in self.environ}
        spec = container_spec(image, asked, self.host, owner, gpu_masks=masks)
        check_sources(spec.mounts, os.path.exists)
        return spec

    def image(self, asked: Asked, *, quiet: bool) -> Image:
        """The image, by the routes that the site has set; the one that was taken is said on stderr, with the digest."""
        from gha_apptainer.domain.image_refs import parse
        from gha_apptainer.node import images

        plan = images.plan(parse(asked.image, os.getcwd()), asked.pull, self.settings, self.host)
        return images.fetch(plan, self.login(plan.ref), _nothing if quiet else notes())

    def login(self, ref: ImageRef) -> Optional[Login]:
        """The login for the registry of `ref` in the file that the caller's environment names, if it names one."""
        path = self.environ.get(AUTHFILE, "")
        if not path:
            return None
        from gha_apptainer.node.images.credentials import read_login

        return read_login(path, ref)


def _nothing(_text: str) -> None:
    """For --quiet."""


def standard_streams(asked: Asked) -> Stdio:
    """Our own streams, stdin only with -i. Raises InputError where a terminal is asked for and stdin is none, as Docker's client does."""
    if asked.tty and asked.interactive and not os.isatty(0):
        raise InputError("the input device is not a terminal", remedy="leave -t out, or -i")
    return Stdio(0 if asked.interactive else -1, 1, 2)


def told_end(status: ExitStatus) -> int:
    """The exit code of a command that ended, after saying what was not ordinary about it. Never 0 with a reason."""
    if status.reason:
        complain((status.reason,))
    elif status.oom:
        complain(("killed: out of memory",))
    return status.exit_code or (DOCKER_FAILURE if status.reason else 0)


def each(names: Sequence[str], verb: str, action: Callable[[str], object]) -> int:
    """Do something to every container named; an error is said and does not keep the others from their turn."""
    if not names:
        raise InputError("%s: no container named" % verb, remedy="gha-apptainer %s --help" % verb)
    failed: List[Tuple[str, ...]] = []
    for name in names:
        try:
            action(name)
        except GhaError as error:
            failed.append(error.lines())
            complain(failed[-1])
    return DOCKER_FAILURE if failed else 0
