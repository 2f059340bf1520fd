"""Image references: every spelling that people use, one canonical form, errors that name what is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.image_refs import ImageRef, parse

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ubuntu:24.04", "docker://docker.io/library/ubuntu:24.04"),
        ("ubuntu", "docker://docker.io/library/ubuntu:latest"),
        ("docker://alpine:3.8", "docker://docker.io/library/alpine:3.8"),
        ("DOCKER://alpine:3.8", "docker://docker.io/library/alpine:3.8"),
        ("index.docker.io/team/tool", "docker://docker.io/team/tool:latest"),
        ("registry.hub.docker.com/debian:12", "docker://docker.io/library/debian:12"),
        ("team/tool", "docker://docker.io/team/tool:latest"),
        ("ghcr.io/team/sub/tool:v1", "docker://ghcr.io/team/sub/tool:v1"),
        ("localhost/tool", "docker://localhost/tool:latest"),
        ("localhost:5000/a/b@" + SHA, "docker://localhost:5000/a/b@" + SHA),
        ("host:5000/a/b:t@" + SHA, "docker://host:5000/a/b:t@" + SHA),
        ("[::1]:5000/a/b:t", "docker://[::1]:5000/a/b:t"),
        ("ubuntu@" + SHA, "docker://docker.io/library/ubuntu@" + SHA),
        ("oras://ghcr.io/team/tool.sif:1", "oras://ghcr.io/team/tool.sif:1"),
        ("/data/x.sif", "/data/x.sif"),
        ("file:///data//x/../y", "/data/y"),
        ("./dir", "./dir"),
        ("../up", "../up"),
        (".", "./."),
        ("tool.sif", "./tool.sif"),
        ("/odd:name@x", "/odd:name@x"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" ubuntu", "spaces"),
        ("ubuntu\n", "control"),
        ("Ubuntu", "lower case"),
        ("ghcr.io/Team/tool", "lower case"),
        ("a//b", "not valid"),
        ("a/b:", "no tag"),
        ("a:b:c", "no tag"),
        ("a:-x", "no tag"),
        ("a:" + "x" * 129, "128"),
        ("a@sha256:abc", "64"),
        ("a@sha512:" + "0" * 128, "sha256"),
        ("a@" + SHA.upper(), "sha256"),
        ("a@%s@%s" % (SHA, SHA), "sha256"),
        ("docker://", "no name"),
        ("docker://ghcr.io/", "no name"),
        ("library://a/b", "library://"),
        ("https://example.org/x.sif", "https://"),
        ("docker-daemon://x", "docker-daemon://"),
        ("file://x", "absolute"),
        ("ho_st:5000/a", "no registry"),
        ("x.y:port/a", "no registry"),
        ("a/" * 200 + "b", "255"),
    ],
)
def test_error_names_reference_and_reason(text: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert repr(text) in caught.value.what
    assert why in caught.value.what
    assert caught.value.remedy


def test_relative_paths_are_taken_from_the_directory_given() -> None:
    assert parse("../x.sif", "/a/b").path == "/a/x.sif"
    assert parse("tool.sif", "/a/b").path == "/a/b/tool.sif"


def test_directory_never_shadows_a_name() -> None:
    assert parse("ubuntu", "/somewhere/with/ubuntu").transport == "docker"


PARTS = some.from_regex(r"[a-z0-9]{1,8}(?:[._-][a-z0-9]{1,8})?", fullmatch=True)
REFS = some.builds(
    ImageRef,
    transport=some.sampled_from(["docker", "oras"]),
    registry=some.sampled_from(["ghcr.io", "localhost:5000", "127.0.0.1:80", "a-b.example.org"]),
    repository=some.lists(PARTS, min_size=1, max_size=4).map("/".join),
    tag=some.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    digest=some.sampled_from(["", SHA]),
)


@given(REFS)
def test_canonical_form_is_read_back(ref: ImageRef) -> None:
    assert parse(str(ref)) == ref


@given(some.text(max_size=60))
def test_any_text_is_a_reference_or_a_named_error(text: str) -> None:
    try:
        found = parse(text)
    except InputError as error:
        named = repr(text) in error.what
    else:
        named = parse(str(found)) == found
    assert named
