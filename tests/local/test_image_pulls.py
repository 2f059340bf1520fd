"""Pulls from a real registry: what arrives, what is kept, who may have it, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pulling import Puller
from registries import PASSWORD, USER, Answer, Made, Registry, tree

CONFIG = {
    "Entrypoint": ["/opt/run", "a b"],
    "Cmd": ["$HOME"],
    "Env": ["PATH=/bin", 'ODD=a "quoted" $value', "A-B=dash"],
    "User": "7:8",
    "WorkingDir": "/work",
    "Volumes": {"/data": {}},
    "ExposedPorts": {"80/tcp": {}},
    "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 2_000_000_000, "Retries": 4},
}


@pytest.fixture
def pushed(puller: Puller, local_registry: Registry) -> Made:
    puller.http = (local_registry.address,)
    made = local_registry.push("team/tool", "1", tree(), CONFIG)
    other = local_registry.push("team/tool", "", tree("other machine"), CONFIG, architecture="s390x")
    architecture = "amd64" if os.uname().machine == "x86_64" else "arm64"
    index = local_registry.push_index("team/tool", "1", [("s390x", other), (architecture, made)])
    return Made(made.manifest, made.config, made.layers, index)


def test_image_is_unpacked_once_with_its_configuration(puller: Puller, local_registry: Registry, pushed: Made) -> None:
    name = "%s/team/tool:1" % local_registry.address
    first = puller.run("answer(pull(%r))" % name)
    assert first["digest"] == {"text": pushed.manifest, "kind": "manifest"}
    assert (first["route"], first["form"]) == ("registry", "sandbox")
    config = first["config"]
    assert config["entrypoint"] == CONFIG["Entrypoint"]
    assert config["cmd"] == ["$HOME"]
    assert dict(config["env"])["ODD"] == 'a "quoted" $value'
    assert dict(config["env"])["A-B"] == "dash"
    assert (config["user"], config["workdir"], config["stop_signal"]) == ("7:8", "/work", "SIGINT")
    assert (config["volumes"], config["ports"]) == (["/data"], ["80/tcp"])
    durations = {"interval": 2.0, "timeout": 0.0, "start_period": 0.0, "start_interval": 0.0}
    assert config["healthcheck"] == {"test": ["CMD", "true"], "retries": 4, **durations}
    rootfs = Path(first["rootfs"])
    assert rootfs == puller.store / "images" / pushed.manifest[7:] / "rootfs"
    assert (rootfs / "etc/marker").read_text() == "first"
    asked = len(local_registry.requests)
    second = puller.run("answer(pull(%r))" % name)
    assert second["route"] == "store"
    assert (second["rootfs"], second["config"]) == (first["rootfs"], config)
    assert len(local_registry.requests) == asked
    assert puller.left() == []


def test_owners_and_modes_of_an_unpacked_image(puller: Puller, local_registry: Registry, pushed: Made) -> None:
    rootfs = Path(puller.run("answer(pull('%s/team/tool:1'))" % local_registry.address)["rootfs"])
    shadow, closed = (rootfs / "etc/shadow").lstat(), (rootfs / "closed").lstat()
    if puller.driver.uid == 0:
        assert (shadow.st_uid, shadow.st_gid, stat.S_IMODE(shadow.st_mode)) == (0, 42, 0o640)
        assert stat.S_IMODE(closed.st_mode) == 0o500
        assert (rootfs / "closed/file").lstat().st_uid == 5
    else:
        for top, folders, names in os.walk(rootfs):
            for one in [".", *folders, *names]:
                state = os.lstat(os.path.join(top, one))
                assert state.st_uid == puller.driver.uid, os.path.join(top, one)
                if stat.S_ISDIR(state.st_mode):
                    assert state.st_mode & 0o700 == 0o700, os.path.join(top, one)
                elif stat.S_ISREG(state.st_mode):
                    assert state.st_mode & 0o600 == 0o600, os.path.join(top, one)
    assert stat.S_IMODE((rootfs / "tmp").stat().st_mode) == 0o1777
    # setuid files of an image must not be in the reach of other users
    assert stat.S_IMODE((rootfs.parent).stat().st_mode) == 0o700


@pytest.mark.parametrize("spelled", ["manifest", "index", "tag and index"])
def test_pinned_reference_is_found_again_by_what_it_names(puller: Puller, local_registry: Registry, pushed: Made, spelled: str) -> None:
    base = "%s/team/tool" % local_registry.address
    ends = {"manifest": "@" + pushed.manifest, "index": "@" + pushed.index, "tag and index": ":1@" + pushed.index}
    name = base + ends[spelled]
    assert puller.run("answer(pull('%s:1'))" % base)["digest"]["text"] == pushed.manifest
    asked = len(local_registry.requests)
    again = puller.run("answer(pull(%r, 'never'))" % name)
    assert (again["route"], again["digest"]["text"]) == ("store", pushed.manifest)
    assert len(local_registry.requests) == asked


def test_policies(puller: Puller, local_registry: Registry, pushed: Made) -> None:
    name = "%s/team/tool:1" % local_registry.address
    refused = puller.run("answer(attempt(lambda: pull(%r, 'never')))" % name)
    assert refused["error"] == "ImageFailed"
    assert "never" in refused["text"]
    assert local_registry.requests == []
    assert puller.run("answer(pull(%r, 'always'))" % name)["route"] == "registry"
    asked = len(local_registry.requests)
    assert puller.run("answer(pull(%r, 'always'))" % name)["route"] == "store"
    assert 0 < len(local_registry.requests) - asked <= 2, "always costs a look at the manifest and no more"
    newer = local_registry.push("team/tool", "1", tree("second"))
    old, new = pushed.manifest, newer.manifest
    for policy, digest in (("if-not-present", old), ("never", old), ("always", new), ("never", new)):
        assert puller.run("answer(pull(%r, %r))" % (name, policy))["digest"]["text"] == digest, policy
    local_registry.answer = lambda _path, _headers: (503, {"retry-after": "0"}, b"")
    assert puller.run("answer(pull(%r, 'if-not-present'))" % name)["digest"]["text"] == newer.manifest
    down = puller.run("answer(attempt(lambda: pull(%r, 'always')))" % name)
    assert (down["error"], "503" in down["text"]) == ("ImageFailed", True)


def test_image_for_another_machine_is_refused_by_name(puller: Puller, local_registry: Registry) -> None:
    puller.http = (local_registry.address,)
    made = local_registry.push("team/odd", "1", tree(), architecture="s390x")
    single = puller.run("answer(attempt(lambda: pull('%s/team/odd:1')))" % local_registry.address)
    assert "linux/s390x" in single["text"]
    local_registry.push_index("team/odd", "2", [("s390x", made)])
    index = puller.run("answer(attempt(lambda: pull('%s/team/odd:2')))" % local_registry.address)
    assert "built for: linux/s390x" in index["text"]


@pytest.mark.parametrize(
    ("status", "headers", "tries"),
    [(404, {}, 1), (400, {}, 1), (503, {"retry-after": "0"}, 3), (429, {"retry-after": "0"}, 3), (429, {"retry-after": "86400"}, 1)],
)
def test_what_may_pass_is_tried_three_times_and_the_rest_once(
    puller: Puller, local_registry: Registry, status: int, headers: Mapping[str, str], tries: int
) -> None:
    puller.http = (local_registry.address,)
    local_registry.answer = lambda _path, _sent: (status, headers, b'{"errors":[{"message":"told so"}]}')
    got = puller.run("answer(attempt(lambda: pull('%s/team/tool:1')))" % local_registry.address)
    assert got["error"] == "ImageFailed"
    assert local_registry.address in got["text"]
    assert str(status) in got["text"]
    assert "told so" in got["text"]
    assert len(local_registry.requests) == tries


def test_trouble_that_passes_is_told_and_survived(puller: Puller, local_registry: Registry, pushed: Made) -> None:
    left = [503, 429]
    local_registry.answer = lambda _path, _headers: (left.pop(), {"retry-after": "0"}, b"") if left else None
    got = puller.run("found = pull('%s/team/tool:1')\nanswer([found, said])" % local_registry.address)
    assert got[0]["digest"]["text"] == pushed.manifest
    assert sum("trying again" in line for line in got[1]) == 2


def test_trouble_with_a_layer_that_passes_is_survived(puller: Puller, local_registry: Registry, pushed: Made) -> None:
    left = [500, 502, 503]

    def answer(path: str, _headers: Mapping[str, str]) -> Answer | None:
        return (left.pop(), {}, b"") if pushed.layers[0] in path and left else None

    local_registry.answer = answer
    assert puller.run("answer(pull('%s/team/tool:1'))" % local_registry.address)["digest"]["text"] == pushed.manifest
    assert left == []


def test_layer_that_is_gone_is_an_error_at_once(puller: Puller, local_registry: Registry, pushed: Made) -> None:
    gone = b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}'
    local_registry.answer = lambda path, _headers: (404, {"content-type": "application/json"}, gone) if pushed.layers[0] in path else None
    got = puller.run("answer(attempt(lambda: pull('%s/team/tool:1')))" % local_registry.address)
    assert got["error"] == "ImageFailed"
    assert local_registry.address in got["text"]
    assert local_registry.count(pushed.layers[0]) == 1
    assert puller.left() == []


def test_umask_of_the_caller_does_not_reach_into_images(puller: Puller, local_registry: Registry, pushed: Made) -> None:
    found = puller.run("os.umask(0o077)\nanswer(pull('%s/team/tool:1'))" % local_registry.address)
    rootfs = Path(found["rootfs"])
    assert stat.S_IMODE((rootfs / "bin").stat().st_mode) == 0o755
    assert stat.S_IMODE((rootfs / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((rootfs / "etc/marker").stat().st_mode) == 0o644
    assert stat.S_IMODE((rootfs / "etc").stat().st_mode) == 0o755
    assert stat.S_IMODE(rootfs.stat().st_mode) == 0o755


def test_unreachable_registry_is_named_with_its_reason(puller: Puller) -> None:
    puller.http = ("127.0.0.1:1",)
    got = puller.run(
        "from gha_apptainer.node import http\nhttp.Retry.pause = lambda self, attempt: 0.0\n"
        "answer([attempt(lambda: pull('127.0.0.1:1/a/b:2')), attempt(lambda: pull('nowhere.invalid/a/b:2'))])"
    )
    assert "127.0.0.1:1" in got[0]["text"]
    assert "refused" in got[0]["text"]
    assert "nowhere.invalid" in got[1]["text"]
    assert "name is not known" in got[1]["text"]


def test_plain_http_only_where_the_site_says_so(puller: Puller, local_registry: Registry, pushed: Made) -> None:
    puller.http = ()
    got = puller.run("answer(attempt(lambda: pull('%s/team/tool:1')))" % local_registry.address)
    assert "registries_http" in got["text"]
    assert local_registry.requests == []


def test_login_reaches_the_registry_and_nobody_else(puller: Puller, make_registry: Callable[..., Registry]) -> None:
    registry = make_registry(login=True)
    puller.http = (registry.address,)
    made = registry.push("team/private", "1", tree())
    name = "%s/team/private:1" % registry.address
    seen: list[bytes] = []
    modes: list[int] = []

    def watch(path: str, headers: Mapping[str, str]) -> None:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if int(pid) != os.getpid():
                    seen.append(Path("/proc", pid, "cmdline").read_bytes())
            except OSError:
                continue
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in puller.store.glob("work/*/auth.json"))
        modes.extend(stat.S_IMODE(path.parent.stat().st_mode) for path in puller.store.glob("work/*/auth.json"))

    registry.answer = watch
    refused = puller.run("answer(attempt(lambda: pull(%r)))" % name)
    assert "401" in refused["text"]
    wrong = puller.run("answer(attempt(lambda: pull(%r, login=('carol', 'wr0ng'))))" % name)
    assert "401" in wrong["text"]
    assert "wr0ng" not in json.dumps(wrong)
    script = "found = attempt(lambda: pull(%r, login=(%r, sys.stdin.readline().strip())))\nanswer([found, said])" % (name, USER)
    child = puller.start(script, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(PASSWORD.encode() + b"\n")
    child.stdin.flush()
    got = puller.finish(child)
    assert got[0]["digest"]["text"] == made.manifest, got
    assert PASSWORD not in json.dumps(got)
    assert seen
    assert not [line for line in seen if PASSWORD.encode() in line]
    assert set(modes) == {0o600, 0o700}
    assert list(puller.state.rglob("auth.json")) == []
