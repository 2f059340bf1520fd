from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.apptainer_args import ApptainerArgs, parse_apptainer_args
from gha_apptainer.domain.containers import Mount
from gha_apptainer.domain.errors import InputError, Refused


def parse(*args: str) -> ApptainerArgs:
    return parse_apptainer_args(args)


@pytest.mark.parametrize(
    "args, mounts",
    [
        (("-B", "/a"), (Mount("/a", "/a"),)),
        (("-B/a:/b",), (Mount("/a", "/b"),)),
        (("--bind", "/a:/b:ro,/c"), (Mount("/a", "/b", read_only=True), Mount("/c", "/c"))),
        (("--bind=/a:/b:rw",), (Mount("/a", "/b"),)),
        (("-B", r"/a\:b\,c:/d"), (Mount("/a:b,c", "/d"),)),
        (("--mount", "type=bind,source=/a,destination=/b,ro"), (Mount("/a", "/b", read_only=True),)),
        (("--mount=type=bind,src=/a,dst=/b",), (Mount("/a", "/b"),)),
    ],
)
def test_binds(args: tuple[str, ...], mounts: tuple[Mount, ...]) -> None:
    assert parse(*args).mounts == mounts


@pytest.mark.parametrize(
    "args", [("-B", "a:/b"), ("-B", ""), ("-B", "/a:/b:ro:x"), ("-B", "/a:b"), ("--mount", "type=bind,dst=/b"), ("-B",), ("x",)]
)
def test_binds_not_understood(args: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="apptainer-args"):
        parse(*args)


@pytest.mark.parametrize("args", [("-B", "/a:/b:image-src=/"), ("--mount", "type=bind,src=/a,dst=/b,image-src=/x")])
def test_bind_options_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(Refused):
        parse(*args)


@pytest.mark.parametrize(
    "flag", ["--no-home", "-e", "--cleanenv", "-c", "-C", "--containall", "--compat", "--writable-tmpfs", "-p", "--nv=true"]
)
def test_what_holds_anyway_is_accepted(flag: str) -> None:
    assert parse(flag) in (ApptainerArgs(), ApptainerArgs(gpu="nvidia"))


@pytest.mark.parametrize(
    "flag",
    [
        "--fakeroot",
        "-f",
        "--overlay",
        "-o",
        "--home=/x",
        "-H",
        "--security=uid:0",
        "--net",
        "--no-mount=tmp",
        "--config=/x",
        "--new-flag",
        "-Q",
        "-eC",
        "--nv=false",
    ],
)
def test_what_the_engine_owns_is_refused_by_name(flag: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(flag, "x")
    assert "--" in caught.value.what or flag in caught.value.what
    assert caught.value.remedy or "=" in flag


def test_gpus() -> None:
    assert parse("--nv").gpu == "nvidia"
    assert parse("--rocm").gpu == "rocm"
    with pytest.raises(InputError, match="exclude"):
        parse("--nv", "--rocm")


def test_environment_is_split_as_apptainer_splits_it() -> None:
    assert parse("--env", "A=1,B=2", "--env=C=").env == (("A", "1"), ("B", "2"), ("C", ""))
    assert parse("--env", '"A=1,2"').env == (("A", "1,2"),)
    with pytest.raises(InputError, match="'2' is no NAME=VALUE"):
        parse("--env", "A=1,2")


def test_the_name_of_the_input_is_told() -> None:
    with pytest.raises(Refused, match=r"^apptainer_args: --fakeroot"):
        parse_apptainer_args(("--fakeroot",), "apptainer_args")


@given(st.lists(st.text()))
def test_anything_is_understood_or_refused(args: list[str]) -> None:
    try:
        found = parse_apptainer_args(tuple(args))
    except (InputError, Refused):
        return
    assert all(one.target.startswith("/") and one.source.startswith("/") for one in found.mounts)
