"""What the layout promises and import-linter cannot say."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "gha_apptainer"


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "base", "misc"])
def test_no_room_is_named_for_nothing(name: str) -> None:
    assert [str(path) for path in PACKAGE.rglob("*") if path.stem == name] == []


@pytest.mark.parametrize("package", sorted(str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("__init__.py")))
def test_each_package_states_its_purpose(package: str) -> None:
    text = (PACKAGE / package / "__init__.py").read_text(encoding="utf-8")
    assert text.lstrip().startswith('"""')
