"""Private networks on real containers, as root and as an ordinary user: published ports, names, and what happens when something dies."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from driving import Driver, linked_usr
from talking import TALK


@pytest.fixture
def root(driver: Driver) -> str:
    return str(driver.own(linked_usr(driver.images / "linked")))


@pytest.mark.case("hooks-54", "hooks-55")
@pytest.mark.parametrize("inside", ["0.0.0.0", "127.0.0.1", "::1", "::"])
def test_published_ports_reach_the_service_wherever_it_listens(driver: Driver, root: str, inside: str) -> None:
    said = driver.run(
        TALK + "one = service(%r, 'echo', %r, 80, ports=(Port(80), Port(80, address='::1')))\n"
        "early = say('127.0.0.1', engine.get(one).reach.ports[0].host)\n"
        "opened(one, 80)\n"
        "reach = engine.get(one).reach\n"
        "answer([early, say('127.0.0.1', reach.ports[0].host), say('::1', reach.ports[1].host, family=socket.AF_INET6),"
        " say(reach.address, 80), list(reach.blocked), say('127.0.0.1', 80)])" % (root, inside)
    )
    assert said[0] in ("ConnectionRefusedError", "x|end")
    assert said[1:3] == ["x|end", "x|end"]
    assert said[5] == "ConnectionRefusedError"
    if os.getuid() == driver.uid == 0 or not said[4]:
        pass
    assert (said[3] == "x|end") != bool(said[4])


JOB = ", network_name='job'"


@pytest.mark.case("hooks-53", "hooks-56")
def test_services_on_the_same_port_find_each_other_by_name(driver: Driver, root: str) -> None:
    script = (
        TALK + "a = service(%r, 'hello', '0.0.0.0', 5432, name='one', network_name='job', aliases=('first', 'db.local'))\n"
        "b = service(%r, 'hello', '0.0.0.0', 5432, name='two', network_name='job', hostname='second')\n"
        "c = service(%r, 'hello', '0.0.0.0', 5432, name='three', network_name='other')\n"
        "for one in (a, b, c): opened(one, 5432)\n"
        "ask = 'import socket,sys\\nfor n in sys.argv[1:]:\\n try:\\n  s=socket.create_connection((n,5432),10); s.shutdown(1); print(n, s.makefile().read())\\n except OSError as e: print(n, type(e).__name__)'\n"
        "def asks(one, *names): return run(one, '/usr/bin/python3', '-I', '-c', ask, *names)['out'].split('\\n')[:-1]\n"
        "until(lambda: 'first' in run(b, '/usr/bin/cat', '/etc/hosts')['out'] and 'second' in run(a, '/usr/bin/cat', '/etc/hosts')['out'])\n"
        "said = [until(lambda: (lambda x: x if 'Error' not in x[0] else None)(asks(a, 'two', 'second', 'one', 'three'))),"
        " until(lambda: (lambda x: x if 'Error' not in x[0] else None)(asks(b, 'one', 'first', 'db.local'))), asks(c, 'one')]\n"
        "engine.remove(a)\n"
        "gone = until(lambda: 'first' not in run(b, '/usr/bin/cat', '/etc/hosts')['out'])\n"
        "answer([said, gone, engine.get(a[:12] if False else b).name])"
    ) % (root, root, root)
    said, gone, _ = driver.run(script)
    host = "|end"
    assert [one.partition(" ")[2].endswith(host) for one in said[0]] == [True, True, True, False]
    assert said[0][0].split(" ")[1] == "second|end"
    assert said[0][3] == "three gaierror"
    assert all(one.endswith("|end") for one in said[1])
    assert said[2] == ["one gaierror"]
    assert gone is True


def test_a_container_in_the_machines_network_reaches_the_others_by_name(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + "job = engine.create(spec(%r, mounts=USR, network_name='job'), 'job')\n"
        "engine.start(job)\n"
        "one = service(%r, 'echo', '127.0.0.1', 6379, name='redis', network_name='job')\n"
        "opened(one, 6379)\n"
        "until(lambda: 'redis' in run(job, '/usr/bin/cat', '/etc/hosts')['out'])\n"
        'ask = \'import socket; s=socket.create_connection(("redis",6379),10); s.sendall(b"ping"); s.shutdown(1); print(s.makefile().read())\'\n'
        "out = run(job, '/usr/bin/python3', '-I', '-c', ask)\n"
        "kept = run(job, '/usr/bin/sh', '-c', 'echo 10.1.1.1 mine >> /etc/hosts')\n"
        "engine.remove(one)\n"
        "gone = until(lambda: 'redis' not in run(job, '/usr/bin/cat', '/etc/hosts')['out'])\n"
        "answer([out['out'], out['err'], gone, 'mine' in run(job, '/usr/bin/cat', '/etc/hosts')['out']])" % (root, root)
    )
    assert said == ["ping|end\n", "", True, True]


@pytest.mark.case("hooks-55", "hooks-56")
def test_a_taken_port_names_both_sides(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + "one = service(%r, 'echo', '0.0.0.0', 80, name='first', ports=(Port(80),))\n"
        "taken = engine.get(one).reach.ports[0].host\n"
        "other = socket.create_server(('127.0.0.1', 0))\n"
        "busy = other.getsockname()[1]\n"
        "def refused(**more):\n"
        "    try:\n"
        "        service(%r, 'echo', '0.0.0.0', 80, **more)\n"
        "    except GhaError as error:\n"
        "        return ' '.join(error.lines())\n"
        "here = engine.create(spec(%r, mounts=USR, ports=(Port(busy, busy),)), 'here')\n"
        "try:\n"
        "    engine.start(here)\n"
        "    host = ''\n"
        "except GhaError as error:\n"
        "    host = ' '.join(error.lines())\n"
        "answer([refused(name='second', ports=(Port(80, taken),)), refused(name='third', ports=(Port(80, busy),)), os.getpid(), host,"
        " refused(name='fourth', ports=(Port(80, 0, '192.0.2.1'),)), refused(name='low', ports=(Port(80, 1),)) if facts.uid else 'sysctl',"
        " taken, busy])" % (root, root, root)
    )
    ours, foreign, pid, host, nowhere, low, taken, busy = said
    assert "second" in ours and "container first" in ours and str(taken) in ours
    assert "third" in foreign and "process %d" % pid in foreign and str(busy) in foreign
    assert "here" in host and "process %d" % pid in host
    assert "192.0.2.1" in nowhere
    assert "sysctl" in low


def test_a_range_gives_the_first_free_port(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + "other = socket.create_server(('127.0.0.1', 0))\n"
        "busy = other.getsockname()[1]\n"
        "one = service(%r, 'echo', '0.0.0.0', 80, ports=(Port(80, busy, last=busy + 20),))\n"
        "answer([busy, engine.get(one).reach.ports[0].host])" % root
    )
    assert said[0] < said[1] <= said[0] + 20


def test_datagrams_come_back_to_their_sender(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + "one = service(%r, 'udp', '::1', 5353, ports=(Port(5353, protocol='udp'),))\n"
        "two = service(%r, 'udp', '0.0.0.0', 5353, name='dns', hostname='dns', exposed=(Port(5353, protocol='udp'),), network_name='n')\n"
        "three = engine.create(spec(%r, mounts=USR, network='private', network_name='n'))\n"
        "engine.start(three)\n"
        "def ask(address, port, data):\n"
        "    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    s.settimeout(1.0)\n"
        "    for _ in range(15):\n"
        "        s.sendto(data, (address, port))\n"
        "        try:\n"
        "            return s.recv(65536).partition(b':')[2].decode()\n"
        "        except OSError:\n"
        "            continue\n"
        "port = engine.get(one).reach.ports[0].host\n"
        'inside = \'import socket\\ns=socket.socket(2,2); s.settimeout(1)\\nfor _ in range(15):\\n try:\\n  s.sendto(b"in",("dns",5353)); print(s.recv(99)); break\\n except OSError: import time; time.sleep(.1)\'\n'
        "answer([ask('127.0.0.1', port, b'a' * 9000), ask('127.0.0.1', port, b'b'), ask(engine.get(two).reach.address, 5353, b'c'),"
        " run(three, '/usr/bin/python3', '-I', '-c', inside)['out']])" % (root, root, root)
    )
    assert said == ["a" * 9000, "b", "c", "b'dns:in'\n"]


def test_nobody_else_uses_a_loopback_port(driver: Driver, root: str) -> None:
    """DECISIONS 17, with a second real user."""
    if os.getuid() != 0:
        pytest.skip("only root can be two users")
    other = 65533
    ask = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setresgid(%d, %d, %d); os.setresuid(%d, %d, %d)\n"
        "for kind, address, port in zip(map(int, sys.argv[1::3]), sys.argv[2::3], map(int, sys.argv[3::3])):\n"
        "    s = socket.socket(socket.AF_INET, kind); s.settimeout(2)\n"
        "    try:\n"
        "        s.connect((address, port)); s.sendall(b'x')\n"
        "        print(repr(s.recv(100)))\n"
        "    except OSError as error: print(type(error).__name__)\n"
    ) % ((other,) * 6)
    child = driver.start(
        TALK + "one = service(%r, 'echo', '0.0.0.0', 8080, ports=(Port(8080), Port(8080, 0, '127.0.0.1')))\n"
        "two = service(%r, 'udp', '0.0.0.0', 53, ports=(Port(53, protocol='udp'), Port(53, protocol='udp')))\n"
        "opened(one, 8080)\n"
        "print(json.dumps([p.host for m in (one, two) for p in engine.get(m).reach.ports] + [engine.get(one).reach.address]), flush=True)\n"
        "sys.stdin.readline()\n"
        "ports = engine.get(one).reach.ports\n"
        "answer([say('127.0.0.1', ports[0].host), engine.get(one).state])" % (root, root),
        stdin=subprocess.PIPE,
    )
    assert child.stdout is not None
    ports = json.loads(child.stdout.readline())
    tried = [(1, "127.0.0.1", ports[0]), (1, "127.0.0.1", ports[1]), (1, ports[4], 8080), (2, "127.0.0.1", ports[2])]
    words = [str(word) for one in tried for word in one]
    asked = subprocess.run([sys.executable, "-I", "-c", ask, *words], capture_output=True, timeout=60, check=True)
    out, err = child.communicate(b"\n", timeout=60)
    assert child.returncode == 0, err
    assert asked.stdout.split() == [b"ConnectionResetError"] * 3 + [b"TimeoutError"], asked
    assert json.loads(out.splitlines()[-1]) == ["x|end", "running"]


def test_names_are_written_in_the_containers_own_view(driver: Driver, root: str) -> None:
    """A container that makes /etc/hosts a link, or /etc itself, has its own file changed and nothing of the host's."""
    outside = driver.images / "outside"
    outside.mkdir()
    (outside / "hosts").write_text("untouched\n")
    driver.own(outside)
    said = driver.run(
        TALK + "outside = %r\n"
        "one = service(%r, 'echo', '0.0.0.0', 80, name='one', network_name='n')\n"
        "two = service(%r, 'echo', '0.0.0.0', 80, name='two', network_name='n', writable=False)\n"
        "made = [run(one, '/usr/bin/sh', '-c', 'mv /etc /old; ln -s %%s /etc; mkdir -p %%s' %% (outside, outside)),"
        " run(two, '/usr/bin/sh', '-c', 'echo x > /etc/hosts')]\n"
        "three = service(%r, 'echo', '0.0.0.0', 80, name='three', network_name='n')\n"
        "inside = until(lambda: 'three' in run(one, '/usr/bin/cat', outside + '/hosts')['out'])\n"
        "fixed = until(lambda: 'three' in run(two, '/usr/bin/cat', '/etc/hosts')['out'])\n"
        "run(three, '/usr/bin/sh', '-c', 'rm /etc/hosts; mkfifo /etc/hosts')\n"
        "engine.remove(two)\n"
        "again = until(lambda: run(three, '/usr/bin/timeout', '2', '/usr/bin/grep', '-c', 'one', '/etc/hosts')['out'] == '1\\n')\n"
        "answer([[x['code'] for x in made], inside, fixed, again, engine.get(three).state])" % (str(outside), root, root, root)
    )
    assert said == [[0, 2 if said[0][1] == 2 else 1], True, True, True, "running"]
    assert (outside / "hosts").read_text() == "untouched\n"
    assert os.listdir(outside) == ["hosts"]


def test_a_port_that_somebody_has_on_all_addresses_is_told_and_leaves_the_network_alone(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + "other = socket.create_server(('0.0.0.0', 0))\n"
        "busy = other.getsockname()[1]\n"
        "one = service(%r, 'echo', '0.0.0.0', busy, name='one', network_name='n')\n"
        "two = engine.create(spec(%r, mounts=USR, network='private', network_name='n'))\n"
        "engine.start(two)\n"
        "blocked = until(lambda: list(engine.get(one).reach.blocked))\n"
        'ask = \'import socket,sys; s=socket.create_connection(("one",int(sys.argv[1])),5); s.sendall(b"p"); s.shutdown(1); print(s.makefile().read())\'\n'
        "inner = until(lambda: run(two, '/usr/bin/python3', '-I', '-c', ask, str(busy))['out'])\n"
        "other.close()\n"
        "answer([busy, blocked, inner, until(lambda: say(engine.get(one).reach.address, busy) == 'x|end'), list(engine.get(one).reach.blocked)])"
        % (root, root)
    )
    busy, blocked, inner, freed, after = said
    assert len(blocked) == 1
    assert "port %d" % busy in blocked[0] and "0.0.0.0:%d" % busy in blocked[0]
    assert inner == "p|end\n"
    assert freed is True
    assert after == []


@pytest.mark.case("hooks-56")
def test_many_members_on_one_port_all_reach_each_other(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + "import threading\n"
        "names = ['m%%d' %% at for at in range(6)]\n"
        "made = {name: service(%r, 'hello', '0.0.0.0', 80, name=name, hostname=name, network_name='crowd', start=False) for name in names}\n"
        "children = []\n"
        "for one in made.values():\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        engine.start(one)\n"
        "        os._exit(0)\n"
        "    children.append(pid)\n"
        "codes = [os.waitpid(pid, 0)[1] for pid in children]\n"
        "for one in made.values(): opened(one, 80)\n"
        "ask = 'import socket,sys\\nfor n in sys.argv[1:]:\\n s=socket.create_connection((n,80),5); s.shutdown(1); print(s.makefile().read())'\n"
        "answer([codes, [until(lambda: (lambda x: x['out'] if x['code'] == 0 else '')(run(one, '/usr/bin/python3', '-I', '-c', ask, *names))) for one in made.values()]])"
        % root
    )
    assert said[0] == [0] * 6
    assert said[1] == ["".join("m%d|end\n" % at for at in range(6))] * 6


def test_a_monitor_killed_at_any_moment_of_the_start_leaves_nothing(driver: Driver, root: str) -> None:
    """`driver` sees to it that no process is left; here: no name, no address, no membership."""
    said = driver.run(
        TALK + "found = []\n"
        "for delay in (0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1):\n"
        "    one = service(%r, 'echo', '0.0.0.0', 80, name='one', network_name='n', ports=(Port(80),), start=False)\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        try: engine.start(one)\n"
        "        except GhaError: pass\n"
        "        os._exit(0)\n"
        "    path = facts.state_dir + '/containers/' + one + '/monitor'\n"
        "    until(lambda: os.path.exists(path))\n"
        "    time.sleep(delay)\n"
        "    os.kill(int(open(path).read().split()[0]), 9)\n"
        "    os.waitpid(pid, 0)\n"
        "    engine.remove(one)\n"
        "    engine.reap()\n"
        "    found.append([len(os.listdir(facts.state_dir + '/' + name)) for name in ('names', 'addresses', 'networks') if os.path.isdir(facts.state_dir + '/' + name)])\n"
        "answer(found)" % root
    )
    assert all(sum(one) == 0 for one in said), said


def test_root_inside_cannot_change_the_network_or_find_the_forwarder(driver: Driver, root: str) -> None:
    said = driver.run(
        TALK + "one = service(%r, 'echo', '0.0.0.0', 80, name='one', network_name='n', ports=(Port(80),))\n"
        "two = service(%r, 'echo', '0.0.0.0', 80, name='two', network_name='n')\n"
        "opened(one, 80); opened(two, 80)\n"
        "attack = '''import fcntl, os, socket, struct\n"
        "def tries(what):\n"
        "    try:\n"
        "        what()\n"
        "        return 'done'\n"
        "    except OSError as error:\n"
        "        return error.errno\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "def down(name): fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', name, 0))\n"
        "def sysctl(): open('/proc/sys/net/ipv4/ip_forward', 'w').write('1')\n"
        "def route():\n"
        "    n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n"
        "    n.send(struct.pack('=IHHII', 32, 17, 5, 1, 0) + struct.pack('=BBHiII', 0, 0, 0, socket.if_nametoindex('eth0'), 0, 0))\n"
        "    number = -struct.unpack_from('=i', n.recv(4096), 16)[0]\n"
        "    if number: raise OSError(number, '')\n"
        "names = [open('/proc/%%s/cmdline' %% p).read() for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()]\n"
        "print(tries(lambda: down(b'eth0')), tries(lambda: down(b'lo')), tries(sysctl), tries(route), any('gha_apptainer' in n for n in names), sorted(n for _, n in socket.if_nameindex() if n in ('eth0', 'lo', 'gha0')))\n"
        "'''\n"
        "out = run(one, '/usr/bin/python3', '-I', '-c', attack)\n"
        "answer([out['out'].strip(), out['err'], say('127.0.0.1', engine.get(one).reach.ports[0].host)])" % (root, root)
    )
    words, errors, answered = said
    assert errors == ""
    assert answered == "x|end"
    first = words.split(" ", 4)
    assert all(one in ("1", "13", "30") for one in first[:4]), words
    assert first[4] == "False ['eth0', 'lo']"
