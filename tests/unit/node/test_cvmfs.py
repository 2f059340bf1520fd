from __future__ import annotations

import os
from pathlib import Path

import pytest

from gha_apptainer.domain.errors import HostUnfit
from gha_apptainer.node.volumes import cvmfsexec
from gha_apptainer.node.volumes.cvmfs import ALIAS, CVMFSEXEC, HERE, exists, holder_of, read_repositories
from gha_apptainer.node.volumes.cvmfsexec import Cvmfsexec

NAME = "sft.cern.ch"
NO_TOOL = Cvmfsexec("/nonexistent", {"PATH": "/nope"})


def _tree(path: Path) -> Path:
    (path / "lcg").mkdir(parents=True)
    return path


def test_a_repository_that_answers(tmp_path: Path) -> None:
    _tree(tmp_path / NAME)
    (found,) = read_repositories([NAME], {}, NO_TOOL, root=str(tmp_path))
    assert (found.path, found.how) == (str(tmp_path / NAME), HERE)
    assert found.revision == ""


def test_its_revision_is_recorded(tmp_path: Path) -> None:
    tree = _tree(tmp_path / NAME)
    try:
        os.setxattr(tree, "user.revision", b"4711")
    except OSError as error:
        pytest.skip("this file system has no user attributes: %s" % error.strerror)
    (found,) = read_repositories([NAME], {}, NO_TOOL, root=str(tmp_path))
    assert found.revision == "4711"


def test_else_the_sites_alias(tmp_path: Path) -> None:
    alias = _tree(tmp_path / "stand-in")
    (found,) = read_repositories([NAME], {NAME: str(alias)}, NO_TOOL, root=str(tmp_path))
    assert (found.path, found.how) == (str(alias), ALIAS)


def test_an_empty_directory_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(HostUnfit, match="is empty"):
        read_repositories([NAME], {}, NO_TOOL, root=str(tmp_path))


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cvmfsexec whose mounts are directories, and which notes what it was asked for."""
    folder = tmp_path / "tools"
    folder.mkdir()
    note = 'echo "$(basename "$0") $1" >> "$(dirname "$0")/asked"; '
    place = '"$(dirname "$0")/dist/cvmfs/$1"'
    texts = {"cvmfsexec": "exit 1", "mountrepo": note + "mkdir -p %s/lcg" % place, "umountrepo": note + "rm -r %s" % place}
    for name, text in texts.items():
        (folder / name).write_text("#!/bin/sh\n%s\n" % text, encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setattr(cvmfsexec, "mounted", os.path.isdir)
    monkeypatch.setattr(cvmfsexec, "_BUSY_LIMIT", 0.5)
    return folder


def _tool(tools: Path) -> Cvmfsexec:
    return Cvmfsexec(str(tools.parent / "state"), {"PATH": "%s:/usr/bin:/bin" % tools})


def _asked(tools: Path) -> list[str]:
    return (tools / "asked").read_text(encoding="utf-8").splitlines()


def test_else_cvmfsexec_for_as_long_as_the_step_takes(tools: Path, tmp_path: Path) -> None:
    tool = _tool(tools)
    (found,) = read_repositories([NAME], {}, tool, root=str(tmp_path))
    assert (found.path, found.how) == (str(tools / "dist" / "cvmfs" / NAME), CVMFSEXEC)
    assert tool.release() == ()
    assert _asked(tools) == ["mountrepo " + NAME, "umountrepo " + NAME]
    assert tool.release() == ()


def test_the_last_of_several_steps_unmounts(tools: Path) -> None:
    first, second = _tool(tools), _tool(tools)
    assert first.mount(NAME) == second.mount(NAME) != ""
    assert first.release() == ()
    assert _asked(tools) == ["mountrepo " + NAME]
    assert second.release() == ()
    assert _asked(tools) == ["mountrepo " + NAME, "umountrepo " + NAME]


def test_what_was_mounted_before_stays(tools: Path) -> None:
    (tools / "dist" / "cvmfs" / NAME).mkdir(parents=True)
    tool = _tool(tools)
    tool.mount(NAME)
    tool.mount("other.cern.ch")
    assert tool.release() == ()
    assert _asked(tools) == ["mountrepo other.cern.ch", "umountrepo other.cern.ch"]


def test_a_mount_that_does_not_go_is_told_and_tried_again_by_the_next(tools: Path) -> None:
    tool = _tool(tools)
    tool.mount(NAME)
    good = (tools / "umountrepo").read_text(encoding="utf-8")
    (tools / "umountrepo").write_text("#!/bin/sh\necho busy >&2; exit 1\n", encoding="utf-8")
    assert tool.release() == ("CVMFS repository %s is still mounted by cvmfsexec: busy" % NAME,)
    (tools / "umountrepo").write_text(good, encoding="utf-8")
    other = _tool(tools)
    other.mount("other.cern.ch")
    assert other.release() == ()
    assert _asked(tools)[-1] == "umountrepo " + NAME


def test_a_mount_is_told_without_touching_it(tmp_path: Path) -> None:
    assert cvmfsexec.mounted("/proc")
    assert not cvmfsexec.mounted(str(tmp_path))


@pytest.mark.case("action-9")
def test_an_unknown_repository_fails_by_name_and_names_the_companion(tmp_path: Path) -> None:
    with pytest.raises(HostUnfit) as caught:
        read_repositories(["no.such.repo"], {}, NO_TOOL, root=str(tmp_path))
    assert "no.such.repo" in caught.value.what
    assert "cvmfs-contrib/github-action-cvmfs" in caught.value.remedy


def test_existence_is_asked_by_a_child(tmp_path: Path) -> None:
    assert exists(str(tmp_path))
    assert not exists(str(tmp_path / "nope"))


@pytest.mark.parametrize(
    ("path", "holder"),
    [
        ("/cvmfs/a.org/x", ("a.org", "/cvmfs/a.org")),
        ("/cvmfs/a.org", ("a.org", "/cvmfs/a.org")),
        ("/data/b/x", ("b.org", "/data/b")),
        ("/data/bc", ("", "")),
        ("/cvmfs", ("", "")),
        ("", ("", "")),
    ],
)
def test_which_repository_holds_a_path(path: str, holder: tuple[str, str]) -> None:
    assert holder_of(path, {"b.org": "/data/b"}) == holder
