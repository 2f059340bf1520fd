"""What is decided about networks and health before anything is made, and the kernel's two ways of telling about sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gha_apptainer.domain.containers import HEALTHY, STARTING, UNHEALTHY, ContainerSpec, HealthState, Owner, Probe
from gha_apptainer.domain.images import SANDBOX, Digest, Health, Image, OciConfig
from gha_apptainer.node import files
from gha_apptainer.node.engine import health, networks, sockets, starting, switching
from gha_apptainer.node.engine.records import Records

IMAGE = Image("x", Digest(), OciConfig(), "/r", SANDBOX, "path")
MACHINE = "# made by hand\nnameserver 10.0.0.53\nsearch site.example\noptions edns0\n"


def spec(**more: object) -> ContainerSpec:
    return ContainerSpec(image=IMAGE, owner=Owner("h", "b", "cli"), **more)  # type: ignore[arg-type]  # the tests pass what the class takes


def test_addresses_are_loopback_the_same_each_time_and_differ() -> None:
    found = networks.candidates("/state", "hook:1", "postgres", 1000)
    assert found == networks.candidates("/state", "hook:1", "postgres", 1000)
    others = [("/other", "hook:1", "postgres", 1000), ("/state", "hook:2", "postgres", 1000), ("/state", "hook:1", "redis", 1000)]
    assert (
        len({found[0], networks.candidates("/state", "hook:1", "postgres", 1001)[0], *(networks.candidates(*one)[0] for one in others)})
        == 5
    )
    for one in found:
        assert one == socket.inet_ntoa(socket.inet_aton(one))
        assert one.startswith("127.") and not one.startswith("127.0.")
        assert networks.inner(one) == "10" + one[3:]


def test_made_up_names_are_nobodys_word() -> None:
    identity = "ab" * 32
    assert networks.own_names(spec(hostname="h", aliases=("a", "h")), "c-" + identity[:12], identity) == ("a", "h")
    assert networks.own_names(spec(hostname="h"), "db", identity) == ("db", "h")


def test_names_replace_names_and_leave_what_others_wrote() -> None:
    first = networks.hosts_with("127.0.0.1\tlocalhost\n", [("10.1.2.3", ("a", "b"))])
    assert first.startswith("127.0.0.1\tlocalhost\n")
    assert "10.1.2.3\ta b\n" in first
    mine = first + "10.9.9.9 mine\n"
    second = networks.hosts_with(mine, [("10.1.2.4", ("c",)), ("10.1.2.5", ())])
    assert "10.1.2.3" not in second and "10.1.2.5" not in second
    assert "10.1.2.4\tc\n" in second and "10.9.9.9 mine\n" in second
    assert networks.hosts_with(second, []) == "127.0.0.1\tlocalhost\n10.9.9.9 mine\n"


@pytest.mark.parametrize(
    "more, text",
    [
        ({}, MACHINE),
        ({"dns": ("192.0.2.1",)}, "# made by hand\nsearch site.example\noptions edns0\nnameserver 192.0.2.1\n"),
        ({"dns_search": (".",)}, "# made by hand\nnameserver 10.0.0.53\noptions edns0\n"),
        (
            {"dns_search": ("a", "b"), "dns_options": ("x",)},
            "# made by hand\nnameserver 10.0.0.53\nsearch a b\noptions x\n",
        ),
    ],
)
def test_the_resolvers_file(more: dict[str, object], text: str) -> None:
    assert starting.resolver_text(spec(**more), MACHINE) == text


def _run(check: Health, *runs: tuple[float, int]) -> HealthState:
    state = HealthState()
    for started, code in runs:
        state = health.judged(health.settled(check), state, Probe(started, started + 1, code, "%g" % started), 100.0)
    return state


def test_health_is_judged_as_docker_does() -> None:
    check = Health(("CMD", "x"), retries=2, start_period=10.0)
    assert _run(check, (105, 1), (109, 1)).status == STARTING
    assert _run(check, (105, 1), (109, 1)).failing == 0
    assert (_run(check, (111, 1)).status, _run(check, (111, 1)).failing) == (STARTING, 1)
    assert _run(check, (111, 1), (112, 1)).status == UNHEALTHY
    assert _run(check, (101, 0), (102, 1)).failing == 1, "the start period is over with the first success"
    assert _run(check, (101, 0), (102, 1)).status == HEALTHY
    assert _run(check, (101, 0), (102, 1), (103, -1)).status == UNHEALTHY
    assert _run(check, (111, 1), (112, 1), (113, 0)) == HealthState(HEALTHY, 0, _run(check, (111, 1), (112, 1), (113, 0)).log)
    assert [one.output for one in _run(check, *((200.0 + at, 1) for at in range(9))).log] == ["204", "205", "206", "207", "208"]


def test_pauses() -> None:
    settled = health.settled(Health(("CMD", "x"), start_period=10.0))
    assert (settled.interval, settled.timeout, settled.retries, settled.start_interval) == (30.0, 30.0, 3, 5.0)
    assert health.pause(settled, HealthState(STARTING), 3.0) == 5.0
    assert health.pause(settled, HealthState(HEALTHY), 3.0) == 30.0
    assert health.pause(settled, HealthState(STARTING), 11.0) == 30.0
    assert health.pause(health.settled(Health(("CMD", "x"), interval=2.0)), HealthState(STARTING), 0.0) == 2.0


@pytest.fixture(params=["asked", "read"])
def table(request: pytest.FixtureRequest) -> Iterator[sockets.Table]:
    found = sockets.Table()
    if request.param == "read" and found._diag is not None:
        found._diag.close()
        found._diag = None
    yield found
    found.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_kernel_tells_listeners_and_owners(table: sockets.Table, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        mine = [row for row in table.listeners() if row.local == (address, port)]
        assert [(row.uid, row.inode > 0) for row in mine] == [(os.geteuid(), True)]
        assert sockets.by_port(mine) == {port: [address]}
        assert sockets.overlaps(mine[0], address, port)
        assert not sockets.overlaps(mine[0], "127.9.9.9", port)
        assert "process %d" % os.getpid() in sockets.holder(mine[0])
        client = socket.create_connection((address, port))
        near, peer = server.accept()
        with near:
            own = near.getsockname()[:2]
            assert table.owner(peer[:2], own) == os.geteuid()
            assert table.owner((address, 1), own) is None
            client.shutdown(socket.SHUT_WR)
            assert table.owner(peer[:2], own) == os.geteuid(), "half closed is still somebody's"
            client.close()
            assert table.owner(peer[:2], own) is None, "closed is nobody's, whatever uid the kernel shows"
    assert not [row for row in table.listeners() if row.local == (address, port)]


def test_a_switching_script_has_a_mark_and_no_placeholder() -> None:
    for tool in switching.TOOLS:
        text = switching.script(tool).decode()
        assert text.startswith("#!/bin/sh\n# by gha-apptainer")
        assert "FOLDER" not in text
        assert "TOOL" not in text
        assert "original=/.singularity.d/gha-apptainer/%s\n" % tool in text


def test_a_network_that_is_swept_away_before_its_first_member_has_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command removes a network in which nobody is, at any moment between our making it and our being in it."""
    tmp_path.chmod(0o700)
    records = Records(str(tmp_path))
    made = networks.Membership(records, "net", "a" * 64)
    real = files.private_directory
    sweeps = [3]

    def swept(path: str) -> str:
        found = real(path)
        if path.endswith("/net") and sweeps[0]:
            sweeps[0] -= 1
            os.rmdir(path)
        return found

    monkeypatch.setattr(files, "private_directory", swept)
    made.say(networks.Member("127.0.0.9", ("x",), (), (), 1, 1, "here"))
    assert os.listdir(tmp_path / "networks" / "net") == ["a" * 64]
