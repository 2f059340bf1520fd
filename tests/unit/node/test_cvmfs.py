from __future__ import annotations

import os
from pathlib import Path

import pytest

from gha_apptainer.domain.errors import HostUnfit
from gha_apptainer.node.volumes.cvmfs import ALIAS, CVMFSEXEC, HERE, exists, holder_of, read_repositories

NAME = "sft.cern.ch"


def _tree(path: Path) -> Path:
    (path / "lcg").mkdir(parents=True)
    return path


def test_a_repository_that_answers(tmp_path: Path) -> None:
    _tree(tmp_path / NAME)
    (found,) = read_repositories([NAME], {}, {}, root=str(tmp_path))
    assert (found.path, found.how) == (str(tmp_path / NAME), HERE)
    assert found.revision == ""


def test_its_revision_is_recorded(tmp_path: Path) -> None:
    tree = _tree(tmp_path / NAME)
    try:
        os.setxattr(tree, "user.revision", b"4711")
    except OSError as error:
        pytest.skip("this file system has no user attributes: %s" % error.strerror)
    (found,) = read_repositories([NAME], {}, {}, root=str(tmp_path))
    assert found.revision == "4711"


def test_else_the_sites_alias(tmp_path: Path) -> None:
    alias = _tree(tmp_path / "stand-in")
    (found,) = read_repositories([NAME], {NAME: str(alias)}, {}, root=str(tmp_path))
    assert (found.path, found.how) == (str(alias), ALIAS)


def test_an_empty_directory_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(HostUnfit, match="is empty"):
        read_repositories([NAME], {}, {"PATH": "/nope"}, root=str(tmp_path))


def test_else_cvmfsexec(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("cvmfsexec", "exit 1"), ("mountrepo", 'mkdir -p "$(dirname "$0")/dist/cvmfs/$1/lcg"')):
        (tools / name).write_text("#!/bin/sh\n%s\n" % text, encoding="utf-8")
        (tools / name).chmod(0o755)
    (found,) = read_repositories([NAME], {}, {"PATH": "%s:/usr/bin:/bin" % tools}, root=str(tmp_path))
    assert (found.path, found.how) == (str(tools / "dist" / "cvmfs" / NAME), CVMFSEXEC)


@pytest.mark.case("action-9")
def test_an_unknown_repository_fails_by_name_and_names_the_companion(tmp_path: Path) -> None:
    with pytest.raises(HostUnfit) as caught:
        read_repositories(["no.such.repo"], {}, {"PATH": "/nope"}, root=str(tmp_path))
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
