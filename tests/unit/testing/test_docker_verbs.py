"""The docker-like verbs, with an engine in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gha_apptainer.domain.asked import Asked
from gha_apptainer.domain.containers import EXITED, RUNNING, ExecRequest
from gha_apptainer.domain.errors import ImageFailed
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_refs import parse
from gha_apptainer.domain.images import Digest, Image, OciConfig
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import main as door
from gha_apptainer.node.images import credentials
from gha_apptainer.node.main.context import AUTHFILE, Context
from gha_apptainer.testing.engine import FakeEngine, Outcome

HOST = HostFacts(hostname="node", boot_id="boot", machine="x86_64", kernel="6.1", uid=1000, gid=1000, state_dir="/state")
CONFIG = OciConfig(cmd=("serve",), env=(("PATH", "/bin"),), labels=(("vendor", "x"),))


class Desk(Context):
    """A context whose image is always there."""

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__({"HOME": "/home", "CUDA_VISIBLE_DEVICES": "1"}, engine=engine, host=HOST, settings=NodeSettings())
        self.fake = engine

    def image(self, asked: Asked, *, quiet: bool) -> Image:
        if asked.image == "gone":
            raise ImageFailed("no route leads to image gone", remedy="look")
        return Image(asked.image, Digest("sha256:d", "manifest"), CONFIG, "/rootfs", "sandbox", "path")


class Command:
    """`gha-apptainer` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.engine = FakeEngine(self._program, clock=lambda: 1_700_000_000.0)
        self._capfd = capfd
        monkeypatch.setattr(door, "_context", lambda: Desk(self.engine))

    def _program(self, request: ExecRequest) -> Outcome:
        return self.outcomes.get(request.argv[0], Outcome())

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        code = door.main(argv)
        out, err = self._capfd.readouterr()
        return code, out, err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    made = Command(monkeypatch, capfd)
    made.outcomes["serve"] = made.outcomes["sleep"] = Outcome(lasts=True)
    return made


def test_run_gives_the_commands_output_and_code(command: Command) -> None:
    command.outcomes["work"] = Outcome(7, b"done\n", b"careful\n")
    assert command("run", "--rm", "image", "work", "--hard") == (7, "done\n", "careful\n")
    assert command.engine.list() == []


def test_run_belongs_to_this_process_and_create_to_nobody(command: Command) -> None:
    command("run", "--name", "one", "image", "work")
    command("create", "--name", "two", "image")
    owners = {each.name: each.spec.owner for each in command.engine.list()}
    assert owners["one"].pid > 0
    assert owners["one"].started > 0
    assert (owners["two"].pid, owners["two"].scope, owners["two"].host, owners["two"].boot_id) == (0, "cli", "node", "boot")


@pytest.mark.parametrize("code", [0, 1, 126, 127, 137, 255])
def test_codes_of_commands(command: Command, code: int) -> None:
    command.outcomes["work"] = Outcome(code)
    assert command("run", "image", "work")[0] == code


def test_what_was_not_ordinary_is_said_and_never_success(command: Command) -> None:
    command.outcomes["work"] = Outcome(0, reason="root file system lost")
    code, out, err = command("run", "image", "work")
    assert (code, out) == (125, "")
    assert "root file system lost" in err
    command.outcomes["work"] = Outcome(137, oom=True)
    assert "out of memory" in command("run", "image", "work")[2]


def test_run_in_the_background(command: Command) -> None:
    code, out, err = command("run", "-d", "--name", "one", "image")
    assert (code, err) == (0, "")
    found = command.engine.get("one")
    assert (out.strip(), found.state, found.spec.owner.pid) == (found.id, RUNNING, 0)


def test_create_start_stop_rm(command: Command) -> None:
    _, out, _ = command("create", "image")
    identity = out.strip()
    assert command("start", identity)[:2] == (0, identity + "\n")
    assert command("stop", "-t", "0", identity[:60])[:2] == (0, identity[:60] + "\n")
    assert command.engine.get(identity).state == EXITED
    assert command("rm", identity)[:2] == (0, identity + "\n")
    assert command.engine.list() == []


def test_start_attached(command: Command) -> None:
    command.outcomes["work"] = Outcome(3, b"hello\n")
    command("create", "--name", "one", "image", "work")
    assert command("start", "-a", "one") == (3, "hello\n", "")
    assert "one container" in command("start", "-a", "one", "two")[2]
    command("create", "-t", "--name", "tty", "image", "work")
    code, _, err = command("start", "-a", "tty")
    assert code == 125
    assert "terminal" in err


def test_exec(command: Command) -> None:
    command("run", "-d", "--name", "one", "-e", "A=1", "-w", "/w", "image")
    command.outcomes["ls"] = Outcome(2, b"listing\n")
    assert command("exec", "-e", "B=2", "-u", "5", "one", "ls", "-l") == (2, "listing\n", "")
    request = command.engine.executed[0][1]
    assert request.argv == ("ls", "-l")
    assert dict(request.env) == {"PATH": "/bin", "A": "1", "B": "2"}
    assert (request.cwd, request.user) == ("/w", "5")


def test_a_terminal_is_only_given_where_there_is_one(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command("run", "-d", "--name", "one", "image")
    monkeypatch.setattr("os.isatty", lambda _number: False)
    for argv in (("run", "-it", "image"), ("exec", "-it", "one", "sh")):
        code, _, err = command(*argv)
        assert code == 125
        assert "not a terminal" in err


@pytest.mark.parametrize(
    "argv, word",
    [
        (("run",), "no image"),
        (("run", "gone"), "gone"),
        (("run", "--bogus", "image"), "--bogus"),
        (("run", "--privileged", "image"), "--privileged"),
        (("run", "--gpus", "all", "image"), "GPU"),
        (("run", "--platform", "linux/arm64", "image"), "linux/arm64"),
        (("run", "--mount", "type=bind,src=/does/not/exist,dst=/x", "image"), "/does/not/exist"),
        (("run", "--env-file", "/does/not/exist", "image"), "--env-file"),
        (("exec", "one"), "no such container"),
        (("exec",), "no container"),
        (("stop", "nobody"), "nobody"),
        (("stop",), "no container"),
        (("stop", "-t", "soon", "x"), "--timeout"),
        (("kill", "-s", "NOPE", "x"), "NOPE"),
        (("logs",), "one container"),
        (("logs", "nobody"), "nobody"),
        (("ps", "x"), "no names"),
        (("ps", "--format", "{{.ID}}"), "--format"),
        (("ps", "--filter", "x"), "--filter"),
        (("ps", "--filter", "health=good"), "--filter"),
        (("inspect", "-f", "{{.ID}}", "x"), "--format"),
    ],
)
def test_our_own_failures_are_125_and_name_the_thing(command: Command, argv: tuple[str, ...], word: str) -> None:
    code, out, err = command(*argv)
    assert (code, out) == (125, "")
    assert word in err
    assert "Traceback" not in err


def test_warnings_are_talk(command: Command) -> None:
    code, _, err = command("run", "--network", "bridge", "image", "work")
    assert code == 0
    assert "warning: --network" in err


def test_one_failure_does_not_keep_the_others_from_their_turn(command: Command) -> None:
    command("run", "-d", "--name", "one", "image")
    code, out, err = command("kill", "nobody", "one")
    assert (code, out) == (125, "one\n")
    assert "nobody" in err
    assert command.engine.get("one").status is not None


def test_rm(command: Command) -> None:
    command("run", "-d", "--name", "one", "image")
    code, _, err = command("rm", "one")
    assert code == 125
    assert "running" in err
    assert command("rm", "-fv", "one")[:2] == (0, "one\n")
    assert command("rm", "-f", "one")[0] == 0
    assert command("rm", "one")[0] == 125


def test_rm_force_does_not_pass_over_what_is_not_clear(command: Command) -> None:
    command("create", "image")
    command("create", "image")
    assert command("rm", "-f", "0000")[0] == 125
    assert len(command.engine.list()) == 2


def test_stop_with_its_own_signal(command: Command) -> None:
    command.outcomes["serve"] = Outcome(lasts=True, ignores=frozenset({2}))
    command("run", "-d", "--name", "one", "image")
    assert command("stop", "-s", "INT", "one")[0] == 0
    status = command.engine.get("one").status
    assert status is not None
    assert status.exit_code == 137
    assert command("stop", "one")[:2] == (0, "one\n")


def test_wait(command: Command) -> None:
    command.outcomes["work"] = Outcome(9)
    command("create", "--name", "one", "image", "work")
    assert command("wait", "one")[0] == 125
    command("start", "one")
    assert command("wait", "one")[:2] == (0, "9\n")


@pytest.fixture
def three(command: Command) -> Command:
    command.outcomes["work"] = Outcome(4)
    command("run", "-d", "--name", "web", "-l", "tier=front", "nginx")
    command("create", "--name", "new", "nginx")
    command("run", "--name", "job", "-l", "tier=back", "busybox", "work")
    return command


@pytest.mark.parametrize(
    "argv, names",
    [
        ((), ["web"]),
        (("-a",), ["job", "new", "web"]),
        (("-n", "2"), ["job", "new"]),
        (("-l",), ["job"]),
        (("-a", "-f", "name=e"), ["new", "web"]),
        (("-a", "-f", "label=tier"), ["job", "web"]),
        (("-a", "-f", "label=tier=back"), ["job"]),
        (("-f", "status=exited"), ["job"]),
        (("-f", "status=created"), ["new"]),
        (("-a", "-f", "ancestor=nginx"), ["new", "web"]),
        (("-a", "-f", "ancestor=nginx", "-f", "label=tier"), ["web"]),
    ],
)
def test_ps_chooses(three: Command, argv: tuple[str, ...], names: list[str]) -> None:
    code, out, _ = three("ps", "--json", *argv)
    document = json.loads(out)
    assert (code, document["version"]) == (0, 1)
    assert [row["Names"] for row in document["containers"]] == names


def test_ps_forms(three: Command) -> None:
    identity = three.engine.get("web").id
    assert three("ps", "-q")[1] == identity[:12] + "\n"
    assert three("ps", "-q", "--no-trunc")[1] == identity + "\n"
    table = three("ps", "-a")[1].splitlines()
    assert table[0].split("  ")[0] == "CONTAINER ID"
    assert [line.split()[-1] for line in table[1:]] == ["job", "new", "web"]
    assert "Exited (4)" in table[1]
    lines = three("ps", "-a", "--format", "json")[1].splitlines()
    assert [json.loads(line)["State"] for line in lines] == ["exited", "created", "running"]


def test_logs_are_bytes_on_their_own_streams(command: Command) -> None:
    command.outcomes["work"] = Outcome(0, b"one\n\xfftwo", b"bad\n")
    command("run", "--name", "job", "image", "work")
    assert command("logs", "job") == (0, "one\n\ufffdtwo", "bad\n")
    assert command("logs", "--tail", "1", "-t", "job") == (0, "", "2023-11-14T22:13:20.000000000Z bad\n")
    assert command("logs", "-n", "0", "job") == (0, "", "")


def test_inspect(three: Command) -> None:
    code, out, _ = three("inspect", "job", "web")
    job, web = json.loads(out)
    assert code == 0
    assert (job["Name"], job["Image"], job["ImageDigest"], job["Route"]) == ("job", "busybox", "sha256:d", "path")
    assert (job["State"]["Status"], job["State"]["ExitCode"], job["State"]["Running"]) == ("exited", 4, False)
    assert job["State"]["FinishedAt"] == "2023-11-14T22:13:20.000000000Z"
    assert (web["State"]["Running"], web["State"]["Pid"], web["State"]["FinishedAt"]) == (True, 4242, "0001-01-01T00:00:00Z")
    assert web["Config"]["Labels"] == {"vendor": "x", "tier": "front"}
    assert web["Config"]["Cmd"] == ["serve"]


def test_inspect_of_nobody_prints_the_others(three: Command) -> None:
    code, out, err = three("inspect", "nobody", "job")
    assert code == 125
    assert [one["Name"] for one in json.loads(out)] == ["job"]
    assert "nobody" in err


@pytest.mark.parametrize("verb", door.DOCKER_LIKE)
def test_help_leads_with_an_example(command: Command, verb: str) -> None:
    code, out, err = command(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Example: gha-apptainer %s " % verb)
    assert max(len(line) for line in out.splitlines()) <= 100
    assert command("help", verb)[1] == out


def test_the_variable_of_logins_has_one_name(tmp_path: Path) -> None:
    assert AUTHFILE == credentials.AUTHFILE_VARIABLE
    logins = tmp_path / "logins.json"
    logins.write_text('{"auths": {"registry.example": {"auth": "dTpw"}}}')
    context = Context({AUTHFILE: str(logins)}, host=HOST, settings=NodeSettings())
    login = context.login(parse("registry.example/a/b"))
    assert login is not None
    assert (login.username, login.password.reveal()) == ("u", "p")
    assert context.login(parse("other.example/a/b")) is None
    assert Context({}, host=HOST, settings=NodeSettings()).login(parse("registry.example/a/b")) is None


def test_interrupts_pipes_and_defects(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(error: BaseException) -> Callable[..., int]:
        def verb(*_: object) -> int:
            raise error

        return verb

    monkeypatch.setattr("gha_apptainer.node.main.showing.ps", failing(KeyboardInterrupt()))
    assert command("ps") == (130, "", "")
    monkeypatch.setattr("gha_apptainer.node.main.showing.ps", failing(ZeroDivisionError("by zero")))
    code, out, err = command("ps")
    assert (code, out) == (125, "")
    assert err.startswith("gha-apptainer: internal error: ZeroDivisionError: by zero\n  remedy: set GHA_APPTAINER_TRACE=1")
    monkeypatch.setattr("gha_apptainer.node.main.version.main", failing(OSError(28, "No space left on device", "/x")))
    code, _, err = command("version")
    assert code == 79
    assert "cannot write /x" in err
    monkeypatch.setenv("GHA_APPTAINER_TRACE", "1")
    assert "Traceback" in command("version")[2]


def test_ports_and_health_are_shown_and_filtered(command: Command) -> None:
    command.outcomes["/bin/sh"] = Outcome(0, b"fine")
    command("run", "-d", "--name", "web", "--network", "job", "-p", "8080:80", "--expose", "9", "--health-cmd", "check", "image")
    command("run", "-d", "--name", "plain", "image")
    shown = {row["Names"]: row for row in json.loads(command("ps", "--json")[1])["containers"]}
    assert shown["web"]["Ports"] == "127.0.0.1:8080->80/tcp, 9/tcp"
    assert shown["web"]["Status"] == "Up (healthy)"
    assert (shown["plain"]["Ports"], shown["plain"]["Status"]) == ("", "Up")
    assert "127.0.0.1:8080->80/tcp" in command("ps")[1]
    for wish, names in (("health=healthy", ["web"]), ("health=none", ["plain"]), ("network=job", ["web"]), ("network=host", ["plain"])):
        assert [json.loads(line)["Names"] for line in command("ps", "--format", "json", "--filter", wish)[1].splitlines()] == names
    (found,) = json.loads(command("inspect", "web")[1])
    assert found["NetworkSettings"]["Ports"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "9/tcp": None}
    assert found["HostConfig"]["NetworkMode"] == "job"
    assert found["State"]["Health"]["Log"][0]["Output"] == "fine"
