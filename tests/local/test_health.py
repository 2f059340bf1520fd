"""Health checks in real containers, as root and as an ordinary user."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import pytest
from driving import Driver, linked_usr
from talking import HELP, TALK

CHECKED = r"""
from gha_apptainer.domain.images import Health
def checked(root, health, command="sleep 60", user="", **more):
    main = ExecRequest(argv=("/usr/bin/sh", "-c", command), env=(*PATH, ("WHO", "me")), cwd="/tmp", user=user)
    made = engine.create(spec(root, main=main, mounts=USR, health=health, **more))
    engine.start(made)
    return made
def state(made):
    found = engine.get(made).health
    return [found.status, found.failing, [(one.exit_code, one.output) for one in found.log]]
"""


@pytest.fixture
def root(driver: Driver) -> str:
    return str(driver.own(linked_usr(driver.images / "linked")))


@pytest.mark.case("hooks-63")
def test_a_container_becomes_healthy_unhealthy_and_healthy_again(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + CHECKED + "one = checked(%r, Health(('CMD-SHELL', 'echo $WHO $PWD; test -e /tmp/good'), interval=0.1, retries=2))\n"
        "first = [engine.get(one).health.status, engine.wait_healthy(one, 0)]\n"
        "run(one, '/usr/bin/touch', '/tmp/good')\n"
        "healthy = engine.wait_healthy(one, 20)\n"
        "run(one, '/usr/bin/rm', '/tmp/good')\n"
        "until(lambda: state(one)[0] == 'unhealthy' and state(one)[1] > 5)\n"
        "sick, waited = state(one), engine.wait_healthy(one, 20)\n"
        "run(one, '/usr/bin/touch', '/tmp/good')\n"
        "until(lambda: state(one)[0] == 'healthy')\n"
        "answer([first, healthy, sick, waited, state(one)[:2], engine.get(one).state])" % root
    )
    first, healthy, sick, waited, again, running = said
    assert first == ["starting", "starting"]
    assert healthy == "healthy"
    assert sick == ["unhealthy", sick[1], [[1, "me /tmp\n"]] * 5]
    assert waited == "unhealthy"
    assert again == ["healthy", 0]
    assert running == "running"


def test_failures_do_not_count_while_it_starts(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK
        + CHECKED
        + "one = checked(%r, Health(('CMD', '/usr/bin/test', '-e', '/tmp/up'), interval=30, start_interval=0.05, start_period=60, retries=1))\n"
        "until(lambda: len(state(one)[2]) == 5)\n"
        "early = state(one)\n"
        "run(one, '/usr/bin/touch', '/tmp/up')\n"
        "answer([early[:2], engine.wait_healthy(one, 20)])" % root
    )
    assert said == [["starting", 0], "healthy"]


def test_a_check_that_hangs_has_failed_and_leaves_nothing(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + CHECKED + "one = checked(%r, Health(('CMD-SHELL', 'sleep 1234 & sleep 1234'), interval=0.1, timeout=0.3, retries=1))\n"
        "status = engine.wait_healthy(one, 20)\n"
        "sleeping = run(one, '/usr/bin/sh', '-c', 'cat /proc/[0-9]*/cmdline | tr \"\\\\0\" \" \"')['out'].count('sleep 1234')\n"
        "answer([status, state(one)[2][0], sleeping <= 4])" % root
    )
    assert said == ["unhealthy", [-1, "Health check exceeded timeout (0.3s)"], True]


def test_what_a_check_writes_is_cut_and_a_missing_program_is_a_failure(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + CHECKED + "one = checked(%r, Health(('CMD-SHELL', 'head -c 300000 /dev/zero | tr \"\\\\0\" x'), interval=0.1))\n"
        "two = checked(%r, Health(('CMD', '/nope'), interval=0.1, retries=1), user='worker')\n"
        "three = checked(%r, Health(('CMD-SHELL', 'id -u'), interval=0.1), user='worker')\n"
        "answer([engine.wait_healthy(one, 20), len(state(one)[2][0][1]), engine.wait_healthy(two, 20), state(two)[2][0][0], engine.wait_healthy(three, 20), state(three)[2][0]])"
        % (root, root, root)
    )
    assert said == ["healthy", 4096, "unhealthy", 127, "healthy", [0, "1234\n"]]


@pytest.mark.case("hooks-57")
def test_a_container_that_ends_is_told_at_once(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + CHECKED + "one = checked(%r, Health(('CMD', '/usr/bin/false'), interval=30), command='echo last words; sleep 0.2; exit 3')\n"
        "before = time.monotonic()\n"
        "answer([engine.wait_healthy(one, 60), engine.wait(one, 10).exit_code, [line.text.decode() for line in engine.logs(one)], time.monotonic() - before < 25])"
        % root
    )
    assert said == ["exited", 3, ["last words"], True]


def test_a_killed_check_goes_on_where_it_was(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + HELP + CHECKED + "one = checked(%r, Health(('CMD', '/usr/bin/false'), interval=0.1, retries=100000))\n"
        "until(lambda: state(one)[1] > 2)\n"
        "checker = beside(one)\n"
        "os.kill(checker[0], 9)\n"
        "known = state(one)[1]\n"
        "answer([len(checker), until(lambda: state(one)[1] > known + 2), engine.get(one).state])" % root
    )
    assert said == [1, True, "running"]
