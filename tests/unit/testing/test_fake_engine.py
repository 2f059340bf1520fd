from __future__ import annotations

import os
from dataclasses import replace

import pytest

from gha_apptainer.domain.containers import (
    CREATED,
    EXITED,
    HEALTHY,
    RUNNING,
    UNHEALTHY,
    ContainerSpec,
    ExecRequest,
    Owner,
    Port,
    Reach,
    Stdio,
)
from gha_apptainer.domain.errors import InputError, TimedOut
from gha_apptainer.domain.images import Digest, Health, Image, OciConfig
from gha_apptainer.node.engine.protocol import Engine
from gha_apptainer.testing.engine import FakeEngine, Outcome

IMAGE = Image("x", Digest(), OciConfig(), "/r", "sandbox", "path")
SPEC = ContainerSpec(image=IMAGE, owner=Owner("h", "b", "cli"), main=ExecRequest(("sleep",)))


def lasting(_request: ExecRequest) -> Outcome:
    return Outcome(lasts=True)


def test_it_is_an_engine() -> None:
    engine: Engine = FakeEngine()
    assert engine.list() == []
    assert engine.reap() == ()


def test_a_life() -> None:
    engine = FakeEngine(lasting)
    one = engine.create(SPEC, "one")
    assert engine.get("one").state == CREATED
    engine.start(one)
    assert engine.get(one[:20]).state == RUNNING
    assert engine.wait(one, 1.0) is None
    assert engine.stop(one, 1.0).exit_code == 143
    assert engine.get(one).state == EXITED
    engine.remove(one)
    engine.remove(one)
    with pytest.raises(InputError, match="no such container"):
        engine.get("one")


def test_names_and_ids() -> None:
    engine = FakeEngine()
    one, two = engine.create(SPEC, "one"), engine.create(SPEC)
    with pytest.raises(InputError, match="taken"):
        engine.create(SPEC, "one")
    with pytest.raises(InputError, match="2 container ids"):
        engine.get("000")
    assert [each.id for each in engine.list()] == [one, two]
    assert engine.list("cli")
    assert not engine.list("pod:1")


def test_signals() -> None:
    engine = FakeEngine(lambda _request: Outcome(lasts=True, ignores=frozenset({15})))
    one = engine.create(SPEC)
    with pytest.raises(InputError, match="not running"):
        engine.kill(one, 15)
    engine.start(one)
    engine.kill(one, 15)
    assert engine.get(one).state == RUNNING
    status = engine.stop(one, 1.0)
    assert (status.exit_code, status.signal) == (137, 9)


def test_a_held_container_ends_by_being_killed() -> None:
    engine = FakeEngine()
    one = engine.create(replace(SPEC, main=None))
    engine.start(one)
    assert engine.stop(one, 1.0).exit_code == 137


def test_output_goes_to_streams_and_logs() -> None:
    engine = FakeEngine(lambda _request: Outcome(3, b"one\ntwo", b"bad\n"))
    reader, writer = os.pipe()
    status = engine.run(SPEC, "", Stdio(-1, writer, -1))
    os.close(writer)
    assert status.exit_code == 3
    with os.fdopen(reader, "rb") as stream:
        assert stream.read() == b"one\ntwo"
    one = engine.list()[0].id
    assert [(line.stream, line.text, line.partial) for line in engine.logs(one)] == [
        ("stdout", b"one", False),
        ("stdout", b"two", True),
        ("stderr", b"bad", False),
    ]
    assert [line.text for line in engine.logs(one, tail=1)] == [b"bad"]
    assert list(engine.logs(one, tail=0)) == []


def test_with_remove_it_is_gone_but_its_end_is_known() -> None:
    engine = FakeEngine()
    one = engine.create(replace(SPEC, remove=True))
    engine.start(one)
    assert engine.list() == []
    status = engine.wait(one, 1.0)
    assert status is not None
    assert status.exit_code == 0


def test_exec_needs_a_running_container() -> None:
    engine = FakeEngine()
    one = engine.create(replace(SPEC, main=None))
    with pytest.raises(InputError, match="not running"):
        engine.exec(one, ExecRequest(("ls",)), Stdio())
    engine.start(one)
    assert engine.exec(one, ExecRequest(("ls",)), Stdio()).exit_code == 0
    assert engine.executed == [(one, ExecRequest(("ls",)))]


def test_running_for_ever_is_an_error() -> None:
    with pytest.raises(TimedOut):
        FakeEngine(lasting).run(SPEC, "", Stdio())


def test_ports_and_health() -> None:
    engine = FakeEngine(lambda request: Outcome(lasts=request.argv == ("sleep",), code=1 if request.argv[-1] == "bad" else 0, out=b"said"))
    ports = (Port(80), Port(81, 8081))
    one = engine.create(replace(SPEC, ports=ports, health=Health(("CMD-SHELL", "good")), address="127.1.2.3"))
    assert engine.get(one).reach == Reach("127.1.2.3")
    assert engine.wait_healthy(one, 0.0) == EXITED
    engine.start(one)
    found = engine.get(one)
    assert found.reach.ports[0].host >= 40000
    assert (found.reach.ports[1].host, found.reach.open) == (8081, (80, 81))
    assert engine.wait_healthy(one, 0.0) == HEALTHY
    assert found.health is not None
    assert found.health.log[0].output == "said"
    two = engine.create(replace(SPEC, health=Health(("CMD", "bad"))))
    engine.start(two)
    assert engine.wait_healthy(two, 0.0) == UNHEALTHY
    three = engine.create(SPEC)
    engine.start(three)
    assert (engine.wait_healthy(three, 0.0), engine.get(three).health) == (HEALTHY, None)
