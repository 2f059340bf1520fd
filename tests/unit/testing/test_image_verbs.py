"""The verbs of `image`, with the images package replaced by what a test says of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence

import pytest

from gha_apptainer.domain.errors import ImageFailed, Refused
from gha_apptainer.domain.findings import FAIL, OK, Finding
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import CHOSEN, LOST, Login, RoutePlan, RouteStep
from gha_apptainer.domain.image_refs import ImageRef
from gha_apptainer.domain.images import Digest, Image, OciConfig
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import images
from gha_apptainer.node import main as door
from gha_apptainer.node.main import image as verbs
from gha_apptainer.node.main.context import Context

HOST = HostFacts(hostname="node", boot_id="boot", machine="x86_64", kernel="6.1", uid=1000, gid=1000, state_dir="/state")
SETTINGS = NodeSettings()
DIGEST = "sha256:" + "ab" * 32
STORED = RouteStep("store", CHOSEN, "it is there", "nothing", "/store/x", Digest(DIGEST, "manifest"))
LISTED = images.ListedImage("docker.io/library/ubuntu:24.04", DIGEST, "sandbox", 80_000_000, 1.0, 2.0, "registry", ("c1",), "/store/x")


class Shelf:
    """The images package of the tests: `plan` finds `steps`, `fetch` notes what it was asked."""

    def __init__(self) -> None:
        self.steps: tuple[RouteStep, ...] = (RouteStep("alias", LOST, "no alias"), STORED)
        self.fetched: list[tuple[str, str, Login | None]] = []

    def plan(self, ref: ImageRef, policy: str, settings: NodeSettings, host: HostFacts) -> RoutePlan:
        return RoutePlan(ref, policy, self.steps, settings, host)

    def fetch(self, plan: RoutePlan, login: Login | None, tell: Callable[[str], None]) -> Image:
        if "gone" in str(plan.ref):
            raise ImageFailed("no route leads to image gone")
        tell("working")
        self.fetched.append((str(plan.ref), plan.policy, login))
        return Image(str(plan.ref), Digest(DIGEST, "manifest"), OciConfig(cmd=("sh",)), "/store/x", "sandbox", "registry")


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf()
    for name in ("plan", "fetch"):
        monkeypatch.setattr(images, name, getattr(made, name))
    monkeypatch.setattr(images, "list_images", lambda settings, host: (LISTED,))
    monkeypatch.setattr(verbs, "Context", lambda environ: Context(environ, host=HOST, settings=SETTINGS))
    return made


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def image(shelf: Shelf, capfd: pytest.CaptureFixture[str]) -> Run:
    def run(*argv: str) -> tuple[int, str, str]:
        code = door.main(("image", *argv))
        out, err = capfd.readouterr()
        return code, out, err

    return run


def test_resolve(image: Run, shelf: Shelf) -> None:
    assert image("resolve", "ubuntu:24.04") == (0, "docker://docker.io/library/ubuntu:24.04 store %s /store/x\n" % DIGEST, "")
    code, out, _ = image("resolve", "--explain", "ubuntu:24.04")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["alias", "lost"], ["store", "chosen"]]
    document = json.loads(image("resolve", "--json", "ubuntu:24.04")[1])
    assert (document["version"], document["chosen"], document["routes"][0]["why"]) == (1, "store", "no alias")
    assert not shelf.fetched


def test_resolve_fails_where_no_route_leads(image: Run, shelf: Shelf) -> None:
    shelf.steps = (RouteStep("alias", LOST, "no alias"),)
    for form in ((), ("--explain",), ("--json",)):
        code, _, err = image("resolve", *form, "ubuntu:24.04")
        assert code == 76
        assert "no route leads to image" in err


def test_pull(image: Run, shelf: Shelf) -> None:
    assert image("pull", "ubuntu:24.04") == (0, "/store/x\n", "gha-apptainer: working\n")
    assert shelf.fetched == [("docker://docker.io/library/ubuntu:24.04", "always", None)]
    assert image("pull", "-q", "--pull", "never", "ubuntu:24.04")[2] == ""
    assert shelf.fetched[-1][1] == "never"
    document = json.loads(image("pull", "-q", "--json", "ubuntu:24.04")[1])
    assert (document["images"][0]["digest"], document["images"][0]["config"]["cmd"]) == (DIGEST, ["sh"])


def test_a_pull_that_fails_does_not_keep_the_others_from_their_turn(image: Run, shelf: Shelf) -> None:
    code, out, err = image("pull", "gone", "ubuntu:24.04")
    assert (code, out) == (76, "/store/x\n")
    assert "image gone" in err


def test_passwords_come_by_stdin_only(image: Run, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"s3cret\n")))
    code, out, err = image("pull", "-u", "me", "--password-stdin", "ubuntu:24.04")
    assert code == 0
    login = shelf.fetched[0][2]
    assert login is not None
    assert (login.username, login.password.reveal()) == ("me", "s3cret")
    assert "s3cret" not in out + err
    for argv in (("-u", "me"), ("--password-stdin",)):
        assert image("pull", *argv, "ubuntu:24.04")[0] == 71


def test_ls(image: Run) -> None:
    head, row = image("ls")[1].splitlines()
    assert head.split()[:2] == ["IMAGE", "DIGEST"]
    assert row.split() == ["docker.io/library/ubuntu:24.04", DIGEST[:19], "sandbox", "80.0", "MB", "registry", "1", "container"]
    assert image("ls", "-q")[1] == DIGEST + "\n"
    assert json.loads(image("ls", "--json")[1])["images"][0]["holders"] == ["c1"]


def test_rm(image: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove(name: str, settings: NodeSettings, host: HostFacts) -> images.ListedImage:
        if name == "held":
            raise Refused("image held is in use by c1")
        return LISTED

    monkeypatch.setattr(images, "remove_image", remove)
    code, out, err = image("rm", "held", "ubuntu:24.04")
    assert (code, out) == (72, "removed %s\n" % DIGEST)
    assert "in use by c1" in err


def test_gc(image: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | None, float | None]] = []
    found: list[Finding] = [Finding("image-gc", OK, "removed a")]

    def collect(settings: NodeSettings, host: HostFacts, *, max_bytes: int | None, unused_for: float | None) -> Sequence[Finding]:
        asked.append((max_bytes, unused_for))
        return tuple(found)

    monkeypatch.setattr(images, "collect", collect)
    assert image("gc") == (0, "ok: removed a\n", "")
    assert image("gc", "--max-size", "20g", "--unused-for", "30")[0] == 0
    assert asked == [(None, None), (20 << 30, 30 * 86400.0)]
    found.append(Finding("image-gc", FAIL, "cannot remove b"))
    code, out, _ = image("gc", "--json")
    assert code == 76
    assert [one["status"] for one in json.loads(out)["findings"]] == ["ok", "fail"]


@pytest.mark.parametrize(
    "words",
    ["what", "resolve", "resolve --bogus x", "resolve --expl x", "pull --pull maybe x", "resolve NotAName", "gc --max-size lots", "ls x"],
)
def test_what_is_wrong_is_71(image: Run, words: str) -> None:
    code, out, err = image(*words.split())
    assert (code, out) == (71, "")
    assert err.startswith("gha-apptainer: ")


@pytest.mark.parametrize("verb", ["", *verbs.VERBS])
def test_help_leads_with_an_example(image: Run, verb: str) -> None:
    code, out, _ = image(*([verb] if verb else []), "--help")
    assert code == 0
    assert out.startswith("Example: gha-apptainer image %s" % verb)
