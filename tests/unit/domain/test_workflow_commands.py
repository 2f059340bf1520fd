from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.workflow_commands import command, harmless, masks


def test_escaping() -> None:
    assert command("error", "50%\r\nline", {"title": "a:b,c%", "file": ""}) == "::error title=a%3Ab%2Cc%25::50%25%0D%0Aline"
    assert command("endgroup") == "::endgroup::"


@given(st.text(), st.text(min_size=1))
def test_a_command_is_one_line_and_its_properties_end_where_they_should(message: str, title: str) -> None:
    text = command("warning", message, {"title": title})
    assert "\n" not in text
    assert "\r" not in text
    inside = text[len("::warning title=") :].partition("::")
    assert inside[1] == "::"
    assert "," not in inside[0]


@pytest.mark.parametrize(
    "secret, expected",
    [
        ("hunter2", ("hunter2",)),
        ("", ()),
        ("  ", ()),
        ("line one\nline two", ("line one\nline two", "line one", "line two")),
        ('{\n  "key": "value"\n}', ('  "key": "value"',)),
        ("ab", ("ab",)),
    ],
)
def test_masks_never_hide_trivial_lines(secret: str, expected: tuple[str, ...]) -> None:
    assert masks(secret) == expected


@pytest.mark.parametrize("text", ["::error::x", "  ::set-output name=a::b", "a ##[command]x", "\t::stop-commands::x"])
def test_words_of_others_are_no_commands(text: str) -> None:
    found = harmless(text)
    assert not found.strip().startswith("::")
    assert "##[" not in found
