from __future__ import annotations

import pytest

from gha_apptainer.domain.places import cache_directory, private_apptainer


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"HOME": "/h"}, "/h/.cache/gha-apptainer"),
        ({"HOME": "/h/"}, "/h/.cache/gha-apptainer"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/c/"}, "/c/gha-apptainer"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "relative"}, "/h/.cache/gha-apptainer"),
        ({"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/gha-apptainer"),
        ({"HOME": "/"}, "/.cache/gha-apptainer"),
        ({"HOME": "relative"}, ""),
        ({"HOME": ""}, ""),
        ({}, ""),
    ],
)
def test_the_cache_is_where_the_specification_says(environ: dict[str, str], wanted: str) -> None:
    assert cache_directory(environ) == wanted


def test_machines_of_several_kinds_share_a_home() -> None:
    both = {private_apptainer({"HOME": "/h"}, machine) for machine in ("x86_64", "aarch64")}
    assert len(both) == 2
    assert all(path.startswith("/h/.cache/gha-apptainer/apptainer-") and path.endswith("/bin/apptainer") for path in both)


def test_without_a_cache_there_is_no_private_apptainer() -> None:
    assert private_apptainer({}, "x86_64") == ""
