"""Our frozen dataclasses behave as the standard library's do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Mapping, Tuple

import pytest
from hypothesis import given as drawn
from hypothesis import strategies

from gha_apptainer.domain import values
from gha_apptainer.domain.documents import from_plain, plain

SOURCE = Path(__file__).parents[3] / "src"


def classes(tools: Any) -> Any:
    field = tools.field

    @tools.dataclass(frozen=True)
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


KINDS = pytest.mark.parametrize("kind", [classes(dataclasses), classes(values)], ids=["standard", "ours"])
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


@dataclasses.dataclass(frozen=True)
class Standard:
    """A document of the standard's making."""

    name: str
    size: int = 3
    more: Mapping[str, str] = dataclasses.field(default_factory=dict)


@values.dataclass(frozen=True)
class Ours:
    """The same of ours."""

    name: str
    size: int = 3
    more: Mapping[str, str] = values.field(default_factory=dict)


@values.dataclass(frozen=True)
class Both:
    """A document that holds one of each."""

    KIND: ClassVar[str] = "both"
    ours: Ours
    standard: Standard = Standard("s")


def test_documents_hold_both_kinds() -> None:
    value = Both(Ours("a", 1, {"x": "y"}), Standard("b"))
    assert plain(value) == {"ours": {"name": "a", "size": 1, "more": {"x": "y"}}, "standard": {"name": "b", "size": 3, "more": {}}}
    assert from_plain(Both, plain(value)) == value
    assert from_plain(Both, {"ours": {"name": "a"}}) == Both(Ours("a"))


@pytest.mark.parametrize("kind", [Standard, Ours])
def test_our_tools_work_on_both(kind: Any) -> None:
    tools: Any = values
    made = kind("a")
    assert tools.is_dataclass(kind) and tools.is_dataclass(made)
    assert not tools.is_dataclass(str) and not tools.is_dataclass("a") and not tools.is_dataclass(Dict[str, str])
    for one in (kind, made):
        found = tools.fields(one)
        assert [(item.name, item.type, item.default) for item in found] == [
            ("name", "str", tools.MISSING),
            ("size", "int", 3),
            ("more", "Mapping[str, str]", tools.MISSING),
        ]
        assert [item.default_factory for item in found] == [tools.MISSING, tools.MISSING, dict]
    assert tools.replace(made, size=9, more={"x": "y"}) == kind("a", 9, {"x": "y"})
    for wrong, named in ((made, "other"), (kind, "name"), ("a", "name")):
        with pytest.raises(TypeError):
            tools.replace(wrong, **{named: "b"})


@pytest.mark.parametrize("kind", [Standard, Ours])
def test_copies_are_equal(kind: Any) -> None:
    made = kind("a", 1, {"x": "y"})
    assert copy.copy(made) == copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made


def test_it_inherits_methods_but_no_fields() -> None:
    class Named(Ours):
        """Not a value by itself."""

        def shout(self) -> str:
            return self.name.upper()

    assert Named("a").shout() == "A"
    assert dataclasses.replace(Named("a"), size=4) == Named("a", 4) != Ours("a", 4)
    assert [one.name for one in dataclasses.fields(Named)] == ["name", "size", "more"]
    with pytest.raises(TypeError, match="inherits"):
        values.dataclass(frozen=True)(Named)


@pytest.mark.parametrize("tools", [dataclasses, values], ids=["standard", "ours"])
def test_what_is_no_class_of_values_is_refused_at_once(tools: Any) -> None:
    def made(**body: Any) -> None:
        kinds = {name: "int" for name in body if name != "bare"}
        tools.dataclass(frozen=True)(type("Made", (), {"__annotations__": {**kinds, **body.pop("bare", {})}, **body}))

    made(size=3)
    with pytest.raises(TypeError):
        made(size=3, bare={"name": "str"})
    for mutable in ([], {}, set()):  # type: ignore[var-annotated]  # they hold nothing
        with pytest.raises(ValueError, match="default_factory"):
            made(size=mutable)
    with pytest.raises(ValueError):
        tools.field(default=1, default_factory=int)


def test_a_standard_field_does_not_become_a_value() -> None:
    with pytest.raises(TypeError, match="standard"):
        values.dataclass(frozen=True)(
            type("Made", (), {"__annotations__": {"more": "dict"}, "more": dataclasses.field(default_factory=dict)})
        )
    with pytest.raises(TypeError, match="frozen"):
        values.dataclass(frozen=False)


@pytest.mark.parametrize("tools", [dataclasses, values], ids=["standard", "ours"])
def test_equality_of_its_own_keeps_the_common_hash(tools: Any) -> None:
    class Alike:  # noqa: PLW1641  # the decorator gives it one
        """All are equal."""

        size: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Alike)

    made: Any = tools.dataclass(frozen=True)(Alike)
    assert made(1) == made(2)
    assert hash(made(1)) == hash(made(1))


SIMPLE = strategies.one_of(strategies.integers(), strategies.text(max_size=3), strategies.none(), strategies.tuples(strategies.booleans()))
SHAPES = strategies.lists(strategies.tuples(strategies.sampled_from(("required", "default", "factory")), SIMPLE), max_size=6)


def shaped(tools: Any, shape: Any) -> Any:
    body: Dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    for at, (how, value) in enumerate(shape):
        name = "field%d" % at
        body["__annotations__"][name] = "object"
        if how == "default":
            body[name] = tools.field(default=value) if at % 2 else value
        elif how == "factory":
            body[name] = tools.field(default_factory=lambda value=value: (value, 0))
    return tools.dataclass(frozen=True)(type("Shaped", (), body))


def outcome(act: Any) -> Any:
    try:
        return act()
    except (TypeError, ValueError, AttributeError) as error:
        return AttributeError if isinstance(error, AttributeError) else type(error)


@drawn(
    shape=SHAPES,
    given=strategies.lists(SIMPLE, max_size=7),
    named=strategies.dictionaries(strategies.sampled_from([*("field%d" % at for at in range(6)), "other"]), SIMPLE, max_size=4),
    changes=strategies.dictionaries(strategies.sampled_from(["field0", "field1", "other"]), SIMPLE, max_size=2),
)
def test_whatever_the_shape_it_does_what_the_standard_does(shape: Any, given: Any, named: Any, changes: Any) -> None:
    theirs, ours = (outcome(partial(shaped, tools, shape)) for tools in (dataclasses, values))
    if not isinstance(theirs, type) or not dataclasses.is_dataclass(theirs):
        assert ours == theirs
        return
    assert {name: theirs.__dict__.get(name) for name in theirs.__annotations__} == {
        name: ours.__dict__.get(name) for name in ours.__annotations__
    }
    for act in (
        lambda kind, _: repr(kind(*given, **named)),
        lambda kind, _: dataclasses.asdict(kind(*given, **named)),
        lambda kind, _: hash(kind(*given, **named)),
        lambda kind, _: kind(*given, **named) == kind(*given, **named),
        lambda kind, _: kind(*given, **named) == kind(**named),
        lambda kind, tools: repr(tools.replace(kind(*given, **named), **changes)),
        lambda kind, tools: [(one.name, one.type) for one in tools.fields(kind)],
        lambda kind, _: [one.name for one in dataclasses.fields(kind)],
        lambda kind, _: setattr(kind(*given, **named), "field0", 1),
    ):
        assert outcome(partial(act, theirs, dataclasses)) == outcome(partial(act, ours, values))


def test_the_standard_module_is_not_loaded() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from gha_apptainer.domain.containers import ExitStatus\n"
        "from gha_apptainer.domain.documents import from_json, to_json\n"
        "from gha_apptainer.domain.values import replace\n"
        "assert from_json(ExitStatus, to_json(replace(ExitStatus(1), reason='why'))) == ExitStatus(1, reason='why')\n"
        "assert not {'dataclasses', 'inspect', 'ast'} & set(sys.modules), sorted(sys.modules)\n"
    )
    argv = [sys.executable, "-I", "-S", "-B", "-c", program, str(SOURCE)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
