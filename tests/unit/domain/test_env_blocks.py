from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.env_blocks import parse_env_block
from gha_apptainer.domain.errors import InputError

BIG = "x" * 120_000


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A=1", {"A": "1"}),
        ("A=", {"A": ""}),
        ("  A=1\n\n# note\nB=2", {"A": "1", "B": "2"}),
        ("MY-VAR.X=a=b", {"MY-VAR.X": "a=b"}),
        ("A= kept  ", {"A": " kept  "}),
        ("A='quoted' \"both\" `tick` $HOME $(id) \\n", {"A": "'quoted' \"both\" `tick` $HOME $(id) \\n"}),
        ("A<<EOF\none\n\ntwo\nEOF\nB=2", {"A": "one\n\ntwo", "B": "2"}),
        ("A<<EOF\nEOF", {"A": ""}),
        ("A<<X\r\na\r\nb\nX", {"A": "a\r\nb"}),
        ("A=b<<c", {"A": "b<<c"}),
        ("A=1\nA=2", {"A": "2"}),
        ("A=bytes \udcff\udcfe", {"A": "bytes \udcff\udcfe"}),
        ("A=" + BIG, {"A": BIG}),
    ],
)
def test_forms(text: str, expected: dict[str, str]) -> None:
    assert (dict(parse_env_block(text, {})[0]), parse_env_block(text, {})[1]) == (expected, ())


def test_a_bare_name_takes_the_runners_value() -> None:
    assert parse_env_block("HAVE\nHAVENT", {"HAVE": "a\nb"}) == ((("HAVE", "a\nb"),), ("HAVENT",))


@pytest.mark.parametrize("text", ["=x", "A<<EOF\nnever", "A<<", "A=1\0"])
def test_what_cannot_be_read_names_the_line(text: str) -> None:
    with pytest.raises(InputError, match="line 1"):
        parse_env_block(text, {})


@given(st.text(alphabet=st.characters(exclude_characters="\0"), max_size=200))
def test_any_value_survives_a_block(value: str) -> None:
    found, unset = parse_env_block("A<<gha-end\n%s\ngha-end" % value, {})
    assert (dict(found)["A"], unset) == (value, ())
