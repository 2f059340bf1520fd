"""The forwarder under load and under attack: many connections, much data in flat memory, and whoever is killed."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

from typing import Any

import pytest
from driving import Driver, linked_usr
from talking import HELP, TALK


@pytest.fixture
def root(driver: Driver) -> str:
    return str(driver.own(linked_usr(driver.images / "linked")))


def test_a_thousand_connections_at_once(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + HELP + "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "one = service(%r, 'echo', '0.0.0.0', 7000, ports=(Port(7000),))\n"
        "opened(one, 7000)\n"
        "port = engine.get(one).reach.ports[0].host\n"
        "many = [socket.create_connection(('127.0.0.1', port), 30) for _ in range(1000)]\n"
        "for at, s in enumerate(many): s.sendall(b'%%d' %% at)\n"
        "back = [s.recv(100) for s in many]\n"
        "for s in many: s.shutdown(socket.SHUT_WR)\n"
        "ends = [s.makefile('rb').read() for s in many]\n"
        "for s in many: s.close()\n"
        "def connections(): return len(os.listdir('/proc/%%d/fd' %% forwarder(one))) if facts.uid == 0 else 0\n"
        "answer([back == [b'%%d' %% at for at in range(1000)], set(ends) == {b'|end'}, until(lambda: connections() < 40)])" % root
    )
    assert said == [True, True, True]


def test_more_connections_than_descriptors_wait_for_their_turn(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + HELP + "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "one = service(%r, 'echo', '0.0.0.0', 7000, ports=(Port(7000),))\n"
        "opened(one, 7000)\n"
        "port = engine.get(one).reach.ports[0].host\n"
        "def ask(s):\n"
        "    s.sendall(b'x'); s.shutdown(socket.SHUT_WR); data = s.makefile('rb').read(); s.close(); return data\n"
        "many = [socket.create_connection(('127.0.0.1', port), 30) for _ in range(200)]\n"
        "before = forwarder(one)\n"
        "answer([sorted(set(ask(s).decode() for s in many[:100])), sorted(set(ask(s).decode() for s in many[100:])), forwarder(one) == before])"
        % root
    )
    assert said == [["x|end"], ["x|end"], True]


def test_half_a_gigabyte_each_way_in_flat_memory(driver: Driver, root: str) -> None:
    """The reader is slow at first: what he does not take must not pile up in the forwarder."""
    said = driver.run(
        TALK + HELP + "import hashlib, threading\n"
        "one = service(%r, 'echo', '0.0.0.0', 7000, ports=(Port(7000),))\n"
        "opened(one, 7000)\n"
        "before = peak(forwarder(one))\n"
        "s = socket.create_connection(('127.0.0.1', engine.get(one).reach.ports[0].host), 60)\n"
        "block = os.urandom(1 << 20)\n"
        "sent, got, size = hashlib.md5(), hashlib.md5(), 0\n"
        "def send():\n"
        "    for _ in range(500):\n"
        "        s.sendall(block); sent.update(block)\n"
        "    s.shutdown(socket.SHUT_WR)\n"
        "t = threading.Thread(target=send); started = time.monotonic(); t.start()\n"
        "time.sleep(0.5)\n"
        "tail = b''\n"
        "while True:\n"
        "    data = s.recv(1 << 20)\n"
        "    if not data: break\n"
        "    size += len(data); got.update(data[:len(data) - max(0, size - (500 << 20))])\n"
        "t.join()\n"
        "sys.stderr.write('%%.0f MB/s' %% (1000 / (time.monotonic() - started)))\n"
        "answer([size - (500 << 20), got.hexdigest() == sent.hexdigest(), (peak(forwarder(one)) - before) / 1024])" % root
    )
    assert said[:2] == [4, True]
    assert said[2] < 16


def test_a_killed_forwarder_is_started_again_and_its_ports_stay(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + HELP + "one = service(%r, 'echo', '0.0.0.0', 7000, ports=(Port(7000),), name='one', network_name='n')\n"
        "two = service(%r, 'echo', '0.0.0.0', 7000, name='two', network_name='n')\n"
        "opened(one, 7000); opened(two, 7000)\n"
        "port, address = engine.get(one).reach.ports[0].host, engine.get(one).reach.address\n"
        'ask = \'import socket; s=socket.create_connection(("two",7000),5); s.sendall(b"p"); s.shutdown(1); print(s.makefile().read())\'\n'
        "def inner(): return run(one, '/usr/bin/python3', '-I', '-c', ask)['out']\n"
        "first = [say('127.0.0.1', port), until(inner)]\n"
        "killed = forwarder(one)\n"
        "os.kill(killed, 9)\n"
        "again = [until(lambda: say('127.0.0.1', port) == 'x|end'), until(lambda: say(address, 7000) == 'x|end'), until(inner)]\n"
        "for _ in range(6):\n"
        "    killed = until(lambda: forwarder(one) if forwarder(one) != killed else 0) if engine.wait(one, 0) is None else 0\n"
        "    if killed: os.kill(killed, 9)\n"
        "    time.sleep(0.3)\n"
        "ended = engine.wait(one, 20)\n"
        "answer([first, again, ended.exit_code, ended.reason])" % (root, root)
    )
    assert said[0] == ["x|end", "p|end\n"]
    assert said[1] == [True, True, "p|end\n"]
    assert said[2] != 0
    assert "port forwarder was lost" in said[3]


def _stop(driver: Driver, root: str, whom: str) -> Any:
    """A foreground-less container with everything, then SIGKILL to one of its processes; gives what the rest says."""
    return driver.run(
        TALK + HELP + "from gha_apptainer.domain.images import Health\n"
        "one = service(%r, 'echo', '0.0.0.0', 7000, ports=(Port(7000),), name='one', network_name='n', health=Health(('CMD-SHELL', 'sleep 30'), interval=0.05))\n"
        "opened(one, 7000)\n"
        "port = engine.get(one).reach.ports[0].host\n"
        "s = socket.create_connection(('127.0.0.1', port), 10); s.sendall(b'x'); s.recv(10)\n"
        "m = monitor(one)\n"
        "around = children(m)\n"
        "running = json.load(open(facts.state_dir + '/containers/' + one + '/running.json'))\n"
        "os.kill({'monitor': m, 'service': running['main'], 'init': running['init']}[%r], 9)\n"
        "def end():\n"
        "    try: return not s.recv(10)\n"
        "    except OSError: return True\n"
        "s.settimeout(10)\n"
        "closed = end()\n"
        "ended = engine.wait(one, 20)\n"
        "left = until(lambda: not [p for p in around if process.start_time(p)]) and [p for p in around if process.start_time(p)]\n"
        "refused = until(lambda: say('127.0.0.1', port) == 'ConnectionRefusedError')\n"
        "engine.remove(one); engine.reap()\n"
        "answer([closed, ended.exit_code, left, refused, os.listdir(facts.state_dir + '/networks'), os.listdir(facts.state_dir + '/addresses')])"
        % (root, whom)
    )


@pytest.mark.parametrize("whom", ["monitor", "service", "init"])
def test_whoever_is_killed_nothing_is_left(driver: Driver, root: str, whom: str) -> None:
    closed, code, left, refused, networks, addresses = _stop(driver, root, whom)
    assert closed is True
    assert code == (125 if whom == "monitor" else 137)
    assert left == []
    assert refused is True
    assert networks == []
    assert addresses == []


def test_a_half_closed_connection_goes_on_the_other_way(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + "main = ExecRequest(argv=('/usr/bin/python3', '-I', '-c', \"\"\"import socket, time\n"
        "s = socket.create_server(('0.0.0.0', 7000))\n"
        "c = s.accept()[0]\n"
        "c.sendall(b'bye'); c.shutdown(1)\n"
        "data = c.makefile('rb').read()\n"
        "print(len(data), flush=True)\n"
        "c2 = s.accept()[0]\n"
        "c2.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\\\\1\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0\\\\0'); c2.close()\n"
        'time.sleep(60)"""), env=PATH)\n'
        "one = engine.create(spec(%r, main=main, mounts=USR, network='private', ports=(Port(7000),)))\n"
        "engine.start(one); opened(one, 7000)\n"
        "s = socket.create_connection(('127.0.0.1', engine.get(one).reach.ports[0].host), 10)\n"
        "first = s.makefile('rb').read()\n"
        "s.sendall(b'y' * 100000); s.close()\n"
        "log = until(lambda: [line.text.decode() for line in engine.logs(one)])\n"
        "try: end = repr(socket.create_connection(('127.0.0.1', engine.get(one).reach.ports[0].host), 10).recv(10))\n"
        "except OSError as error: end = type(error).__name__\n"
        "answer([first.decode(), log, end])" % root
    )
    assert said == ["bye", ["100000"], "ConnectionResetError"]
