"""Machines as they are: odd umasks, no HOME, long paths, full disks, masked /proc, no FUSE, no user namespaces, containers around us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
LIMIT = 120.0

_PRELUDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def mount(source, target, kind, flags=0, data=None):
    encoded = [one.encode() if one else None for one in (source, target, kind)]
    check(libc.mount(*encoded, ctypes.c_ulong(flags), data.encode() if data else None))
def namespace():
    "Mounts of our own, as ourselves; an ordinary user needs a user namespace for that."
    uid, gid = os.getuid(), os.getgid()
    check(libc.unshare(0x20000 | (0x10000000 if uid or ALWAYS else 0)))
    if uid or ALWAYS:
        for name, text in (("setgroups", "deny"), ("uid_map", "%d %d 1" % (uid, uid)), ("gid_map", "%d %d 1" % (gid, gid))):
            with open("/proc/self/" + name, "w") as handle:
                handle.write(text)
    mount(None, "/", None, 0x4000 | (1 << 18))
ALWAYS = False
BIND = 4096
"""

Ours = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def ours(state: str) -> Ours:
    """Our command in a process for which `before` (Python) has set the conditions."""
    apptainer = os.environ.get("GHA_APPTAINER") or _installed()

    def run(
        *words: str, before: str = "", env: Mapping[str, str] | None = None, without: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        chosen = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": os.environ.get("HOME", "/"), "GHA_APPTAINER": apptainer}
        chosen |= {"GHA_APPTAINER_STATE": state, **(env or {})}
        for name in without:
            del chosen[name]
        script = _PRELUDE + before + "\nos.execv(sys.executable, [sys.executable, '-I', '-S', *sys.argv[1:]])"
        argv = [sys.executable, "-I", "-S", "-c", script, str(SRC), *words]
        return subprocess.run(
            argv, env=chosen, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    return run


def _installed() -> str:
    from gha_apptainer.node.main.provision import provide

    return provide(os.environ, lambda _: None)


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Exit code and output, with what was said on stderr where that helps a reader."""
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("umask", ["0o000", "0o077", "0o777"])
def test_the_umask_of_the_caller_does_not_reach_containers_nor_our_files(ours: Ours, busybox_rootfs: str, state: str, umask: str) -> None:
    done = ours(
        "run", "--rm", "-q", busybox_rootfs, "/bin/sh", "-c", "umask; touch /made; stat -c %a /made /tmp", before="os.umask(%s)" % umask
    )
    assert outcome(done) == (0, "0022\n644\n1777\n")
    for top, folders, names in os.walk(state):
        for name in folders + names:
            assert not os.lstat(os.path.join(top, name)).st_mode & 0o022 or os.path.islink(os.path.join(top, name)), os.path.join(top, name)


@pytest.mark.parametrize("home", ["", "/nowhere/at/all", "/proc"])
def test_a_home_that_is_missing_or_cannot_be_written(ours: Ours, busybox_rootfs: str, home: str) -> None:
    given = {"env": {"HOME": home}} if home else {"without": ("HOME",)}
    done = ours("run", "--rm", "-q", busybox_rootfs, "/bin/sh", "-c", "echo $HOME; cd; touch here", **given)
    assert outcome(done) == (0, "/root\n")


@pytest.mark.parametrize("temporary", ["", "/nowhere/at/all"])
def test_tmpdir_unset_or_missing(ours: Ours, busybox_rootfs: str, temporary: str) -> None:
    done = ours("run", "--rm", "-q", busybox_rootfs, "/bin/echo", "works", env={"TMPDIR": temporary} if temporary else {})
    assert outcome(done) == (0, "works\n")


def test_a_state_directory_with_a_long_path(ours: Ours, busybox_rootfs: str, state: str) -> None:
    """A unix socket's path holds 107 bytes, one mount's options 4095."""
    deep = os.path.join(state, *["directory-with-a-long-name-%04d" % number for number in range(20)])
    os.makedirs(deep)
    env = {"GHA_APPTAINER_STATE": os.path.join(deep, "state")}
    assert outcome(ours("run", "-d", "-q", "--name", "far", busybox_rootfs, "/bin/sleep", "60", env=env))[0] == 0
    assert outcome(ours("exec", "far", "/bin/echo", "reached", env=env)) == (0, "reached\n")
    assert outcome(ours("rm", "-f", "far", env=env))[0] == 0


def test_bind_mounts_with_long_and_odd_names(ours: Ours, busybox_rootfs: str, tmp_path: Path) -> None:
    odd = tmp_path.joinpath(*["a, b=c:d \"e' %s" % ("x" * 180) for _ in range(4)])
    odd.mkdir(parents=True)
    (odd / "file").write_text("found")
    mount = 'type=bind,"source=%s",target=/in' % str(odd).replace('"', '""')
    assert outcome(ours("run", "--rm", "-q", "--mount", mount, busybox_rootfs, "/bin/cat", "/in/file")) == (0, "found")


def test_a_full_layer_fails_the_step_and_not_the_machine(ours: Ours, busybox_rootfs: str, state: str, tmp_path: Path) -> None:
    (tmp_path / "layers").mkdir()
    settings = tmp_path / "node.json"
    settings.write_text(json.dumps({"layers": str(tmp_path / "layers")}))
    before = "namespace(); mount('tmpfs', %r, 'tmpfs', 0, 'size=8m')" % str(tmp_path / "layers")
    words = (
        "run",
        "--rm",
        "-q",
        busybox_rootfs,
        "/bin/sh",
        "-c",
        "dd if=/dev/zero of=/big bs=1M count=64 2>&1; echo code $?; rm /big; echo after > /small",
    )
    done = ours(*words, before=before, env={"GHA_APPTAINER_SETTINGS": str(settings)})
    assert done.returncode == 0, done.stderr
    assert "No space left on device" in done.stdout
    assert "code 1" in done.stdout
    assert os.listdir(os.path.join(state, "containers")) == []


def test_a_full_state_directory_is_an_error_that_names_it(ours: Ours, busybox_rootfs: str, state: str) -> None:
    place = os.path.join(state, "small")
    os.mkdir(place, 0o700)
    before = "namespace(); mount('tmpfs', %r, 'tmpfs', 0, 'size=64k,mode=700')\n" % place
    before += "with open(%r, 'wb', 0) as full:\n    try:\n        while True: full.write(b'x' * 4096)\n    except OSError: pass" % (
        place + "/full"
    )
    done = ours("run", "--rm", "-q", busybox_rootfs, "/bin/true", before=before, env={"GHA_APPTAINER_STATE": place})
    assert done.returncode == 125
    assert place in done.stderr
    assert "full" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_fuse_a_sandbox_still_runs_writable(ours: Ours, busybox_rootfs: str) -> None:
    before = "namespace(); mount('/dev/null', '/dev/fuse', None, BIND)"
    words = ("run", "--rm", "-q", busybox_rootfs, "/bin/sh", "-c", "rm -rf /srv && mkdir /srv && echo works")
    assert outcome(ours(*words, before=before)) == (0, "works\n")
    report = json.loads(ours("doctor", "--json", before=before).stdout)
    assert {one["id"]: one["status"] for one in report["findings"]}["fuse"] == "warn"


MASKED = "ALWAYS = True; namespace(); mount('tmpfs', '/proc/scsi' if os.path.isdir('/proc/scsi') else '/proc/fs', 'tmpfs', 1)"


def test_a_pod_that_masks_proc(ours: Ours, busybox_rootfs: str) -> None:
    """Kubernetes and Docker cover parts of /proc; the kernel then refuses a new one to user namespaces."""
    report = json.loads(ours("doctor", "--json", before=MASKED).stdout)
    assert {one["id"]: one["status"] for one in report["findings"]}["fresh-proc"] == "warn"
    done = ours("run", "--rm", "-q", busybox_rootfs, "/bin/sh", "-c", "test -r /proc/self/status && echo works", before=MASKED)
    assert outcome(done) == (0, "works\n")


OFF = """
ALWAYS = True
namespace()
with open("/proc/sys/user/max_user_namespaces", "w") as handle:
    handle.write("0")
"""


def test_without_user_namespaces_one_sentence_names_the_setting(ours: Ours, busybox_rootfs: str) -> None:
    done = ours("run", "--rm", "-q", busybox_rootfs, "/bin/true", before=OFF)
    assert done.returncode == 125
    assert "user.max_user_namespaces" in done.stderr
    done = ours("doctor", before=OFF)
    assert done.returncode == 1
    assert "FAIL  user-namespace" in done.stdout
    assert "What to send to the administrators" in done.stdout
    assert "user.max_user_namespaces = 0" in done.stdout


def test_doctor_on_this_machine(ours: Ours, state: str) -> None:
    done = ours("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert report["status"] in ("ok", "warn")
    assert report["seconds"] < 5
    assert report["for_administrators"] == []
    found = {one["id"]: one for one in report["findings"]}
    for name in ("user-namespace", "nested-user-namespace", "join", "apptainer", "state", "python"):
        assert found[name]["status"] == "ok", found[name]
    assert sorted(os.listdir(state)) == ["host.kept", "overlay.kept"]


def test_doctor_where_the_state_directory_is_not_ours(ours: Ours, state: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(state)
    done = ours("doctor", env={"GHA_APPTAINER_STATE": str(tmp_path / "link")})
    assert done.returncode == 1
    assert "FAIL  state" in done.stdout
    assert "ok    user-namespace" in done.stdout


def test_doctor_with_wrong_settings_says_so_and_goes_on(ours: Ours, tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text('{"sotre": "/x"}')
    done = ours("doctor", env={"GHA_APPTAINER_SETTINGS": str(tmp_path / "node.json")})
    assert done.returncode == 1
    assert "FAIL  settings" in done.stdout
    assert "'sotre'" in done.stdout
    assert "ok    user-namespace" in done.stdout


def test_doctor_without_any_apptainer_says_where_it_looked(ours: Ours, tmp_path: Path) -> None:
    env = {"PATH": "/nowhere", "XDG_CACHE_HOME": str(tmp_path), "GHA_APPTAINER": str(tmp_path / "none")}
    done = ours("doctor", env=env)
    assert done.returncode == 1
    assert "from GHA_APPTAINER: %s is no program" % (tmp_path / "none") in done.stdout


def test_output_that_cannot_be_written_is_no_success(ours: Ours) -> None:
    before = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
    for verb in (("doctor",), ("ps",), ("--help",)):
        done = ours(*verb, before=before)
        assert done.returncode not in (0, 1), verb
        assert "cannot write standard output" in done.stderr
        assert "Traceback" not in done.stderr


FULL = """
namespace(); mount('tmpfs', %(place)r, 'tmpfs', 0, 'size=64k,mode=700')
with open(%(place)r + '/full', 'wb', 0) as full:
    try:
        while True: full.write(b'x' * 4096)
    except OSError: pass
"""
NOEXEC = "namespace(); mount('tmpfs', %(place)r, 'tmpfs', 8, 'size=64m,mode=700')"


@pytest.mark.case("hooks-23")
@pytest.mark.parametrize(
    "before, env, words",
    [
        (OFF, {}, "user.max_user_namespaces"),
        ("", {"PATH": "/nowhere", "XDG_CACHE_HOME": "/nowhere", "GHA_APPTAINER": "/nowhere/apptainer"}, "/nowhere/apptainer"),
        (FULL, {"GHA_APPTAINER_STATE": "%(place)s"}, "full"),
    ],
    ids=["namespaces", "apptainer", "disk"],
)
def test_a_job_on_a_machine_that_lacks_something(
    ours: Ours, busybox_rootfs: str, state: str, tmp_path: Path, before: str, env: dict[str, str], words: str
) -> None:
    """prepare_job names what is missing, and answers nothing."""
    place = {"place": os.path.join(state, "place")}
    os.mkdir(place["place"], 0o700)
    response = tmp_path / "response.json"
    response.touch()
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"version": 1, "host_paths": [busybox_rootfs + ":ro"]}))
    wanted = {"command": "prepare_job", "responseFile": str(response), "args": {"container": {"image": busybox_rootfs}}, "state": None}
    (tmp_path / "request.json").write_text(json.dumps(wanted))
    told = (before % place if "%(place)r" in before else before) + "\nos.dup2(os.open(%r, os.O_RDONLY), 0)" % str(tmp_path / "request.json")
    env = {name: value % place for name, value in env.items()}
    done = ours("hook", "--owner", str(os.getpid()), "--policy", str(policy), before=told, env={**env, "GITHUB_ACTIONS": "true"})
    assert done.returncode == 125, done
    assert "::error" in done.stdout and words in done.stdout, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert response.read_text() == ""


@pytest.mark.case("hooks-23")
def test_a_state_directory_from_which_nothing_may_be_executed_is_no_obstacle(ours: Ours, busybox_rootfs: str, state: str) -> None:
    place = os.path.join(state, "place")
    os.mkdir(place, 0o700)
    words = ("run", "--rm", "-q", busybox_rootfs, "/bin/sh", "-c", "cp /bin/busybox /usr/busybox && /usr/busybox echo works")
    done = ours(*words, before=NOEXEC % {"place": place}, env={"GHA_APPTAINER_STATE": place})
    assert outcome(done) == (0, "works\n")
