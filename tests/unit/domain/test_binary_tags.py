"""BINARY_TAG: public tags are understood, others are refused by the part that is wrong."""

import pytest

from gha_apptainer.domain.binary_tags import parse
from gha_apptainer.domain.errors import InputError


@pytest.mark.parametrize(
    ("text", "machine", "level", "os", "compiler", "major", "glibc", "optimised", "debug"),
    [
        ("x86_64_v3-el9-gcc13-opt+g", "x86_64", 3, "el9", "gcc", 13, (2, 34), True, True),
        ("x86_64_v2-el9-gcc13+detdesc-opt", "x86_64", 2, "el9", "gcc", 13, (2, 34), True, False),
        ("x86_64_v2-centos7-gcc11-opt", "x86_64", 2, "centos7", "gcc", 11, (2, 17), True, False),
        ("x86_64-centos7-gcc9-dbg", "x86_64", 2, "centos7", "gcc", 9, (2, 17), False, True),
        ("x86_64-slc6-gcc49-opt", "x86_64", 1, "slc6", "gcc", 4, (2, 12), True, False),
        ("x86_64-slc6-gcc62-opt", "x86_64", 2, "slc6", "gcc", 6, (2, 12), True, False),
        ("x86_64+avx2+fma-centos7-gcc8-opt", "x86_64", 3, "centos7", "gcc", 8, (2, 17), True, False),
        ("skylake_avx512-el9-gcc12+cuda12_4-opt+g", "x86_64", 4, "el9", "gcc", 12, (2, 34), True, True),
        ("haswell-el9-clang16-do0", "x86_64", 3, "el9", "clang", 16, (2, 34), False, True),
        ("armv8.1_a-el9-gcc13-opt", "aarch64", 0, "el9", "gcc", 13, (2, 34), True, False),
        ("x86_64-someos-gcc-opt", "x86_64", 2, "someos", "gcc", 0, None, True, False),
    ],
)
def test_a_tag_is_taken_apart(
    text: str, machine: str, level: int, os: str, compiler: str, major: int, glibc: object, optimised: bool, debug: bool
) -> None:
    tag = parse(text)
    assert (tag.text, tag.machine, tag.level, tag.os, tag.compiler, tag.major) == (text, machine, level, os, compiler, major)
    assert (tag.glibc, tag.optimised, tag.debug) == (glibc, optimised, debug)


def test_layers_and_flags_are_kept() -> None:
    tag = parse("x86_64+avx2-el9-gcc13+cuda12_4+detdesc-opt")
    assert (tag.flags, tag.layers) == (("avx2",), ("cuda12_4", "detdesc"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it has 1 parts"),
        ("x86_64-el9-gcc13", "it has 3 parts"),
        ("x86_64-el9-gcc13-opt-g", "it has 5 parts"),
        ("x86_64--gcc13-opt", "not 4"),
        ("sparc-el9-gcc13-opt", "no processor is named 'sparc'"),
        ("x86_64_v5-el9-gcc13-opt", "no processor is named 'x86_64_v5'"),
        ("x86_64+mmx9-el9-gcc13-opt", "no processor flag is named 'mmx9'"),
        ("aarch64+sve-el9-gcc13-opt", "flags of ARM"),
        ("x86_64-el9-tcc1-opt", "no compiler is named 'tcc1'"),
        ("x86_64-el9-gcc13-fast", "no build is named 'fast'"),
        ("x86_64-el9-gcc13-opt+x", "no suffix of a build is named 'x'"),
        ("x86_64-el 9-gcc13-opt", "'el 9' is no word"),
    ],
)
def test_what_is_no_tag_is_told_by_the_part_that_is_wrong(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert told in caught.value.what
