"""Documents: what is written is JSON as the standard module writes it, and annotations are read as they are meant."""

from __future__ import annotations

import json
from typing import Any, Dict, Mapping, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.containers import Args, ContainerSpec, Env, ExitStatus, Mount, Owner
from gha_apptainer.domain.document_reading import _parsed, annotated
from gha_apptainer.domain.documents import from_json, from_plain, plain, to_json, written
from gha_apptainer.domain.errors import Untrusted
from gha_apptainer.domain.images import Digest, Image, OciConfig
from gha_apptainer.domain.values import dataclass
from gha_apptainer.domain.verdicts import Verdict, Word

WORDS = st.text() | st.text(alphabet='ab"\\\n\x00\x7f\udc80é')
NUMBERS = st.integers() | st.floats(allow_nan=True, allow_infinity=True)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4)
)


@given(VALUES)
def test_what_is_written_is_what_json_writes(value: Any) -> None:
    assert written(value) == json.dumps(value, ensure_ascii=True)


def agree(text: str) -> bool:
    try:
        expected = repr(json.loads(text))
    except (ValueError, RecursionError):
        with pytest.raises(Untrusted):
            _parsed("some", text)
        return True
    return repr(_parsed("some", text)) == expected


@given(VALUES, st.sampled_from([None, 2]))
def test_what_is_read_is_what_json_reads(value: Any, indent: Optional[int]) -> None:
    assert agree(json.dumps(value, indent=indent))


@given(st.text(alphabet='{}[]",:\\ \n0123456789eE+-.nulltruefalsNaIity\\u00e9') | st.text())
def test_what_json_refuses_is_refused(text: str) -> None:
    assert agree(text)


@dataclass(frozen=True)
class Every:
    """A field of every kind of type."""

    word: str
    data: bytes
    number: int
    share: float
    flag: bool
    anything: object
    row: Args
    pairs: Env
    mounts: Tuple[Mount, ...]
    two: Tuple[int, str]
    table: Mapping[str, Tuple[int, ...]]
    named: Dict[str, Mount]
    maybe: Optional[Mount]
    perhaps: Mount | None
    verdict: Verdict


EVERY = Every(
    "w\udcff", b"\xff", 1, 2.0, True, None, ("a",), (("n", "v"),), (Mount("/a", "/b"),), (1, "x"), {"k": (1, 2)}, {"m": Mount("/c", "/d")},
    None, Mount("/e", "/f"), Verdict(Word.OOM, 137, "c", "r", {"peak": 1}),
)  # fmt: skip


def test_every_kind_of_type_survives() -> None:
    assert from_json(Every, to_json(EVERY)) == EVERY


def changed(name: str, value: Any) -> Dict[str, Any]:
    return {**plain(EVERY), name: value}


@pytest.mark.parametrize(
    "name, value",
    [
        ("word", 1), ("data", 1), ("number", True), ("number", 1.0), ("share", "1"), ("flag", 1), ("row", ["a", 1]), ("row", "a"),
        ("pairs", [["n"]]), ("pairs", [["n", "v", "w"]]), ("mounts", [{}]), ("two", [1]), ("table", []), ("table", {"k": [1, "2"]}),
        ("named", {"m": 1}), ("maybe", 0), ("perhaps", []), ("verdict", {"word": "GREEN"}),
    ],
)  # fmt: skip
def test_what_is_of_another_type_is_refused_by_its_place(name: str, value: Any) -> None:
    with pytest.raises(Untrusted, match="Every." + name):
        from_plain(Every, changed(name, value))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "nul", "[" * 100_000, '{"exit_code": NaN}', '{"exit_code": 0, "more": 1}'])
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(Untrusted):
        from_json(ExitStatus, text)


@pytest.mark.parametrize(
    "text", ["", "Tuple[", "Tuple[int", "Tuple[int]]", "int | str", "Callable[[int], str]", "Unknown", "Optional[Nothing]"]
)
def test_a_type_that_documents_cannot_hold_is_a_defect_not_a_guess(text: str) -> None:
    with pytest.raises(TypeError):
        annotated(text, {})


def test_standard_generics_are_understood_too() -> None:
    for kind in (Tuple[int, ...], tuple[int, ...], Mapping[str, int], Dict[str, int], Optional[int]):
        assert annotated(kind, {}) is not None
    with pytest.raises(TypeError):
        annotated(set[int], {})


def test_a_containers_spec_survives() -> None:
    image = Image(
        "ubuntu", Digest("sha256:" + "0" * 64, "manifest"), OciConfig(cmd=("sh", "-c", 'echo "$HOME"\n')), "/x", "sandbox", "store"
    )
    spec = ContainerSpec(image, Owner("h", "b", "cli", 1, 2), labels={"a": "ü"}, mounts=(Mount("v", "/v", kind="volume"),))
    assert from_json(ContainerSpec, to_json(spec)) == spec
    assert json.loads(to_json(spec)) == json.loads(to_json(spec, indent=2))
