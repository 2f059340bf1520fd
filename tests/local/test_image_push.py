"""Push to a real registry and pull back, kill in the middle and go on, logins; wait for an image on a tree laid out as CVMFS."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from building import Builder
from registries import PASSWORD, USER, Answer, Registry, digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def built(builder: Builder) -> Builder:
    """A small image named `made`."""
    builder.write(
        "FROM busybox\nCOPY weight /weight\nRUN ln /weight /again && mkfifo /pipe && chmod 4755 /bin/busybox "
        "&& touch '/a name with umlaut ü'\n"
        "ENV A='b c'\nLABEL l=1\nUSER 12\nWORKDIR /w\nVOLUME /v\nEXPOSE 80\nHEALTHCHECK --interval=9s CMD [\"true\"]\nSTOPSIGNAL 3\n"
        'ONBUILD RUN true\nSHELL ["/bin/sh","-c"]\nENTRYPOINT ["cat"]\nCMD ["/etc/hostname"]\n',
        weight=os.urandom(1 << 20),
    )  # fmt: skip
    builder.build()
    return builder


def plain_http(builder: Builder, *registries: Registry) -> None:
    builder.settings["registries_http"] = [one.address for one in registries]


def push(builder: Builder, *words: str) -> dict[str, Any]:
    done = builder.call("image", "push", "--json", *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "talk": done.stderr}


def test_what_was_pushed_is_pulled_back_and_runs(built: Builder, local_registry: Registry) -> None:
    plain_http(built, local_registry)
    target = "docker://%s/team/made:1" % local_registry.address
    pushed = push(built, "made", target)
    raw = local_registry.ask("GET", "/v2/team/made/manifests/1", headers={"Accept": MANIFEST})[2]
    assert digest(raw) == pushed["digest"]
    layer = json.loads(raw)["layers"][0]
    assert pushed["sent"] > layer["size"] > 1 << 20
    assert pushed["config_digest"] == json.loads(raw)["config"]["digest"]

    again = push(built, "made", target)
    assert (again["digest"], again["sent"]) == (pushed["digest"], 0)
    assert "is there already" in again["talk"]
    before = json.loads(built.call("image", "pull", "--json", "--pull", "never", "made").stdout)["images"][0]["config"]
    pulled = built.call("image", "pull", "--json", target)
    assert pulled.returncode == 0, pulled.stderr
    back = json.loads(pulled.stdout)["images"][0]
    assert back["digest"] == pushed["digest"]
    assert back["config"] == before
    said = built.sh(
        "stat -c '%i' /weight /again; test -p /pipe && stat -c %a /bin/busybox; echo /a?name*; id -u; pwd", tag=target
    ).splitlines()
    assert said[0] == said[1]
    assert said[2:] == ["4755", "/a name with umlaut ü", "12", "/w"]
    assert built.left() == []


def test_a_sif_goes_to_oras_and_comes_back(builder: Builder, local_registry: Registry, tmp_path: Path) -> None:
    plain_http(builder, local_registry)
    sif = builder.driver.folder / "image.sif"
    made = subprocess.run(
        [builder.driver.apptainer, "-s", "build", str(sif), builder.settings["aliases"]["busybox"]],
        capture_output=True, timeout=120, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "APPTAINER_CACHEDIR": str(tmp_path)},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    sif.chmod(0o644)
    target = "oras://%s/team/sif:1" % local_registry.address
    pushed = push(builder, str(sif), target)
    raw = json.loads(local_registry.ask("GET", "/v2/team/sif/manifests/1", headers={"Accept": MANIFEST})[2])
    assert raw["config"]["mediaType"] == "application/vnd.sylabs.sif.config.v1+json"
    assert [one["mediaType"] for one in raw["layers"]] == ["application/vnd.sylabs.sif.layer.v1.sif"]
    pulled = builder.call("image", "pull", "--json", target)
    assert pulled.returncode == 0, pulled.stderr
    assert json.loads(pulled.stdout)["images"][0]["digest"] == pushed["digest"]
    assert builder.run("echo", "from the sif", tag=target) == "from the sif\n"
    refused = builder.call("image", "push", str(sif), target.replace("oras", "docker"))
    assert refused.returncode == 72
    assert "is a SIF, and docker:// takes layers" in refused.stderr


def test_what_cannot_be_pushed_is_refused_by_name(built: Builder, local_registry: Registry) -> None:
    plain_http(built, local_registry)
    place = "%s/team/made" % local_registry.address
    for target, code, text in (
        ("oras://%s:1" % place, 72, "is a directory, and oras:// takes a SIF"),
        ("docker://%s@sha256:%s" % (place, "0" * 64), 71, "a digest follows from the content"),
        ("/tmp/x", 71, "it is a path"),
        ("docker://127.0.0.1:1/team/made:1", 76, "was not reached"),
    ):
        done = built.call("image", "push", "-q", "made", target)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert local_registry.writes == []
    built.write("FROM busybox\nRUN touch /.wh.hidden\n")
    built.build(tag="whiteout")
    done = built.call("image", "push", "-q", "whiteout", "docker://%s:2" % place)
    assert done.returncode == 72
    assert "/.wh.hidden" in "/" + done.stderr.split(" cannot be in an image")[0].rpartition(" ")[2]
    built.settings["registries_http"] = []
    done = built.call("image", "push", "-q", "made", "docker://%s:1" % place)
    assert "does not speak https" in done.stderr, "plain http is for registries that the settings name"


def test_a_push_that_is_killed_goes_on_where_it_was(built: Builder, local_registry: Registry) -> None:
    plain_http(built, local_registry)
    target = "docker://%s/team/made:1" % local_registry.address
    reached, go = threading.Event(), threading.Event()

    def hold(method: str, path: str, _headers: Mapping[str, str]) -> Answer | None:
        if method == "PUT" and "/manifests/" in path:
            reached.set()
            go.wait(60)
        return None

    local_registry.answer_write = hold
    child = built.start("image", "push", "made", target)
    assert reached.wait(60)
    child.kill()
    child.communicate()
    local_registry.answer_write = lambda _method, _path, _headers: (500, {}, b"")
    go.set()
    local_registry.answer_write = lambda _method, _path, _headers: None
    pushed = push(built, "made", target)
    assert pushed["sent"] == 0, "both blobs were there"
    assert built.run("/etc/hosts", tag=target)
    assert built.left() == []


def test_what_may_pass_is_tried_three_times(built: Builder, local_registry: Registry) -> None:
    plain_http(built, local_registry)
    failures = iter([503, 502])

    def fail(method: str, path: str, _headers: Mapping[str, str]) -> Answer | None:
        if method == "PUT" and "/uploads/" in path:
            status = next(failures, 0)
            return (status, {}, b"") if status else None
        return None

    local_registry.answer_write = fail
    pushed = push(built, "made", "docker://%s/team/made:1" % local_registry.address)
    assert "trying again" in pushed["talk"]
    assert sum(one.startswith("PUT") and "/uploads/" in one for one in local_registry.writes) == 4
    local_registry.answer_write = lambda method, _path, _headers: (500, {}, b"{}") if method == "PUT" else None
    done = built.call("image", "push", "made", "docker://%s/team/made:2" % local_registry.address)
    assert done.returncode == 76
    assert "it answers 500" in done.stderr
    assert built.left() == []


def test_logins(built: Builder, make_registry: Any) -> None:
    registry = make_registry(login=True)
    plain_http(built, registry)
    target = "docker://%s/team/made:1" % registry.address
    done = built.call("image", "push", "-q", "made", target)
    assert done.returncode == 76
    assert "access refused (401" in done.stderr
    assert "--authfile" in done.stderr

    def logins(password: str) -> str:
        auth = base64.b64encode(("%s:%s" % (USER, password)).encode()).decode()
        path = built.driver.folder / "auth.json"
        path.write_text(json.dumps({"auths": {registry.address: {"auth": auth}}}))
        path.chmod(0o644)
        return str(path)

    done = built.call("image", "push", "--authfile", logins("wrong-word"), "made", target)
    assert done.returncode == 76
    assert "wrong-word" not in done.stderr
    assert push(built, "--authfile", logins(PASSWORD), "made", target)["sent"] > 0


def test_tokens_for_pushing(built: Builder, local_registry: Registry) -> None:
    """A registry with a token service: the scope that it asks for is asked for, and a token that runs out is renewed."""
    plain_http(built, local_registry)
    asked: list[str] = []
    good = iter(["first", "second", "second", "second", "second", "second"])
    current = [next(good)]
    login = "Basic " + base64.b64encode(("%s:%s" % (USER, PASSWORD)).encode()).decode()

    def challenge(scope: str) -> Answer:
        words = 'Bearer realm="http://%s/token",service="s",scope="repository:team/made:%s"' % (local_registry.address, scope)
        return 401, {"www-authenticate": words}, b"{}"

    def read(path: str, headers: Mapping[str, str]) -> Answer | None:
        if not path.startswith("/token"):
            return None
        asked.append(path)
        if headers.get("authorization") != login:
            return 401, {}, b"{}"
        return 200, {}, json.dumps({"token": current[0]}).encode()

    def write(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        if headers.get("authorization") != "Bearer " + current[0]:
            return challenge("pull,push")
        if method == "PUT" and "/uploads/" in path and current[0] == "first":
            current[0] = next(good)  # it has just run out
            return challenge("pull,push")
        return None

    local_registry.answer, local_registry.answer_write = read, write
    path = built.driver.folder / "auth.json"
    path.write_text(json.dumps({"auths": {local_registry.address: {"auth": login.partition(" ")[2]}}}))
    path.chmod(0o644)
    target = "docker://%s/team/made:1" % local_registry.address
    assert push(built, "--authfile", str(path), "made", target)["sent"] > 0
    assert asked
    assert all("scope=repository%3Ateam%2Fmade%3Apull%2Cpush" in one for one in asked)
    done = built.call("image", "push", "-q", "made", target.replace(":1", ":2"))
    assert done.returncode == 76
    assert "access refused (401" in done.stderr


class Published:
    """A directory laid out as the publisher lays CVMFS out."""

    def __init__(self, builder: Builder) -> None:
        self.root = builder.driver.folder / "published"
        self.root.mkdir()
        builder.settings["cvmfs_images"] = [str(self.root)]

    def publish(self, name: str, config_digest: str) -> Path:
        text = config_digest.partition(":")[2]
        flat = self.root / ".flat" / text[:2] / text
        (flat / "etc").mkdir(parents=True)
        link = self.root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        beside = link.with_name("." + link.name)
        beside.symlink_to(flat)
        beside.rename(link)
        return flat


def test_wait_until_cvmfs_shows_what_was_pushed(built: Builder, local_registry: Registry) -> None:
    plain_http(built, local_registry)
    target = "%s/team/made:1" % local_registry.address
    pushed = push(built, "made", "docker://" + target)
    place = Published(built)
    words = ("image", "wait", "%s@%s" % (target, pushed["digest"]), "--route", "cvmfs", "--interval", "1s")
    done = built.call(*words, "--timeout", "1s")
    assert done.returncode == 75
    assert "does not show %s" % pushed["config_digest"] in done.stderr
    assert "%s is not there" % target in done.stderr

    place.publish(target, "sha256:" + "1" * 64)
    done = built.call(*words, "--timeout", "2")
    assert done.returncode == 75
    assert "shows sha256:" + "1" * 64 in done.stderr

    child = built.start(*words, "--timeout", "60s", "--json")
    assert child.stderr is not None
    while b"waiting for" not in child.stderr.readline():
        pass
    flat = place.publish(target, pushed["config_digest"])
    out = child.communicate(timeout=60)[0]
    assert child.returncode == 0
    shown = json.loads(out)
    assert (shown["path"], shown["config_digest"]) == (str(flat), pushed["config_digest"])
    by_config = built.call("image", "wait", "-q", "%s@%s" % (target, pushed["config_digest"]), "--route", "cvmfs", "--timeout", "1s")
    assert by_config.stdout.strip() == str(flat)
    done = built.call("image", "wait", target, "--route", "cvmfs", "--timeout", "1s")
    assert done.returncode == 71
    assert "only a digest says which image is meant" in done.stderr
