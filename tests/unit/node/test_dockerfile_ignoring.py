"""`.dockerignore`, case by case, as Docker's own pattern matcher decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.node.dockerfile.ignoring import patterns, read_patterns

CASES = [
    ("*", "a", True),
    ("*", "a/b", True),
    ("**", "a/b/c", True),
    ("*/temp*", "a/temporary.txt", True),
    ("*/temp*", "temporary.txt", False),
    ("*/temp*", "a/b/temporary", False),
    ("*/*/temp*", "a/b/temporary", True),
    ("temp?", "tempa", True),
    ("temp?", "temp", False),
    ("temp?", "temp/", False),
    ("**/*.go", "a.go", True),
    ("**/*.go", "x/y/a.go", True),
    ("**/foo", "foo", True),
    ("**/foo", "a/foo", True),
    ("**/foo", "a/foobar", False),
    ("a/**", "a/b/c", True),
    ("a/**", "a", False),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b", True),
    ("a**b", "axxb", False),
    ("a**b", "ax/b", True),
    ("/a", "a", True),
    ("./a", "a", True),
    ("a/", "a/b", True),
    ("a/../b", "b", True),
    ("dir", "dir/file", True),
    ("dir", "other/dir", False),
    ("a.b", "axb", False),
    ("[a-c]x", "bx", True),
    ("[a-c]x", "dx", False),
    ("[^a-c]x", "dx", True),
    ("[^a]x", "/x", False),
    ("\\*", "*", True),
    ("\\*", "a", False),
    ("a$", "a$", True),
    ("(a)+", "(a)+", True),
    (" spaced ", "spaced", True),
    ("# comment", "# comment", False),
    (".", "a", False),
    ("*.md\n!README.md", "README.md", False),
    ("*.md\n!README*.md", "docs.md", True),
    ("!README.md\n*.md", "README.md", True),
    ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
    ("dir\n!dir/keep", "dir/keep", False),
    ("dir\n!dir/keep", "dir/other", True),
    ("*\n!a/b", "a/b/c", False),
    ("**\n!src/**/*.py", "src/x/y.py", False),
    ("**\n!src/**/*.py", "src/x/y.c", True),
]


@pytest.mark.parametrize(("text", "path", "ignored"), CASES)
def test_a_path_is_ignored(text: str, path: str, ignored: bool) -> None:
    assert read_patterns(text, ".dockerignore").ignores(path.rstrip("/")) is ignored


@pytest.mark.parametrize("text", ["[a", "ok\n[", "!"])
def test_what_is_no_pattern_is_told_with_its_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\.dockerignore:%d" % (text.count("\n") + 1)):
        read_patterns(text, ".dockerignore")


def test_exceptions_are_known() -> None:
    assert read_patterns("a\n!b", "x").exceptions
    assert not read_patterns("a", "x").exceptions


@given(st.text(st.sampled_from("ab*?[]^!-/\\.#{}()"), max_size=15), st.text(st.sampled_from("ab/."), min_size=1, max_size=10))
def test_every_text_is_read_or_refused(text: str, path: str) -> None:
    told = "x:1:"
    try:
        assert isinstance(patterns(((1, text),), "x").ignores(path), bool)
    except ValueError as error:
        told = str(error)
    assert told.startswith("x:1:")


@given(st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=3), min_size=1, max_size=4))
def test_what_is_in_an_ignored_directory_is_ignored(parts: list[str]) -> None:
    found = read_patterns(parts[0], "x")
    assert found.ignores("/".join(parts))
