"""The container commands as a person types them: a process of our own interpreter, the real engine below it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[2] / "src")
LIMIT_S = 60.0


class Tool:
    """`gha-apptainer` with a state directory of its own and an image that is there."""

    def __init__(self, image: str) -> None:
        self.image = image

    def start(self, *argv: str, **more: object) -> subprocess.Popen[bytes]:
        options: dict[str, object] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen([sys.executable, "-I", "-S", SOURCE, *argv], **options)  # type: ignore[call-overload,no-any-return]  # Popen's

    def __call__(self, *argv: str, data: bytes = b"", **more: object) -> tuple[int, str, str]:
        with self.start(*argv, **more) as child:
            try:
                out, err = child.communicate(data, timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                raise
        return child.returncode, out.decode(), err.decode()

    def run(self, *argv: str, options: tuple[str, ...] = (), data: bytes = b"") -> tuple[int, str, str]:
        return self("run", "-q", "--rm", *options, self.image, *argv, data=data)


@pytest.fixture
def tool(busybox_rootfs: str, host: object) -> Iterator[Tool]:
    made = Tool(busybox_rootfs)
    yield made
    left = made("ps", "-aq")[1].split()
    if left:
        made("rm", "-f", *left)


def eventually(tool: Tool, name: str, word: str) -> bool:
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        if word in tool("logs", name)[1]:
            return True
        time.sleep(0.05)
    return False


def test_run(tool: Tool) -> None:
    code, out, err = tool("run", "--rm", tool.image, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (code, out) == (5, "out\n")
    assert "err\n" in err
    assert "route path" in err
    assert tool("ps", "-a", "-q")[1] == ""


@pytest.mark.parametrize("argv, code", [(("true",), 0), (("nosuch",), 127), (("/etc",), 126), (("sh", "-c", "kill -9 $$"), 137)])
def test_exit_codes(tool: Tool, argv: tuple[str, ...], code: int) -> None:
    found, _, err = tool.run(*argv)
    assert found == code
    assert bool(err) == (code in (126, 127))


def test_options_arrive(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("FROM_FILE=a b\nBARE\n")
    options = ("-e", "A=1", "-e", "INPUT_NODE-VERSION=20", "--env-file", str(tmp_path / "file"), "-w", "/made/for/it", "-h", "box")
    code, out, _ = tool.run("sh", "-c", 'pwd; hostname; id -u; echo "$FROM_FILE"', options=options)
    assert (code, out.splitlines()) == (0, ["/made/for/it", "box", "0", "a b"])
    # not through a shell: it would drop the name with a dash
    found = set(tool.run("env", options=options)[1].splitlines())
    assert {"A=1", "INPUT_NODE-VERSION=20", "HOSTNAME=box", "FROM_FILE=a b"} <= found
    assert not any(line.startswith("BARE") for line in found)


def test_mounts_arrive(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("bound\n")
    options = ("-v", "%s:/in:ro" % tmp_path, "-v", "/any", "--tmpfs", "/t:size=1m", "--shm-size=2m", "-v", "%s/new:/new" % tmp_path)
    script = (
        "cat /in/f; touch /in/g 2>/dev/null && echo writable; touch /any/x /t/x /new/x /dev/shm/x; "
        "df -k /t /dev/shm | awk '/tmpfs/ {print $2}'"
    )
    assert tool.run("sh", "-c", script, options=options)[:2] == (0, "bound\n1024\n2048\n")
    assert (tmp_path / "new" / "x").exists()


def test_read_only(tool: Tool) -> None:
    assert tool.run("sh", "-c", "echo x > /etc/x", options=("--read-only",))[0] != 0
    assert tool.run("sh", "-c", "echo x > /etc/x")[0] == 0


def test_entrypoint(tool: Tool) -> None:
    assert tool.run("a", "b c", options=("--entrypoint", "echo"))[:2] == (0, "a b c\n")


def test_stdin_is_passed_only_with_i(tool: Tool) -> None:
    data = os.urandom(1 << 20)
    code, out, _ = tool.run("sh", "-c", "wc -c", options=("-i",), data=data)
    assert (code, out.strip()) == (0, str(len(data)))
    assert tool.run("sh", "-c", "wc -c", data=data)[1].strip() == "0"


def test_a_life(tool: Tool) -> None:
    code, identity, _ = tool("run", "-q", "-d", "--name", "one", "-e", "A=1", tool.image, "sh", "-c", "echo up; sleep 1000")
    assert code == 0
    assert eventually(tool, "one", "up")
    assert tool("exec", "one", "sh", "-c", "echo $A; exit 3")[:2] == (3, "1\n")
    assert tool("exec", "-i", "-w", "/etc", "-e", "B=2", "one", "sh", "-c", "pwd; echo $B; cat", data=b"data")[1] == "/etc\n2\ndata"
    row = json.loads(tool("ps", "--json")[1])["containers"][0]
    assert (row["ID"], row["State"], row["Names"]) == (identity.strip(), "running", "one")
    assert json.loads(tool("inspect", "one")[1])[0]["State"]["Pid"] > 0
    assert tool("stop", "-t", "1", "one")[:2] == (0, "one\n")
    assert tool("wait", "one")[1] in ("137\n", "143\n")
    assert tool("exec", "one", "true")[0] == 125
    assert tool("start", "one")[0] == 0
    assert tool("kill", "one")[0] == 0
    assert tool("wait", "one")[1] == "137\n"
    assert tool("rm", "one")[:2] == (0, "one\n")
    assert tool("logs", "one")[0] == 125


def test_start_attached(tool: Tool) -> None:
    assert tool("create", "-q", "--name", "one", tool.image, "sh", "-c", "echo hi; exit 4")[0] == 0
    assert tool("start", "-a", "one")[:2] == (4, "hi\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_command(tool: Tool, number: int) -> None:
    script = "trap 'echo got; exit 9' INT TERM; echo ready; while :; do sleep 0.1; done"
    with tool.start("run", "-q", "--rm", tool.image, "sh", "-c", script) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        limit = time.monotonic() + LIMIT_S
        while not tool("ps", "-q")[1]:  # the command is faster than the record of its start, before which a signal means: do not start
            assert time.monotonic() < limit
        child.send_signal(number)
        assert child.stdout.read() == b"got\n"
        assert child.wait(LIMIT_S) == 9


def test_a_reader_that_has_gone_ends_the_command(tool: Tool) -> None:
    with tool.start("run", "-q", "--rm", tool.image, "yes") as child:
        assert child.stdout is not None
        assert child.stdout.read(2) == b"y\n"
        child.stdout.close()
        assert child.wait(LIMIT_S) == 141


def test_a_terminal(tool: Tool) -> None:
    ours, theirs = pty.openpty()
    script = "test -t 0 && test -t 1 && echo $TERM; read x; echo got $x; exit 6"
    argv = ("run", "-q", "--rm", "-it", tool.image, "sh", "-c", script)
    child = tool.start(*argv, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = b""
    sent = False
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed: Linux says EIO
            break
        told += part
        if b"xterm" in told and not sent:
            sent = os.write(ours, b"word\n") > 0
    assert child.wait(LIMIT_S) == 6
    os.close(ours)
    assert b"xterm\r\n" in told
    assert b"got word\r\n" in told


def test_refusals_come_before_any_work(tool: Tool) -> None:
    code, out, err = tool.run("true", options=("--privileged",))
    assert (code, out) == (125, "")
    assert "--privileged cannot be honoured" in err
    code, _, err = tool.run("true", options=("--gpus", "all"))
    assert code == 125
    assert "GPU" in err


@pytest.mark.case("hooks-55", "hooks-63")
def test_a_published_port_is_chosen_shown_and_reached(tool: Tool) -> None:
    served = ("httpd", "-f", "-h", "/srv", "-p", "80")
    check = ("--health-cmd", "wget -qO- http://127.0.0.1/hello", "--health-interval", "200ms", "--health-retries", "50")
    code, _, err = tool("run", "-d", "-q", "--name", "web", "--expose", "80", "-P", *check, tool.image, *served)
    assert code == 0, err
    assert "other machines" in err
    assert tool("exec", "web", "sh", "-c", "mkdir -p /srv; echo world > /srv/hello")[0] == 0
    limit = time.monotonic() + LIMIT_S
    while "(healthy)" not in tool("ps")[1] and time.monotonic() < limit:
        time.sleep(0.1)
    shown = tool("ps")[1]
    assert "Up (healthy)" in shown
    found = re.search(r"127\.0\.0\.1:([0-9]+)->80/tcp", shown)
    assert found, shown
    details = json.loads(tool("inspect", "web")[1])[0]
    assert details["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": found.group(1)}]}
    assert details["State"]["Health"]["Status"] == "healthy"
    assert details["State"]["Health"]["Log"][-1]["Output"] == "world\n"
    with urllib.request.urlopen("http://127.0.0.1:%s/hello" % found.group(1), timeout=LIMIT_S) as answer:
        assert answer.read() == b"world\n"
    code, _, err = tool("run", "-q", "--rm", "--name", "second", "--network", "private", "-p", found.group(1) + ":80", tool.image, "true")
    assert code == 125
    assert "second" in err and "container web" in err
    code, out, err = tool("run", "--rm", "-q", "--network", "none", "-p", "80", tool.image, "true")
    assert (code, out) == (125, "")
    assert "--network" in err


@pytest.mark.case("hooks-66")
def test_containers_of_one_network_find_each_other(tool: Tool) -> None:
    serve = ("sh", "-c", "echo found > /tmp/page; exec httpd -f -h /tmp -p 80")
    assert tool("run", "-d", "-q", "--name", "web", "--network", "job", "--network-alias", "www", tool.image, *serve)[0] == 0
    ask = "for i in $(seq 100); do wget -qO- http://www/page 2>/dev/null && exit; sleep 0.1; done; cat /etc/hosts; exit 1"
    assert tool("run", "--rm", "-q", "--network", "job", tool.image, "sh", "-c", ask)[:2] == (0, "found\n")
    assert tool("run", "--rm", "-q", "--network", "private", tool.image, "wget", "-qO-", "http://www/page")[0] == 1


@pytest.mark.case("hooks-62", "hooks-67")
def test_name_servers_and_shared_memory(tool: Tool) -> None:
    options = ("--dns", "192.0.2.1", "--dns-search", "example.org", "--dns-option", "ndots:2", "--shm-size", "3m")
    code, out, _ = tool.run("sh", "-c", "cat /etc/resolv.conf; df -k /dev/shm | tail -1", options=options)
    assert code == 0
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("nameserver")] == ["nameserver 192.0.2.1"]
    assert "search example.org" in lines
    assert "options ndots:2" in lines
    assert " 3072 " in " ".join(lines[-1].split()) + " "
