"""run, create, start, exec: containers begin."""

from __future__ import annotations

from gha_apptainer.domain.containers import Args, ExitStatus, Stdio
from gha_apptainer.domain.docker_options import ParsedOptions
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.node.interpreter import signal
from gha_apptainer.node.main import tell
from gha_apptainer.node.main.context import Context, each, standard_streams, told_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from gha_apptainer.node.engine.protocol import Engine

_PATIENCE = 3600.0  # how long one wait for a container lasts before the next begins


def run(argv: Args, context: Context) -> int:
    """`docker run`: in the foreground its exit code is ours, with -d its id is printed."""
    parsed = context.parse(argv, "run")
    if parsed is None:
        return 0
    asked = _with_image(parsed, "run").asked
    stdio = Stdio() if asked.detach else standard_streams(asked)
    spec = context.spec(asked, lasting=asked.detach, quiet=parsed.has("quiet"))
    if not asked.detach:
        return told_end(context.engine.run(spec, asked.name, stdio))
    identity = context.engine.create(spec, asked.name)
    context.engine.start(identity)
    tell(identity)
    return 0


def create(argv: Args, context: Context) -> int:
    """`docker create`: prints the id."""
    parsed = context.parse(argv, "create")
    if parsed is None:
        return 0
    asked = _with_image(parsed, "create").asked
    spec = context.spec(asked, lasting=True, quiet=parsed.has("quiet"))
    tell(context.engine.create(spec, asked.name))
    return 0


def start(argv: Args, context: Context) -> int:
    """`docker start`: prints the names, or with -a is there until the end and has its exit code."""
    parsed = context.parse(argv, "start")
    if parsed is None:
        return 0
    engine = context.engine
    if parsed.has("attach") or parsed.has("interactive"):
        if len(parsed.positional) != 1:
            raise InputError("start -a takes one container", remedy="gha-apptainer start -a NAME")
        return _attached(engine, parsed.positional[0], stdin=parsed.has("interactive"))

    def one(name: str) -> None:
        engine.start(name)
        tell(name)

    return each(parsed.positional, "start", one)


def _attached(engine: Engine, name: str, *, stdin: bool) -> int:
    found = engine.get(name)
    if found.spec.main is not None and found.spec.main.tty:
        raise Refused(
            "container %s has a terminal, which start cannot attach" % found.name, remedy="gha-apptainer run -t gives one from the start"
        )
    with _Forwarded(engine, found.id):
        engine.start(found.id, Stdio(0 if stdin else -1, 1, 2))
        status: Optional[ExitStatus] = None
        while status is None:
            status = engine.wait(found.id, _PATIENCE)
    return told_end(status)


class _Forwarded:
    """While it is entered, signals to us go to the container's main process."""

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, engine: Engine, identity: str) -> None:
        self._engine = engine
        self._identity = identity
        self._before = tuple((number, signal.getsignal(number)) for number in self.signals)

    def __enter__(self) -> _Forwarded:
        for number in self.signals:
            signal.signal(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def _forward(self, number: int, _frame: object) -> None:
        try:
            self._engine.kill(self._identity, number)
        except InputError:
            return  # it is not running yet, or no more


def execute(argv: Args, context: Context) -> int:
    """`docker exec`: the command's exit code is ours."""
    parsed = context.parse(argv, "exec")
    if parsed is None:
        return 0
    if not parsed.positional:
        raise InputError("exec: no container named", remedy="gha-apptainer exec CONTAINER COMMAND [ARG…]")
    name, command = parsed.positional[0], parsed.positional[1:]
    found = context.engine.get(name)
    from gha_apptainer.domain.container_specs import exec_request

    request = exec_request(found.spec, parsed.asked, command)
    return told_end(context.engine.exec(found.id, request, standard_streams(parsed.asked)))


def _with_image(parsed: ParsedOptions, verb: str) -> ParsedOptions:
    if not parsed.asked.image:
        raise InputError("%s: no image named" % verb, remedy="gha-apptainer %s [OPTIONS] IMAGE [COMMAND] [ARG…]" % verb)
    return parsed
