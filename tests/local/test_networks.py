"""Private networks on real containers, as root and as an ordinary user: published ports, names, and what happens when something dies."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import os

import pytest
from driving import Driver, linked_usr

SERVE = r"""
import socket, sys, threading
kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
name = socket.gethostname().encode()
if kind == "udp":
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind((address, port))
    while True:
        data, peer = s.recvfrom(65536)
        s.sendto(name + b":" + data, peer)
s = socket.create_server((address, port), family=family, backlog=1024)
def echo(c):
    with c:
        if kind == "hello":
            c.sendall(name)
        while True:
            data = c.recv(65536)
            if not data:
                break
            if kind != "sink":
                c.sendall(data)
        c.sendall(b"|end")
while True:
    threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()
"""

TALK = r"""
import socket, traceback
SERVE = %r
def told(kind, error, trace):
    traceback.print_exception(kind, error, trace)
    sys.stderr.write("|".join(error.lines() if isinstance(error, GhaError) else ()))
sys.excepthook = told
def service(root, *argv, name="", start=True, **more):
    main = ExecRequest(argv=("/usr/bin/python3", "-I", "-S", "-c", SERVE, *map(str, argv)), env=PATH)
    more.setdefault("network", "private")
    made = engine.create(spec(root, main=main, mounts=USR, **more), name)
    if start:
        engine.start(made)
    return made

def until(true, limit=20.0):
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.01)
    return true()

def opened(made, port):
    return until(lambda: port in engine.get(made).reach.open)

def say(address, port, data=b"x", family=socket.AF_INET):
    with socket.socket(family) as s:
        s.settimeout(10.0)
        try:
            s.connect((address, port))
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            parts = []
            while True:
                part = s.recv(65536)
                if not part:
                    return b"".join(parts).decode("latin-1")
                parts.append(part)
        except OSError as error:
            return type(error).__name__
""" % SERVE


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
