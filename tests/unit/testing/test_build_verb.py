"""The words of `build`, `image push` and `image wait` that are wrong before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from gha_apptainer.domain.errors import GhaError, InputError
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node.main import build, image
from gha_apptainer.node.main.context import Context


@pytest.fixture
def context(tmp_path: Path) -> Context:
    facts = HostFacts("h", "boot", "x86_64", "6", 1000, 1000, str(tmp_path), userns_reason="switched off here")
    settings = NodeSettings(cvmfs_images=())
    (tmp_path / "Dockerfile").write_text("FROM x\nRUN --mount=type=ssh y\n")
    return Context({"KNOWN": "value"}, host=facts, settings=settings)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--build-arg", "=x"), "NAME=VALUE or NAME"),
        (("--label", "x"), "NAME=VALUE"),
        (("--secret", "src=x"), "id=ID with"),
        (("--secret", "id=x,nosuch=y"), "id=ID with"),
        (("--secret", "id=x,env=NOSUCH"), "no variable NOSUCH"),
        (("--secret", "id=x,src=/nosuch"), "cannot read /nosuch"),
        (("--nosuch",), "--nosuch"),
        (("-f", "/nosuch/Dockerfile"), "cannot read /nosuch/Dockerfile"),
        (("--tag", "UPPER"), "names are lower case"),
        (("--target", "nosuch", "-f", "good"), "no stage 'nosuch'"),
    ],
)
def test_wrong_words_of_build(words: tuple[str, ...], why: str, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").write_text("FROM x\n")
    chosen = words if "-f" in words else (*words, "-f", "good")
    with pytest.raises(InputError, match=why.replace("[", "\\[")):
        build.main((*chosen, str(tmp_path)), context)


def test_what_a_file_alone_tells_is_told_before_the_machine_is_asked(context: Context, tmp_path: Path) -> None:
    with pytest.raises(GhaError, match="Dockerfile:2: RUN --mount=type=ssh is refused"):
        build.main((str(tmp_path),), context)
    (tmp_path / "Dockerfile").write_text("FROM x\n")
    with pytest.raises(GhaError, match="nothing can be built here: switched off here"):
        build.main((str(tmp_path),), context)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("push", "a"), "required"),
        (("push", "a", "./x.sif"), "it is a path"),
        (("push", "a", "docker://ghcr.io/OWNER/x"), "names are lower case"),
        (("wait", "a"), "--route"),
        (("wait", "a", "--route", "cvmfs"), "only a digest says"),
        (("wait", "a@sha256:" + "0" * 64, "--route", "cvmfs"), "names no directory"),
        (("wait", "a@sha256:" + "0" * 64, "--route", "cvmfs", "--timeout", "soon"), "no duration"),
    ],
)
def test_wrong_words_of_push_and_wait(words: tuple[str, ...], why: str, context: Context) -> None:
    with pytest.raises(InputError, match=why):
        image.main(words, context)


@pytest.mark.parametrize("verb", ["push", "wait"])
def test_help_begins_with_an_example(verb: str, context: Context, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert image.main((verb, "--help"), context) == 0
    assert build.main(("--help",), context) == 0
    assert b"Example: gha-apptainer" in capfdbinary.readouterr().out
