from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.hook_arguments import quote_split, rejoined, shell_split, split, step_arguments

TEXT = st.text(alphabet="ab \t\n\"'\\$", max_size=30)


@given(TEXT)
def test_splits_as_the_shell_module_does(text: str) -> None:
    try:
        wanted: object = tuple(shlex.split(text))
    except ValueError:
        wanted = None
    assert shell_split(text) == wanted


@given(st.lists(st.text(alphabet="ab c'\\$", max_size=6), max_size=5))
def test_what_the_runner_quotes_comes_back(words: list[str]) -> None:
    """The runner puts each argument into double quotes and cuts at spaces; a backslash at an end or before a quote is lost there."""
    if any("\\" in one for one in words):
        return
    text = " ".join('"%s"' % one for one in words)
    assert rejoined(tuple(text.split(" "))) == tuple(words) or not words


@pytest.mark.case("hooks-34")
@pytest.mark.parametrize(
    "pieces, wanted",
    [
        (("-c", "'a", "b'"), ("-c", "a b")),
        (('"Mona', "the", 'Octocat"'), ("Mona the Octocat",)),
        (("-e", "/__w/_temp/x.sh"), ("-e", "/__w/_temp/x.sh")),
        (("a", "", "b"), ("a", "", "b")),
        (('"two', "", 'spaces"'), ("two  spaces",)),
        (('"a\\\\b"',), ("a\\b",)),
    ],
)
def test_pieces(pieces: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    assert rejoined(pieces) == wanted


@pytest.mark.case("hooks-35")
def test_a_quote_that_does_not_end() -> None:
    assert rejoined(("it's", '"one', 'word"')) == ("it's", "one word")
    assert split('it\'s "a b" \\"x') == ("it's", "a b", '"x')
    assert quote_split('"open end') == ("open end",)


@pytest.mark.case("hooks-46")
def test_the_original_text_is_used_where_it_is_the_source() -> None:
    text = 'first "second\n   line"  third'
    pieces = tuple(part.strip() for part in text.split(" ") if part.strip())
    assert step_arguments(pieces, text) == ("first", "second\n   line", "third")
    assert step_arguments(pieces, "another input that is called args") == ("first", "second line", "third")
    assert step_arguments((), "") == ()
    assert step_arguments((), None) == ()
