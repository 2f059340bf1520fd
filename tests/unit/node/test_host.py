"""Facts of the machine: where they are kept, what makes them stale, and that no check can spoil another."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from gha_apptainer.domain.apptainer_trials import too_old
from gha_apptainer.domain.errors import InputError, Untrusted
from gha_apptainer.domain.findings import FAIL, OK, Finding
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import host
from gha_apptainer.node.host import finding, probing, trying
from gha_apptainer.node.host.checks.answering import Patient, Said, ok
from gha_apptainer.node.host.checks.catalogue import CATALOGUE, Check, examine
from gha_apptainer.node.host.overlay import file_system


def write(path: Path, text: str, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_state_directory_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        found = host.state_dir({"GHA_APPTAINER_STATE": str(tmp_path / "state")})
    finally:
        os.umask(before)
    assert os.stat(found).st_mode & 0o777 == 0o700


def test_a_state_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(Untrusted):
        host.state_dir({"GHA_APPTAINER_STATE": str(tmp_path / "open")})


def test_a_link_is_no_state_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(Untrusted):
        host.state_dir({"GHA_APPTAINER_STATE": str(tmp_path / "link")})


def test_a_relative_state_directory_is_refused() -> None:
    with pytest.raises(InputError):
        host.state_dir({"GHA_APPTAINER_STATE": "here"})


def test_settings_that_are_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        host.load_settings({"GHA_APPTAINER_SETTINGS": str(tmp_path / "none.json")})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stor": "x"}', '{"version": 2}', '{"store": 1}', '{"routes": "alias"}'])
def test_wrong_settings_are_never_ignored(tmp_path: Path, text: str) -> None:
    with pytest.raises(Untrusted):
        host.load_settings({"GHA_APPTAINER_SETTINGS": write(tmp_path / "node.json", text)})


def test_an_unknown_route_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="teleport"):
        host.load_settings({"GHA_APPTAINER_SETTINGS": write(tmp_path / "node.json", '{"routes": ["store", "teleport"]}')})


def test_settings_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "node.json", '{"version": 1, "store": "/scratch/images", "routes": ["store"]}')
    assert host.load_settings({"GHA_APPTAINER_SETTINGS": path}) == NodeSettings(store="/scratch/images", routes=("store",))


def test_the_order_of_places_to_look_for_apptainer(tmp_path: Path) -> None:
    on_path = write(tmp_path / "bin/apptainer", "")
    environ = {"GHA_APPTAINER": "/opt/named", "PATH": "relative:/nowhere:" + str(tmp_path / "bin"), "HOME": "/h"}
    found = list(finding.candidates(NodeSettings(apptainer="/opt/site"), environ))
    assert [origin for origin, _ in found] == ["GHA_APPTAINER", "the site's settings", "PATH", "CVMFS", "the private install"]
    assert [path for _, path in found][:4] == ["/opt/named", "/opt/site", on_path, finding.CVMFS_APPTAINER]


def test_a_directory_or_a_plain_file_on_path_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "one/surely-not-installed").mkdir(parents=True)
    write(tmp_path / "two/surely-not-installed", "", 0o644)
    wanted = write(tmp_path / "three/surely-not-installed", "")
    path = ":".join(str(tmp_path / name) for name in ("one", "two", "three"))
    assert finding.on_the_path("surely-not-installed", {"PATH": path}) == wanted


def test_a_program_beside_apptainer_comes_before_one_on_path(tmp_path: Path) -> None:
    apptainer = write(tmp_path / "a/bin/apptainer", "")
    beside = write(tmp_path / "a/bin/surely-not-installed", "")
    other = write(tmp_path / "b/surely-not-installed", "")
    assert finding.helper(("surely-not-installed",), apptainer, {"PATH": os.path.dirname(other)}) == beside
    os.unlink(beside)
    assert finding.helper(("surely-not-installed",), apptainer, {"PATH": os.path.dirname(other)}) == other
    os.unlink(other)
    inner = write(tmp_path / "a/libexec/apptainer/bin/surely-not-installed", "")
    assert finding.helper(("surely-not-installed",), apptainer, {}) == inner


@pytest.mark.parametrize(
    "said, version",
    [
        ("apptainer version 1.4.5-2\n", "1.4.5-2"),
        ("apptainer version 1.3.0\n", "1.3.0"),
        ("apptainer version 2.0.0-rc.1+3-gabc\n", "2.0.0-rc.1+3-gabc"),
    ],
)
def test_new_enough(said: str, version: str) -> None:
    assert too_old("x", said) == (version, "")


@pytest.mark.parametrize("said", ["apptainer version 1.2.5", "singularity-ce version 4.1.0", "singularity version 3.8.7", "", "1.4"])
def test_too_old_or_something_else(said: str) -> None:
    assert too_old("/opt/x", said)[1].startswith("/opt/x is ")


KEPT: Dict[str, Any] = {
    "userns_reason": "",
    "proc_reason": "",
    "apptainer": "",
    "apptainer_version": "1.4.5",
    "apptainer_reason": "",
    "apptainer_setuid": False,
    "apptainer_identity": "",
}


DEFAULTS = NodeSettings()


class Machine:
    """A machine whose dear tries are counted instead of made."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tries = 0
        self.reason = ""
        self.environ = {
            "GHA_APPTAINER_STATE": str(folder / "state"),
            "GHA_APPTAINER": write(folder / "apptainer", "one"),
            "PATH": "/nowhere",
        }
        self.kept = folder / "state" / "host.kept"
        monkeypatch.setattr(probing, "_try", self._try)

    def _try(self, *_: object) -> Dict[str, Any]:
        self.tries += 1
        path = self.environ["GHA_APPTAINER"]
        identity = probing._identity(path)
        return {**KEPT, "apptainer": path, "apptainer_identity": identity, "apptainer_reason": self.reason}

    def probe(self, settings: NodeSettings = DEFAULTS, **more: Any) -> Any:
        return host.probe(settings, {**self.environ, **more})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_dear_tries_are_made_once(machine: Machine) -> None:
    assert machine.probe() == machine.probe()
    assert machine.tries == 1
    assert machine.kept.stat().st_mode & 0o777 == 0o600


def test_a_failure_is_not_kept(machine: Machine) -> None:
    machine.reason = "it does not start"
    assert machine.probe().apptainer_reason == "it does not start"
    machine.reason = ""
    assert machine.probe().apptainer_reason == ""


def test_another_apptainer_at_the_same_place_is_tried(machine: Machine) -> None:
    machine.probe()
    write(Path(machine.environ["GHA_APPTAINER"]), "another")
    machine.probe()
    assert machine.tries == 2


def test_another_path_alone_changes_nothing(machine: Machine) -> None:
    machine.probe()
    machine.probe(PATH="/elsewhere:/nowhere")
    assert machine.tries == 1


def test_an_apptainer_on_another_path_is_seen(machine: Machine, tmp_path: Path) -> None:
    machine.probe()
    machine.probe(PATH=os.path.dirname(write(tmp_path / "bin" / "apptainer", "two")))
    assert machine.tries == 2


@pytest.mark.parametrize("more", [{"HOME": "/another"}, {"GHA_APPTAINER": "/bin/sh"}, {"XDG_CACHE_HOME": "/x"}])
def test_another_environment_is_another_machine(machine: Machine, more: Dict[str, Any]) -> None:
    machine.probe()
    machine.probe(**more)
    assert machine.tries == 2


def test_another_setting_is_another_machine(machine: Machine) -> None:
    machine.probe()
    machine.probe(NodeSettings(apptainer="/opt/other"))
    assert machine.tries == 2


def damaged(text: str) -> List[bytes]:
    form, until, count, *rest = text.split("\0")
    key, facts = rest[: int(count)], rest[int(count) : -1]
    named = dict(fact.split("=", 1) for fact in facts)
    assert set(named) == set(KEPT) and rest[-1] == "whole"

    def made(form: str = form, until: str = until, count: str = count, key: List[str] = key, facts: List[str] = facts) -> bytes:
        return "\0".join([form, until, count, *key, *facts, "whole"]).encode()

    assert made().decode() == text

    def with_fact(name: str, value: str) -> List[str]:
        return ["%s=%s" % row for row in {**named, name: value}.items()]

    found = [made(form="gha-apptainer host 2"), made(until="x"), made(until="1"), made(until="-1"), made(count="x"), made(count="0")]
    found += [made(key=[]), made(key=[*key[1:], key[0]]), made(facts=[]), made(facts=[*facts, facts[0]]), made(facts=[*facts, "more="])]
    found += [made(facts=[one for one in facts if one != left]) for left in facts]
    found += [made(facts=with_fact(*row)) for row in (("apptainer", "/bin/sh"), ("apptainer", ""), ("apptainer_setuid", "7"))]
    found += [made(facts=with_fact("apptainer_reason", "broken"))]
    return [*found, b"", b"\0", b"\xff\xfe", text.encode()[:-9], text.encode()[:-6], b"[" * 100000]


def test_what_is_forged_or_half_written_is_ignored_and_written_over(machine: Machine) -> None:
    facts = machine.probe()
    good = machine.kept.read_text()
    for bad in damaged(good):
        machine.kept.write_bytes(bad)
        machine.tries = 0
        assert machine.probe() == facts
        assert machine.tries == 1, bad[:200]
        assert machine.kept.read_text() == good


def test_a_directory_in_place_of_the_kept_facts_is_an_error_not_a_guess(machine: Machine) -> None:
    machine.probe()
    machine.kept.unlink()
    machine.kept.mkdir()
    with pytest.raises(OSError):
        machine.probe()


def test_file_systems_with_one_number_are_told_apart(tmp_path: Path) -> None:
    device = os.stat(tmp_path).st_dev
    row = "36 35 %d:%d / /x rw - %%s dev rw,size=%%s" % (os.major(device), os.minor(device))
    told = {file_system(str(tmp_path), row % (kind, size)) for kind, size in (("tmpfs", 1), ("tmpfs", 2), ("nfs", 1))}
    assert len(told) == 3
    assert file_system(str(tmp_path), "").endswith("unknown")


@pytest.mark.parametrize("names", [[], ["null", "nvidia-caps", "nvidia-uvm", "nvidiax"]])
def test_no_nvidia_device(names: List[str]) -> None:
    assert probing.nvidia_reason(lambda _: names).startswith("no NVIDIA device")


def test_a_device_without_its_library_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_library", lambda _: False)
    assert "libcuda" in probing.nvidia_reason(lambda _: ["nvidia0"])
    monkeypatch.setattr(probing, "_library", lambda _: True)
    assert probing.nvidia_reason(lambda _: ["nvidiactl"]) == ""


def crash() -> str:
    raise RuntimeError("broken")


def hang() -> str:
    time.sleep(100)
    return ""


def die() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def refuse() -> str:
    raise trying.CannotTry("not like this")


def test_each_answer_is_its_own() -> None:
    found = trying.answers((lambda: "first", crash, hang, die, refuse, lambda: "", lambda: "x" * 50000), 0.5)
    assert [(one.text[:9], one.reason) for one in found] == [
        ("first", ""),
        ("", "RuntimeError: broken"),
        ("", "it did not end within 0.5 s"),
        ("", "it was killed"),
        ("", "not like this"),
        ("", ""),
        ("x" * 9, ""),
    ]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_child_that_leaves_a_process_behind_leaves_none() -> None:
    def leave() -> str:
        child = os.fork()
        if child == 0:
            time.sleep(100)
        return str(child)

    left = int(trying.answers((leave,), 5.0)[0].text)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with open("/proc/%d/stat" % left) as handle:
                if ") Z" in handle.read():
                    return
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError("process %d still runs" % left)


def test_ids_are_unique_and_every_check_says_what_it_does() -> None:
    ids = [one.id for one in CATALOGUE]
    assert len(set(ids)) == len(ids)
    assert [one.id for one in CATALOGUE if not one.does or not one.matters] == []


def test_a_check_that_breaks_fails_alone(machine: Machine) -> None:
    def well(_: Patient) -> Said:
        return ok("fine")

    def broken(_: Patient) -> Said:
        raise KeyError("gone")

    def slow(_: Patient) -> Said:
        time.sleep(100)
        return ok("late")

    def odd(_: Patient) -> Said:
        return ("splendid", "x", "")

    checks = [Check(name, run, "") for name, run in (("a", well), ("b", broken), ("c", slow), ("d", odd), ("e", well))]
    patient = Patient(machine.probe(), NodeSettings(), {}, "/nowhere")
    found = examine(patient, checks, 0.5)
    assert [one.id for one in found] == ["a", "b", "c", "d", "e"]
    assert [one.status for one in found] == [OK, FAIL, FAIL, FAIL, OK]
    assert found[0] == Finding("a", OK, "fine", "")
    assert "KeyError" in found[1].finding
    assert "did not end" in found[2].finding
