"""Containers from create to remove, on real Apptainer, as root and as an ordinary user: what `docker run` and `docker exec` promise."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from driving import Driver, linked_usr

WAIT = 30.0


def _root(driver: Driver) -> str:
    return str(driver.own(linked_usr(driver.images / "linked")))


def _usr() -> str:
    return 'Mount(source="/usr", target="/usr", read_only=True)'


def _foreground(driver: Driver, command: str, more: str = "", mounts: str = "", **popen: Any) -> subprocess.Popen[bytes]:
    """`run --rm` of a shell command in the foreground, in a process of its own; its exit code is the container's."""
    script = (
        "me = os.getpid()\n"
        "main = ExecRequest(argv=('/usr/bin/sh', '-c', %r), env=PATH)\n"
        "made = spec(%r, main=main, pid=me, mounts=(%s,%s), remove=True%s)\n"
        "try:\n"
        "    ended = engine.run(made, '', Stdio(0, 1, 2))\n"
        "except GhaError as error:\n"
        "    sys.stderr.write('|'.join(error.lines()))\n"
        "    sys.exit(125)\n"
        "if ended.reason: sys.stderr.write('reason: ' + ended.reason)\n"
        "sys.exit(ended.exit_code)\n"
    ) % (command, _root_once(driver), _usr(), mounts, more)
    return driver.start(script, **popen)


def _root_once(driver: Driver) -> str:
    made = driver.images / "linked"
    return str(made) if made.exists() else _root(driver)


def _finish(child: subprocess.Popen[bytes], data: bytes = b"") -> tuple[int, bytes, bytes]:
    out, err = child.communicate(data, timeout=WAIT)
    return child.returncode, out, err


def _containers(driver: Driver) -> list[str]:
    return [name for name in os.listdir(driver.state / "containers") if not name.startswith(".")]


def _eventually(true: Any) -> bool:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return bool(true())


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_exit_codes_are_the_commands(driver: Driver, command: str, code: int) -> None:
    assert _finish(_foreground(driver, command))[0] == code
    assert _containers(driver) == []


def test_a_command_that_is_missing_is_127_and_one_that_may_not_run_126(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "made = held(%r, mounts=(%s,))\n"
        "answer([run(made, word)['code'] for word in ('nope', '/nope', '/etc', '/etc/passwd')]"
        "+ [run(made, '/usr/bin/true', cwd='/nope')['code'], run(made, '/usr/bin/true', user='nobody-here')['code']])" % (root, _usr())
    )
    assert said == [127, 127, 126, 126, 126, 126]


def test_standard_input_reaches_the_command_and_output_comes_back_whole(driver: Driver) -> None:
    data = os.urandom(5 << 20)
    code, out, _ = _finish(_foreground(driver, "cat", stdin=subprocess.PIPE), data)
    assert code == 0
    assert out == data


def test_a_process_left_behind_ends_with_the_main_process(driver: Driver) -> None:
    code, out, _ = _finish(_foreground(driver, "setsid sleep 600 >/dev/null 2>&1 & echo started"))
    assert (code, out) == (0, b"started\n")
    assert _eventually(lambda: not driver.processes())


def test_the_container_dies_with_its_foreground_owner(driver: Driver) -> None:
    child = _foreground(driver, "echo up; sleep 600")
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.kill()
    child.communicate(timeout=WAIT)
    assert _eventually(lambda: not driver.processes())
    assert _eventually(lambda: _containers(driver) == [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_handed_on_to_the_main_process(driver: Driver, number: int) -> None:
    name = signal.Signals(number).name[3:]
    child = _foreground(driver, "trap 'echo got; exit 3' %s; echo up; while :; do sleep 0.05; done" % name)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.send_signal(number)
    assert _finish(child)[:2] == (3, b"got\n")


def test_deleting_and_making_anew_what_the_image_has(driver: Driver) -> None:
    root = Path(_root(driver))
    (root / "opt/lists/deep").mkdir(parents=True)
    (root / "opt/lists/deep/file").write_text("image")
    driver.own(root)
    command = "rm -rf /opt/lists && mkdir /opt/lists && echo new > /opt/lists/file && ls -R /opt/lists && mv /etc/group /etc/moved"
    code, out, err = _finish(_foreground(driver, command))
    assert (code, out) == (0, b"/opt/lists:\nfile\n"), err
    assert (root / "opt/lists/deep/file").read_text() == "image"
    assert (root / "etc/group").exists()


def test_a_read_only_root_is_read_only_and_tmp_is_not(driver: Driver) -> None:
    code, out, _ = _finish(_foreground(driver, "echo x > /tmp/x && cat /tmp/x; echo y > /y || exit 4", more=", writable=False"))
    assert (code, out) == (4, b"x\n")


def test_mounts_appear_where_the_image_has_nothing(driver: Driver) -> None:
    source = driver.images / 'in, put:"q"'
    source.mkdir()
    (source / "a").write_text("bound")
    driver.own(source)
    mounts = (
        "Mount(source=%r, target='/new/place', read_only=True), Mount(source=%r, target='/new/file'),"
        "Mount(source='', target='/scratch', kind='tmpfs', size=1 << 20), Mount(source='kept', target='/data', kind='volume'),"
        "Mount(source='', target='/any', kind='anonymous')," % (str(source), str(source / "a"))
    )
    command = (
        "cat /new/place/a /new/file; echo no > /new/place/b; echo yes > /data/b; echo any > /any/c;"
        "head -c 3000000 /dev/zero > /scratch/big; df -k /scratch | tail -1 | tr -s ' ' | cut -d' ' -f2"
    )
    _, out, _ = _finish(_foreground(driver, command, mounts=mounts))
    assert out == b"boundbound1024\n"
    assert not (source / "b").exists()
    _, out, _ = _finish(_foreground(driver, "cat /data/b; ls /any", mounts=mounts))
    assert out == b"yes\n"


def test_a_named_volume_takes_what_the_image_has_there(driver: Driver) -> None:
    root = Path(_root(driver))
    (root / "opt/seed").mkdir()
    (root / "opt/seed/file").write_text("from the image")
    (root / "opt/seed/link").symlink_to("file")
    driver.own(root)
    mounts = "Mount(source='seeded', target='/opt/seed', kind='volume'),"
    assert _finish(_foreground(driver, "cat /opt/seed/link; rm /opt/seed/file", mounts=mounts))[1] == b"from the image"
    assert _finish(_foreground(driver, "ls /opt/seed", mounts=mounts))[1] == b"link\n"


def test_a_missing_bind_source_is_an_error_unless_it_may_be_made(driver: Driver) -> None:
    missing = str(driver.images / "missing")
    code, _, err = _finish(_foreground(driver, "true", mounts="Mount(source=%r, target='/x')," % missing))
    assert code == 125
    assert missing.encode() in err
    code, _, err = _finish(_foreground(driver, "ls -d /x", mounts="Mount(source=%r, target='/x', create=True)," % missing))
    assert code == 0, err


@pytest.mark.parametrize("target", ["/etc", "../../../../../../etc", "/proc/self/root/etc"])
def test_links_of_an_image_lead_nowhere_outside(driver: Driver, target: str) -> None:
    root = Path(_root(driver))
    outside = driver.images / "outside"
    outside.mkdir()
    (root / "trap").symlink_to(str(outside))
    (root / "etc/hosts").unlink()
    (root / "etc/hosts").symlink_to(str(outside / "hosts"))
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").symlink_to(target + "/resolv-of-a-test")
    driver.own(root)
    mounts = "Mount(source='/usr/share', target='/trap/made')," if target == "/etc" else ""
    _finish(_foreground(driver, "true", mounts=mounts))
    assert os.listdir(outside) == []
    assert not os.path.exists("/etc/resolv-of-a-test")


def test_a_private_network_has_loopback_only_and_low_ports(driver: Driver) -> None:
    command = "cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '; python3 -c \"import socket; s=socket.socket(); s.bind(('127.0.0.1',80)); print(1)\""
    _, out, err = _finish(_foreground(driver, command, more=", network='none'"))
    assert [line for line in out.split() if line not in (b"sit0", b"tunl0", b"ip6tnl0")] == [b"lo", b"1"], err


def test_own_pid_namespace_hostname_hosts_and_tmp(driver: Driver) -> None:
    command = "hostname; grep db /etc/hosts; echo in tmp: $(ls /tmp); stat -c %a /tmp /var/tmp; [ $(df -k /tmp | tail -1 | tr -s ' ' | cut -d' ' -f2) -gt 70000 ] && echo large; ls /proc | grep -c '^[0-9]'"
    _, out, err = _finish(_foreground(driver, command, more=", hostname='thisone', hosts={'db': '127.9.9.9'}"))
    lines = out.split(b"\n")
    own = [word for word in lines.pop(2).decode().split()[2:] if word not in driver.apptainer.split("/")]
    assert own == []  # Apptainer leaves an empty path to itself where it lies below /tmp
    assert lines[:5] == [b"thisone", b"127.9.9.9\tdb", b"1777", b"1777", b"large"], err
    assert int(lines[5]) < 8


@pytest.mark.parametrize(
    ("user", "said"),
    [("", "0:0 /root"), ("1234", "1234:1234 /opt"), ("worker", "1234:1234 /opt"), ("77:88", "77:88 /"), ("0:5", "0:5 /root")],
)
def test_users_are_found_as_docker_finds_them(driver: Driver, user: str, said: str) -> None:
    root = _root(driver)
    found = driver.run(
        "made = held(%r, mounts=(%s,))\nanswer(run(made, '/usr/bin/sh', '-c', 'echo $(id -u):$(id -g) $HOME', user=%r))"
        % (root, _usr(), user)
    )
    assert found["out"] == said + "\n", found


def test_stop_gives_its_grace_and_then_kills(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "main = ExecRequest(argv=('/usr/bin/sh', '-c', \"trap 'echo bye; exit 4' TERM; echo up; while :; do sleep 0.05; done\"), env=PATH)\n"
        "deaf = ExecRequest(argv=('/usr/bin/sh', '-c', \"trap '' TERM; echo up; while :; do sleep 0.05; done\"), env=PATH)\n"
        "found = []\n"
        "for one in (main, deaf):\n"
        "    made = held(%r, main=one, mounts=(%s,))\n"
        "    for _ in range(200):\n"
        "        if list(engine.logs(made)): break\n"
        "        time.sleep(0.05)\n"
        "    ended = engine.stop(made, 0.7)\n"
        "    found.append([ended.exit_code, [line.text.decode() for line in engine.logs(made)], engine.get(made).state])\n"
        "answer(found)" % (root, _usr())
    )
    assert said == [[4, ["up", "bye"], "exited"], [137, ["up"], "exited"]]


def test_logs_tell_streams_apart_follow_and_rotate_in_bounded_space(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "import dataclasses\n"
        "engine = open_engine(facts, dataclasses.replace(settings, log_bytes=50000, log_files=3))\n"
        "text = 'echo err >&2; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; printf %%s end'\n"
        "made = engine.create(spec(%r, main=ExecRequest(argv=('/usr/bin/sh', '-c', text), env=PATH), mounts=(%s,)))\n"
        "engine.start(made)\n"
        "lines = list(engine.logs(made, follow=True))\n"
        "kept = list(engine.logs(made, tail=3))\n"
        "size = sum(os.path.getsize(os.path.join(facts.state_dir, 'containers', made, 'log', n)) for n in os.listdir(os.path.join(facts.state_dir, 'containers', made, 'log')))\n"
        "answer([lines[0].stream if lines else '', [line.text.decode() for line in kept], kept[-1].partial, size, engine.wait(made, 20).exit_code])"
        % (root, _usr())
    )
    assert said[1:3] == [["line 19998", "line 19999", "end"], True]
    assert said[3] < 4 * 70000
    assert said[4] == 0


def test_names_are_unique_and_free_again(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "first = engine.create(spec(%r), 'one')\n"
        "try:\n    engine.create(spec(%r), 'one')\nexcept GhaError as error:\n    text = error.what\n"
        "found = engine.get('one').id == first and engine.get(first[:10]).id == first\n"
        "engine.remove('one')\nsecond = engine.create(spec(%r), 'one')\nanswer([text, found, [one.name for one in engine.list()]])"
        % (root, root, root)
    )
    assert "in use" in said[0]
    assert said[1:] == [True, ["one"]]


def test_a_container_starts_again_with_its_layer(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "main = ExecRequest(argv=('/usr/bin/sh', '-c', 'cat /kept; echo more >> /kept'), env=PATH)\n"
        "made = engine.create(spec(%r, main=main, mounts=(%s,)))\n"
        "codes = []\n"
        "for _ in range(3):\n    engine.start(made)\n    codes.append(engine.wait(made, 20).exit_code)\n"
        "answer([codes, [line.text.decode() for line in engine.logs(made) if line.stream == 'stdout']])" % (root, _usr())
    )
    assert said == [[0, 0, 0], ["more", "more", "more"]]


@pytest.mark.parametrize(
    "file, damage", [("spec.json", "{"), ("spec.json", '{"image": 3}'), ("spec.json", ""), ("owner", ""), ("owner", "1 x 0")]
)
def test_a_forged_or_half_written_record_is_named_and_can_be_removed(driver: Driver, file: str, damage: str) -> None:
    root = _root(driver)
    said = driver.run(
        "made = engine.create(spec(%r), 'bad')\n"
        "open(os.path.join(facts.state_dir, 'containers', made, %r), 'w').write(%r)\n"
        "found = [one.finding for one in engine.reap()]\n"
        "try:\n    engine.get('bad')\nexcept GhaError as error:\n    found.append(error.what)\n"
        "other = engine.create(spec(%r), 'good')\n"
        "engine.remove('bad')\n"
        "answer([made[:12], found, [one.name for one in engine.list()]])" % (root, file, damage, root)
    )
    identity, found, left = said
    assert len(found) == 1 and identity in found[0] and left == ["good"]


def test_a_killed_monitor_is_unknown_and_never_success(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "main = ExecRequest(argv=('/usr/bin/sleep', '600'), env=PATH)\n"
        "made = held(%r, main=main, mounts=(%s,))\n"
        "monitor = int(open(os.path.join(facts.state_dir, 'containers', made, 'monitor')).read().split()[0])\n"
        "os.kill(monitor, 9)\n"
        "ended = engine.wait(made, 20)\n"
        "engine.reap()\n"
        "answer([ended.exit_code, ended.reason, engine.get(made).state, engine.get(made).status.exit_code])" % (root, _usr())
    )
    assert said[0] == 125
    assert "unknown" in said[1]
    assert said[2:] == ["exited", 125]
    assert _eventually(lambda: not driver.processes())


def test_sixty_four_at_once(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "import subprocess\n"
        "script = sys.argv[0]\n"
        "pids = []\n"
        "for number in range(64):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        try:\n"
        "            main = ExecRequest(argv=('/usr/bin/sh', '-c', 'exit %%d' %% (number %% 100)), env=PATH)\n"
        "            os._exit(engine.run(spec(%r, main=main, pid=os.getpid(), mounts=(%s,), remove=True), '', Stdio()).exit_code)\n"
        "        except BaseException as error:\n"
        "            os.write(2, repr(error).encode())\n"
        "            os._exit(200)\n"
        "    pids.append(pid)\n"
        "answer([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])" % (root, _usr())
    )
    assert said == list(range(64))
    assert _containers(driver) == []


def test_a_terminal_is_one(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "import pty\n"
        "made = held(%r, mounts=(%s,))\n"
        "pid, master = pty.fork()\n"
        "if pid == 0:\n"
        "    request = ExecRequest(argv=('/usr/bin/sh', '-c', 'tty; stty size; read line; echo got $line; exit 6'), env=PATH, tty=True)\n"
        "    os._exit(engine.exec(made, request, Stdio(0, 1, 2)).exit_code)\n"
        "import fcntl, termios, struct\n"
        "fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack('HHHH', 33, 99, 0, 0))\n"
        "out = b''\n"
        "sent = False\n"
        "while True:\n"
        "    try: data = os.read(master, 4096)\n"
        "    except OSError: break\n"
        "    if not data: break\n"
        "    out += data\n"
        "    if not sent and b'/dev/pts' in out:\n"
        "        os.write(master, b'hello\\n'); sent = True\n"
        "answer([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()])" % (root, _usr())
    )
    assert said[0] == 6
    assert "/dev/pts/" in said[1]
    assert "got hello" in said[1]


def test_a_tree_of_any_depth_is_removed(driver: Driver) -> None:
    command = "i=0; while [ $i -lt 1200 ]; do mkdir d && cd d || exit 9; i=$((i+1)); done; echo deep"
    assert _finish(_foreground(driver, "cd /opt; " + command))[:2] == (0, b"deep\n")
    assert _containers(driver) == []
    assert driver.run("answer([one.status for one in engine.reap()])") == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes a pid namespace without a user namespace here")
@pytest.mark.parametrize("driver", ["root"], indirect=True)
def test_containers_of_another_place_are_left_alone(driver: Driver) -> None:
    root = _root(driver)
    script = (
        "import ctypes\n"
        "main = ExecRequest(argv=('/usr/bin/sleep', '600'), env=PATH)\n"
        "made = held(%r, main=main, mounts=(%s,), remove=True)\n"
        "ctypes.CDLL(None).unshare(0x20000000)\n"
        "inner, outer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    found = [one.status for one in engine.reap()] + [one.state for one in engine.list()]\n"
        "    try:\n        engine.kill(made, 9)\n    except GhaError as error:\n        found.append(type(error).__name__)\n"
        "    os.write(outer, json.dumps(found).encode())\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "answer([json.loads(os.read(inner, 4096)), engine.get(made).state])"
    ) % (root, _usr())
    assert driver.run(script) == [["running", "Refused"], "running"]


def test_a_start_that_is_refused_leaves_nothing(driver: Driver) -> None:
    code, _, err = _finish(_foreground(driver, "true", more=", gpu='rocm'"))
    assert code == 125, err
    assert _containers(driver) == []


def test_one_process_may_exec_and_then_start(driver: Driver) -> None:
    root = _root(driver)
    said = driver.run(
        "made = held(%r, mounts=(%s,))\nrun(made, '/usr/bin/true')\nother = held(%r, mounts=(%s,))\nanswer(run(other, '/usr/bin/true')['code'])"
        % (root, _usr(), root, _usr())
    )
    assert said == 0


OUTPUT = (
    "main = ExecRequest(argv=('/usr/bin/sh', '-c', 'head -c 300000 /dev/zero; exit 0'), env=PATH)\n"
    "made = spec(%r, main=main, pid=os.getpid(), mounts=(%s,))\n"
    "%s\n"
    "ended = engine.run(made, '', Stdio(-1, out, -1))\n"
)


def test_output_that_the_caller_cannot_store_is_no_success(driver: Driver) -> None:
    script = OUTPUT % (_root(driver), _usr(), "out = os.open('/dev/full', os.O_WRONLY)")
    code, reason = driver.run(script + "answer([ended.exit_code, ended.reason])")
    assert code == 125
    assert "stdout could not be written: No space left" in reason


def test_a_caller_who_stops_listening_does_not_fail_the_command(driver: Driver) -> None:
    script = OUTPUT % (_root(driver), _usr(), "inner, out = os.pipe(); os.close(inner)")
    assert driver.run(script + "answer([ended.exit_code, ended.reason])") == [0, ""]


def test_a_caller_who_reads_slowly_through_a_non_blocking_pipe_gets_all(driver: Driver) -> None:
    reader = (
        "inner, out = os.pipe(); os.set_blocking(out, False)\n"
        "back, front = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.close(out)\n"
        "    size = 0\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
        "        data = os.read(inner, 20000)\n"
        "        size += len(data)\n"
        "        if not data: break\n"
        "    os.write(front, str(size).encode())\n"
        "    os._exit(0)"
    )
    script = OUTPUT % (_root(driver), _usr(), reader)
    assert driver.run(script + "os.close(out)\nanswer([ended.exit_code, int(os.read(back, 100))])") == [0, 300000]


@pytest.mark.parametrize("kept", [True, False])
def test_processes_that_hang_in_the_kernel_are_told_and_never_success(driver: Driver, kept: bool) -> None:
    """They cannot be had here at will, so the monitor is told that they are not gone yet."""
    root = _root(driver)
    said = driver.run(
        "from gha_apptainer.node.engine import monitor\n"
        "class Hanging:\n"
        "    reap = staticmethod(lambda pid, limit: False)\n"
        "    def __getattr__(self, name):\n        return getattr(process, name)\n"
        "monitor.process, monitor._END_LIMIT = Hanging(), 0.2\n"
        "main = ExecRequest(argv=('/usr/bin/true',), env=PATH)\n"
        "ended = engine.run(spec(%r, main=main, mounts=(%s,), remove=%r), '', Stdio())\n"
        "answer([ended.exit_code, ended.reason])" % (root, _usr(), not kept)
    )
    assert said[0] == 125 and "did not end within" in said[1]
