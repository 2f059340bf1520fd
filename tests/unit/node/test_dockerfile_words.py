"""Quotes, escapes and variables, case by case as https://docs.docker.com/reference/dockerfile/ and its own lexer's tests have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.node.dockerfile.words import BadWord, expand, expand_content, split_words

ENV = {"A": "a", "EMPTY": "", "PATHS": "/a/b:/c/d", "NAME": "foo.tar.gz", "ä": "umlaut", "V1": "v"}

CASES = [
    ("plain", "plain"),
    ("$A", "a"),
    ("${A}", "a"),
    ("x$A/y", "xa/y"),
    ("$AB", ""),
    ("${A}B", "aB"),
    ("$V1", "v"),
    ("$NOSUCH", ""),
    ("${NOSUCH}", ""),
    ("\\$A", "$A"),
    ("\\\\$A", "\\a"),
    ("'$A'", "$A"),
    ("'it''s'", "its"),
    ('"$A"', "a"),
    ('"\\$A"', "$A"),
    ('"\\x"', "\\x"),
    ('"\\""', '"'),
    ('"a\\\\b"', "a\\b"),
    ("a\\ b", "a b"),
    ("a\\", "a"),
    ("\"'$A'\"", "'a'"),
    ("'\"$A\"'", '"$A"'),
    ("$", "$"),
    ("a$", "a$"),
    ("$ä", "umlaut"),
    ("$1x", "x"),
    ("$@", ""),
    ("$$", ""),
    ("${A:-x}", "a"),
    ("${NOSUCH:-x}", "x"),
    ("${EMPTY:-x}", "x"),
    ("${EMPTY-x}", ""),
    ("${NOSUCH-x}", "x"),
    ("${A:+x}", "x"),
    ("${NOSUCH:+x}", ""),
    ("${EMPTY:+x}", ""),
    ("${EMPTY+x}", "x"),
    ("${A:?why}", "a"),
    ("${A?why}", "a"),
    ("${EMPTY?why}", ""),
    ("${NOSUCH:-$A}", "a"),
    ("${NOSUCH:-${OTHER:-deep}}", "deep"),
    ("${NOSUCH:-a b}", "a b"),
    ("${NOSUCH:-'$A'}", "$A"),
    ("${NOSUCH:-}", ""),
    ("${NAME#*.}", "tar.gz"),
    ("${NAME##*.}", "gz"),
    ("${NAME%.*}", "foo.tar"),
    ("${NAME%%.*}", "foo"),
    ("${NAME#nothing}", "foo.tar.gz"),
    ("${NAME%nothing}", "foo.tar.gz"),
    ("${NAME/./-}", "foo-tar.gz"),
    ("${NAME//./-}", "foo-tar-gz"),
    ("${NAME//./}", "footargz"),
    ("${PATHS#/?/}", "b:/c/d"),
    ("${NAME/t*r/X}", "foo.X.gz"),
    ("${NOSUCH#x}", ""),
]


@pytest.mark.parametrize(("text", "wanted"), CASES)
def test_a_word_becomes(text: str, wanted: str) -> None:
    assert expand(text, ENV) == wanted


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("${A", "without its }"),
        ("${", "without a name"),
        ("${}", "without a name"),
        ("${A:x}", "no such modifier"),
        ("${A!x}", "no such modifier"),
        ("${A:-x", "'}' is missing"),
        ("${NOSUCH:?is needed}", "NOSUCH: is needed"),
        ("${NOSUCH?}", "NOSUCH: is not set"),
        ("${EMPTY:?no}", "EMPTY: no"),
        ("'open", "single quote is not closed"),
        ('"open', "double quote is not closed"),
        ("${A/x}", "'/' is missing"),
    ],
)
def test_a_word_that_cannot_be_read_says_why(text: str, why: str) -> None:
    with pytest.raises(BadWord) as failed:
        expand(text, ENV)
    assert why in str(failed.value)


def test_another_escape_character() -> None:
    assert expand("C:\\dir\\$A", ENV, "`") == "C:\\dir\\a"
    assert expand("`$A", ENV, "`") == "$A"
    assert expand('"`$A \\"', ENV, "`") == "$A \\"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b\tc", ("a", "b", "c")),
        ('A="x y" B=z', ('A="x y"', "B=z")),
        ("A=x\\ y B='1 2'", ("A=x\\ y", "B='1 2'")),
        ('A="it\'s" B=', ('A="it\'s"', "B=")),
        ('A="a\\"b c"', ('A="a\\"b c"',)),
        ("  ", ()),
        ("a\\", ("a",)),
        ("'a\\' b", ("'a\\'", "b")),
    ],
)
def test_a_line_becomes_words(text: str, words: tuple[str, ...]) -> None:
    assert split_words(text) == words


def test_a_here_document_keeps_its_quotes() -> None:
    assert expand_content('it\'s "$A" \\$A ${A:-x} \\n\n', ENV) == 'it\'s "a" \\$A a \\n\n'


LETTERS = st.text(st.sampled_from("aA$\\'\"{}:-+?#%/ *.\tx1_"), max_size=30)


@given(LETTERS)
def test_every_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(expand(text, ENV), str)
    except BadWord:
        pass
    split_words(text)


@given(st.text(st.characters(exclude_characters="\\'\"$"), max_size=30))
def test_text_without_marks_stays_as_it_is(text: str) -> None:
    assert expand(text, ENV) == text


@given(st.text(max_size=30))
def test_a_value_is_never_read_again(value: str) -> None:
    assert expand("<${A}>", {"A": value}) == "<%s>" % value
    assert expand('"$A"', {"A": value}) == value


@given(st.text(max_size=20).filter(lambda text: "'" not in text))
def test_single_quotes_keep_everything(text: str) -> None:
    assert expand("'%s'" % text, ENV) == text
