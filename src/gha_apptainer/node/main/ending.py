"""stop, kill, rm, wait: containers end."""

from __future__ import annotations

from gha_apptainer.domain.containers import CREATED, RUNNING, Args
from gha_apptainer.domain.docker_values import signal_number, whole
from gha_apptainer.domain.errors import InputError
from gha_apptainer.node.main import complain, tell
from gha_apptainer.node.main.context import Context, each

GRACE = 10.0
"""Seconds between the stop signal and the kill, as Docker has it."""
_PATIENCE = 3600.0


def stop(argv: Args, context: Context) -> int:
    """`docker stop`: prints the names."""
    parsed = context.parse(argv, "stop")
    if parsed is None:
        return 0
    engine = context.engine
    grace = float(whole("--timeout", parsed.last("timeout"))) if parsed.last("timeout") else GRACE
    number = signal_number(parsed.last("signal"), "--signal") if parsed.last("signal") else 0

    def one(name: str) -> None:
        found = engine.get(name)
        if number and found.state == RUNNING and grace:
            engine.kill(found.id, number)
            if engine.wait(found.id, grace) is None:
                engine.stop(found.id, 0.0)
        elif found.state == RUNNING:
            engine.stop(found.id, grace)
        tell(name)

    return each(parsed.positional, "stop", one)


def kill(argv: Args, context: Context) -> int:
    """`docker kill`: prints the names."""
    parsed = context.parse(argv, "kill")
    if parsed is None:
        return 0
    engine = context.engine
    number = signal_number(parsed.last("signal", "KILL"), "--signal")

    def one(name: str) -> None:
        engine.kill(name, number)
        tell(name)

    return each(parsed.positional, "kill", one)


def remove(argv: Args, context: Context) -> int:
    """`docker rm`: prints the names. With -f a container that is gone already is no failure."""
    parsed = context.parse(argv, "rm")
    if parsed is None:
        return 0
    engine = context.engine
    force = parsed.has("force")

    def one(name: str) -> None:
        try:
            found = engine.get(name)
        except InputError as error:
            if not force or any(name == one.name or one.id.startswith(name) for one in engine.list()):
                raise
            complain(error.lines())
            return
        if found.state == RUNNING and not force:
            raise InputError("container %s is running" % name, remedy="gha-apptainer stop %s, or rm -f" % name)
        engine.remove(found.id)
        tell(name)

    return each(parsed.positional, "rm", one)


def wait(argv: Args, context: Context) -> int:
    """`docker wait`: prints an exit code a line. A container that was never started has none, and is an error."""
    parsed = context.parse(argv, "wait")
    if parsed is None:
        return 0
    engine = context.engine

    def one(name: str) -> None:
        found = engine.get(name)
        if found.state == CREATED:
            raise InputError("container %s was never started" % name, remedy="gha-apptainer start " + name)
        status = None
        while status is None:
            status = engine.wait(found.id, _PATIENCE)
        if status.reason:
            complain(("container %s: %s" % (name, status.reason),))
        tell(str(status.exit_code))

    return each(parsed.positional, "wait", one)
