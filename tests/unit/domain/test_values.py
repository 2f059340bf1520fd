"""Our frozen dataclasses behave as the standard library's do."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from functools import partial
from typing import Any, ClassVar, Dict, List, Mapping, Tuple

import pytest

from gha_apptainer.domain import values


def classes(decorate: Any) -> Any:
    @decorate(frozen=True)
    class Value:
        """A value."""

        KIND: ClassVar[int] = 7
        name: str
        size: int = 3
        more: Mapping[str, str] = field(default_factory=dict)

        @property
        def twice(self) -> int:
            """Twice the size."""
            return 2 * self.size

    return Value


KINDS = pytest.mark.parametrize("kind", [classes(dataclasses.dataclass), classes(values.dataclass)], ids=["standard", "ours"])
GIVEN: List[Tuple[Tuple[Any, ...], Dict[str, Any]]] = [
    (("a",), {}),
    ((), {"name": "a"}),
    (("a", 4, {"x": "y"}), {}),
    (("a",), {"more": {}, "size": 1}),
]


@KINDS
@pytest.mark.parametrize("given, named", GIVEN)
def test_it_is_made_from_values_by_place_or_name(kind: Any, given: Tuple[Any, ...], named: Dict[str, Any]) -> None:
    made = kind(*given, **named)
    assert dataclasses.astuple(made) == (
        "a",
        named.get("size", (*given, 0, 3)[1] if len(given) > 1 else 3),
        (*given, {})[2] if len(given) > 2 else {},
    )
    assert made.twice == 2 * made.size
    assert kind.KIND == 7


@KINDS
@pytest.mark.parametrize(
    "given, named", [((), {}), (("a", 1, {}, 2), {}), (("a",), {"other": 1}), (("a",), {"name": "b"}), ((), {"size": 1})]
)
def test_what_cannot_be_made_is_a_type_error(kind: Any, given: Tuple[Any, ...], named: Dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        kind(*given, **named)


@KINDS
def test_it_is_frozen(kind: Any) -> None:
    made = kind("a")
    for act in (partial(setattr, made, "name", "b"), partial(setattr, made, "new", 1), partial(delattr, made, "name")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            act()
    assert made == kind("a")


@KINDS
def test_equal_values_are_equal_and_hash_alike(kind: Any) -> None:
    assert kind("a") == kind("a", 3, {})
    assert kind("a") != kind("a", 4)
    assert kind("a") != ("a", 3, {})
    assert hash(kind("a", 3, ())) == hash(kind("a", more=()))
    with pytest.raises(TypeError):
        hash(kind("a"))


@KINDS
def test_factories_make_a_new_value_each_time(kind: Any) -> None:
    assert kind("a").more is not kind("a").more


@KINDS
def test_the_standard_tools_work_on_it(kind: Any) -> None:
    made = kind("a")
    assert hasattr(kind, "__dataclass_fields__")
    assert [one.name for one in dataclasses.fields(made)] == ["name", "size", "more"]
    assert dataclasses.replace(made, size=9) == kind("a", 9)
    assert dataclasses.asdict(made) == {"name": "a", "size": 3, "more": {}}
    assert repr(made) == "classes.<locals>.Value(name='a', size=3, more={})"


@pytest.mark.parametrize("decorate", [dataclasses.dataclass, values.dataclass])
def test_post_init_and_methods_of_its_own_stay(decorate: Any) -> None:

    @decorate(frozen=True)
    class Checked:
        """A value that checks itself."""

        size: int

        def __post_init__(self) -> None:
            if self.size < 0:
                raise ValueError("negative")

        def __repr__(self) -> str:
            return "***"

    checked: Any = Checked
    assert repr(checked(1)) == "***"
    with pytest.raises(ValueError, match="negative"):
        checked(-1)
