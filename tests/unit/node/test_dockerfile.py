"""Whole Dockerfiles: what is read, what it comes to, and what is refused with its line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.errors import GhaError, InputError, Refused
from gha_apptainer.domain.images import OciConfig
from gha_apptainer.node.dockerfile.actions import Action, Copy, MakeDirectory, Run
from gha_apptainer.node.dockerfile.evaluation import Given, State, evaluate
from gha_apptainer.node.dockerfile.lines import read_lines
from gha_apptainer.node.dockerfile.stages import Dockerfile, read_dockerfile, triggered
from gha_apptainer.node.dockerfile.table import INSTRUCTIONS


def read(text: str, **args: str) -> Dockerfile:
    return read_dockerfile(text, "Dockerfile", args, {})


def played(text: str, config: OciConfig | None = None, **args: str) -> tuple[State, list[Action]]:
    """The last stage, from a given base."""
    found = read(text, **args)
    state, actions = State(config or OciConfig(), given=Given(args, found.meta)), []
    for step in found.stages[-1].steps:
        state, action = evaluate(step, state)
        if action is not None:
            actions.append(action)
    return state, actions


def config(text: str, base: OciConfig | None = None, **args: str) -> OciConfig:
    return played("FROM x\n" + text, base, **args)[0].config


def action(text: str, **args: str) -> Any:
    return played("FROM x\n" + text, None, **args)[1][-1]


# lines


def rows(text: str) -> list[tuple[int, str, str]]:
    return [(line.number, line.keyword, line.rest) for line in read_lines(text, "f").lines]


def test_lines_comments_and_continuation() -> None:
    assert rows("# c\n\n  from  x  \nRUN a \\\n  # inside\n\n  b \\ \n c\nrun d\\\\\nUSER \\\n u\n") == [
        (3, "FROM", "x"),
        (4, "RUN", "a   b  c"),
        (9, "RUN", "d\\\\"),
        (10, "USER", "u"),
    ]


@pytest.mark.parametrize("text", ["FROM x\r\nRUN a \\\r\n b\r\n", "\ufeffFROM x\nRUN a \\\n b", "FROM x\nRUN a \\\n b\\"])
def test_line_ends(text: str) -> None:
    assert rows(text)[0][2].split() == ["x"]
    assert rows(text)[1][2].rstrip("\\").split() == ["a", "b"]


def test_the_escape_directive() -> None:
    assert rows("# escape=`\nFROM x\nRUN a `\n b\\\nRUN c") == [(2, "FROM", "x"), (3, "RUN", "a  b\\"), (5, "RUN", "c")]
    assert rows("# just a comment\n# escape=`\nFROM x\nRUN a \\\n b")[1] == (4, "RUN", "a  b"), "a directive stands at the top"


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("# escape=x\nFROM a", "f:1:", "only \\ and `"),
        ("# syntax=OWNER/other:1\nFROM a", "f:1:", "other languages"),
        ("# escape=`\n# escape=`\nFROM a", "f:2:", "twice"),
        ("FROM a\nRUN <<EOF\nx\n", "f:2:", "EOF has no line that ends it"),
        ("FROM a\nCOPY <<A <<B /x/\n1\nA\n2\n", "f:2:", "B has no line"),
    ],
)
def test_what_is_wrong_with_a_line_is_told(text: str, where: str, why: str) -> None:
    with pytest.raises((InputError, Refused)) as failed:
        read_lines(text, "f")
    assert failed.value.what.startswith(where)
    assert why in failed.value.what


@pytest.mark.parametrize("name", ["docker/dockerfile:1", "docker.io/docker/dockerfile:1.7-labs", "docker/dockerfile-upstream:master"])
def test_dockers_own_language_is_read(name: str) -> None:
    assert rows("# syntax=%s\nFROM a" % name)


def test_here_documents_and_what_looks_like_them() -> None:
    text = "FROM a\nRUN cat <<A <<-'B' 3<<C\n1 \\\n# no comment\nA\n\tx\n\tB\nc\nC\nRUN echo '<<no' \"<<no\" a<<b $((1<<2))\nUSER <<EOF\n"
    found = read_lines(text, "f").lines
    assert [(one.name, one.content, one.expand) for one in found[1].heredocs] == [
        ("A", "1 \\\n# no comment\n", True),
        ("B", "x\n", False),
        ("C", "c\n", True),
    ]
    assert found[2].heredocs == ()
    assert found[3].heredocs == ()


# stages


def test_stages_and_what_a_target_needs() -> None:
    text = """
ARG V=1
FROM base:$V AS One
FROM one as two
FROM other AS unused
RUN false
FROM third AS four
RUN --mount=type=bind,from=two,target=/x true
COPY --from=0 /a /b
FROM four
"""
    found = read(text, V="2")
    assert [stage.title for stage in found.stages] == ["one", "two", "unused", "four", "stage-4"]
    assert found.stages[0].base == "base:2"
    assert [stage.parent for stage in found.stages] == [-1, 0, -1, -1, 3]
    assert [stage.title for stage in found.needed(found.target(""))] == ["one", "two", "four", "stage-4"]
    assert [stage.title for stage in found.needed(found.target("TWO"))] == ["one", "two"]
    assert found.target("2").title == "unused"
    with pytest.raises(InputError, match="no stage 'nosuch'"):
        found.target("nosuch")


def test_a_later_stage_of_the_same_name_is_not_meant() -> None:
    found = read("FROM a\nCOPY --from=b /x /x\nFROM c AS b\n")
    assert [stage.number for stage in found.needed(found.stages[0])] == [0]


WRONG = [
    ("", 0, "there is no FROM"),
    ("RUN x\nFROM a", 1, "before the first FROM"),
    ("FROM", 1, "no arguments"),
    ("FROM a b", 1, "it takes an image"),
    ("FROM a AS 1x", 1, "is no name for a stage"),
    ("FROM a AS b\nFROM c AS B", 2, "two stages are named b"),
    ("FROM a AS scratch", 1, "cannot be named"),
    ("FROM $NOSUCH", 1, "is empty text"),
    ("FROM ${A", 1, "without its }"),
    ("FROM a\nRUNN x", 2, "unknown instruction RUNN"),
    ("FROM a\n\nCOPY x", 3, "at least one source and a target"),
    ("FROM a\nCOPY --nosuch=1 a b", 2, "unknown flag --nosuch"),
    ("FROM a\nCOPY --from=$X a b", 2, "variables are not replaced there"),
    ("FROM a\nCOPY --chown=1 --chown=2 a b", 2, "given twice"),
    ("FROM a\nENV a b c\nENV =x", 3, "has no name"),
    ("FROM a\nENV a=1 b", 2, "not NAME=VALUE"),
    ("FROM a\nENV a", 2, "a name and a value"),
    ('FROM a\nCMD ["a", 1]', 2, "other things than texts"),
    ("FROM a\nSHELL sh -c", 2, "JSON array"),
    ("FROM a\nSHELL []", 2, "JSON array"),
    ("FROM a\nONBUILD FROM b", 2, "cannot be a trigger"),
    ("FROM a\nONBUILD NOSUCH x", 2, "unknown instruction NOSUCH"),
    ("FROM a\nRUN", 2, "no arguments"),
    ("FROM a\nRUN --mount=type=nosuch x", 2, "unknown flag"),
]


@pytest.mark.parametrize(("text", "line", "why"), WRONG)
def test_what_is_wrong_is_told_before_anything_is_done(text: str, line: int, why: str) -> None:
    with pytest.raises(InputError) as failed:
        read(text)
    assert why in failed.value.what
    if line:
        assert failed.value.what.startswith("Dockerfile:%d: " % line)


REFUSED = [
    ("RUN --mount=type=ssh x", "type=ssh"),
    ("RUN --security=insecure x", "security=insecure"),
    ("RUN --device=vendor/a x", "device"),
    ("ADD --keep-git-dir=true a b", "keep-git-dir"),
]


@pytest.mark.parametrize(("text", "name"), REFUSED)
def test_what_is_not_done_is_refused_with_its_line(text: str, name: str) -> None:
    with pytest.raises(Refused) as failed:
        read("FROM a\n\n%s\n" % text)
    assert failed.value.what.startswith("Dockerfile:3: ")
    assert name in failed.value.what


WRONG_LATER = [
    ("EXPOSE 0", "is no port"),
    ("EXPOSE 80/icmp", "is no port"),
    ("EXPOSE 9-8", "is no port"),
    ("STOPSIGNAL NOSUCH", "NOSUCH"),
    ("USER $NOSUCH", "empty text"),
    ("COPY $NOSUCH b", "empty text"),
    ("COPY a b /target", "end it with /"),
    ("COPY --chmod=9 a b", "neither octal nor symbolic"),
    ("COPY --link=maybe a b\nCOPY --parents=maybe a b", "neither true nor false"),
    ("ADD --checksum=md5:x http://h/x y", "no sha256"),
    ("ADD --checksum=sha256:%s a y" % ("0" * 64), "one source that is an address"),
    ("RUN []", "empty array"),
    ("RUN --mount=type=bind x", "has no target"),
    ("RUN --mount=type=cache,target=/ x", "would hide the image"),
    ("RUN --mount=type=cache,target=/x,from=y z", "does not take from"),
    ("RUN --mount=type=cache,target=/x,sharing=some z", "shared, private or locked"),
    ("RUN --mount=type=secret x", "neither id nor target"),
    ("RUN --mount=type=tmpfs,target=/x,size=much z", "much"),
    ("RUN --mount=target=/x --mount=type=tmpfs,target=/x z", "two mounts"),
    ("RUN --mount=target=/x,from=$Y z", "variables are not replaced"),
    ("HEALTHCHECK x", "NONE, or CMD"),
    ("HEALTHCHECK CMD", "NONE, or CMD"),
    ("HEALTHCHECK --interval=soon CMD x", "no duration"),
    ("HEALTHCHECK --retries=x CMD x", "no number"),
    ("VOLUME $NOSUCH", "without a path"),
    ("ENV $NOSUCH=1", "is no name"),
]


@pytest.mark.parametrize(("text", "why"), WRONG_LATER)
def test_what_only_the_values_show_is_told_with_its_line(text: str, why: str) -> None:
    with pytest.raises(InputError) as failed:
        config(text)
    told = failed.value.what + failed.value.remedy
    keyword = text.splitlines()[-1].split(" ", maxsplit=1)[0]
    assert failed.value.what.startswith("Dockerfile:%d: %s" % (2 + text.count("\n"), keyword))
    assert why in told


@pytest.mark.parametrize(
    "source", ["git@github.com:OWNER/x.git", "https://github.com/OWNER/x.git#main", "git://host/x", "ssh://git@host/x"]
)
def test_git_repositories_are_refused(source: str) -> None:
    with pytest.raises(Refused) as failed:
        config("ADD %s /x" % source)
    assert failed.value.what.startswith("Dockerfile:2: ADD: %s is a git repository" % source)


# variables


@pytest.mark.parametrize(
    ("text", "args", "env"),
    [
        ("ENV A=1 B=$A", {}, {"A": "1", "B": ""}),
        ("ENV A=1\nENV B=$A A=2 C=$A", {}, {"A": "2", "B": "1", "C": "1"}),
        ("ENV A one  two ", {}, {"A": "one  two"}),
        ("ENV A='x y' B=\"$HOME\" C=a\\ b", {}, {"A": "x y", "B": "", "C": "a b"}),
        ("ARG A=1\nENV B=$A", {}, {"B": "1"}),
        ("ARG A=1\nENV B=$A", {"A": "2"}, {"B": "2"}),
        ("ARG A\nENV B=$A", {}, {"B": ""}),
        ("ENV B=$A", {"A": "2"}, {"B": ""}),
        ("ARG A=1 B=$A\nENV C=$B", {}, {"C": "1"}),
        ("ENV A=env\nARG A=arg\nENV B=$A", {"A": "given"}, {"A": "env", "B": "env"}),
        ("ARG A=arg\nENV A=${A:-x}y\nENV B=$A", {}, {"A": "argy", "B": "argy"}),
        ("ENV a.b-c=1", {}, {"a.b-c": "1"}),
        ("ENV A=", {}, {"A": ""}),
    ],
)
def test_variables(text: str, args: dict[str, str], env: dict[str, str]) -> None:
    assert dict(config(text, None, **args).env) == env


def test_arguments_before_the_first_from_reach_a_stage_that_asks_for_them() -> None:
    assert dict(played("ARG V=1\nARG W=$V.0\nFROM x\nARG W\nENV A=$W B=$V")[0].config.env) == {"A": "1.0", "B": ""}
    assert dict(played("ARG V=1\nFROM x\nARG V=own\nENV A=$V")[0].config.env) == {"A": "own"}
    assert dict(played("ARG V=1\nFROM x\nARG V\nENV A=$V", V="given")[0].config.env) == {"A": "given"}


def test_the_environment_of_a_command() -> None:
    run: Run = action("ARG A=1\nARG E=arg\nENV E=env\nRUN x", HTTP_PROXY="p", A="2", UNDECLARED="no")
    assert dict(run.env) == {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A": "2", "E": "env"}
    assert dict(run.unseen) == {"HTTP_PROXY": "p"}
    assert dict(action("ARG HTTP_PROXY\nRUN x", HTTP_PROXY="p").unseen) == {}, "one that is declared counts"


# configuration


def test_commands_and_shells() -> None:
    assert config("CMD a b").cmd == ("/bin/sh", "-c", "a b")
    assert config('CMD ["a","$b"]').cmd == ("a", "$b")
    assert config("CMD [a]").cmd == ("/bin/sh", "-c", "[a]")
    assert config('SHELL ["bash","-ec"]\nCMD a').cmd == ("bash", "-ec", "a")
    assert config("ENTRYPOINT a").entrypoint == ("/bin/sh", "-c", "a")
    base = OciConfig(entrypoint=("e",), cmd=("c",), env=(("A", "1"),))
    assert config('ENTRYPOINT ["x"]', base) == OciConfig(entrypoint=("x",), cmd=(), env=(("A", "1"),))
    assert config('CMD ["y"]\nENTRYPOINT ["x"]', base).cmd == ("y",)
    assert config("ENTRYPOINT []", base).entrypoint == ()


def test_the_rest_of_the_configuration() -> None:
    found = config('WORKDIR /a\nWORKDIR b/../c\nUSER u:g\nVOLUME /v w\nVOLUME ["/x y"]\nEXPOSE 80 443/TCP 8000-8002/udp $P\nSTOPSIGNAL 9')
    assert (found.workdir, found.user, found.stop_signal) == ("/a/c", "u:g", "SIGKILL")
    assert found.volumes == ("/v", "w", "/x y")
    assert found.ports == ("80/tcp", "443/tcp", "8000/udp", "8001/udp", "8002/udp")
    assert dict(config("LABEL a=1 b='x y'\nLABEL a=2\nMAINTAINER somebody").labels) == {"a": "2", "b": "x y", "maintainer": "somebody"}
    health = config('HEALTHCHECK --interval=1m30s --timeout=500ms --start-period=2s --retries=3 CMD ["a", "b"]').healthcheck
    assert health is not None
    assert (health.test, health.interval, health.timeout, health.start_period, health.retries) == (("CMD", "a", "b"), 90.0, 0.5, 2.0, 3)
    none = config("HEALTHCHECK NONE").healthcheck
    assert none is not None
    assert none.test == ("NONE",)


def test_triggers_are_kept_and_read_again() -> None:
    found = config("ONBUILD RUN --network=none a\nONBUILD COPY <<EOF /x\ntext $A\nEOF")
    assert found.onbuild == ("RUN --network=none a", "COPY <<EOF /x\ntext $A\nEOF")
    steps = triggered(found.onbuild, "Dockerfile", 1)
    assert [(one.line, one.keyword) for one in steps] == [(1, "RUN"), (1, "COPY")]
    assert steps[1].heredocs[0].content == "text $A\n"
    with pytest.raises(InputError, match="Dockerfile:1: ONBUILD FROM"):
        triggered(("FROM x",), "Dockerfile", 1)


# actions


def test_commands() -> None:
    assert action("RUN a $B").argv == ("/bin/sh", "-c", "a $B")
    assert action('RUN ["a", "$B"]').argv == ("a", "$B")
    assert action("RUN <<EOF\na\nb\nEOF").argv == ("/bin/sh", "-c", "a\nb\n")
    assert action("RUN <<EOF python3 -\nx\nEOF").argv == ("/bin/sh", "-c", "<<EOF python3 -\nx\nEOF\n")
    script: Run = action("RUN <<EOF\n#!/usr/bin/env python3\nx\nEOF")
    assert (script.argv, script.script) == ((), "#!/usr/bin/env python3\nx\n")
    assert action("USER u\nWORKDIR /w\nRUN --network=none a").network == "none"
    assert (action("USER u\nWORKDIR /w\nRUN a").user, action("USER u\nWORKDIR /w\nRUN a").cwd) == ("u", "/w")
    assert action("WORKDIR /w\nWORKDIR x") == MakeDirectory("/w/x")


def test_mounts() -> None:
    one = action("ARG T=/t\nRUN --mount=type=cache,target=$T,'\"id=a,b\"',mode=0700,uid=3 --mount=target=x,rw,src=/s,from=y x").mounts
    assert (one[0].kind, one[0].target, one[0].id, one[0].mode, one[0].owner, one[0].read_only) == (
        "cache",
        "/t",
        "a,b",
        0o700,
        (3, 0),
        False,
    )
    assert (one[1].kind, one[1].target, one[1].source, one[1].origin, one[1].read_only) == ("bind", "/x", "/s", "y", False)
    two = action("RUN --mount=type=secret,id=s --mount=type=secret,id=e,env=E --mount=type=tmpfs,dst=/m,size=1m x").mounts
    assert (two[0].target, two[1].target, two[1].variable, two[2].size) == ("/run/secrets/s", "", "E", 1 << 20)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("COPY a b", Copy(("a",), "/b", owner="")),
        ("COPY a b/ c/", Copy(("a", "b/"), "/c/")),
        ('COPY ["a b", "c"]', Copy(("a b",), "/c")),
        ("WORKDIR /w\nCOPY a .", Copy(("a",), "/w/")),
        ("WORKDIR /w\nCOPY a ./x/", Copy(("a",), "/w/x/")),
        ("WORKDIR /w\nCOPY a ../../..", Copy(("a",), "/")),
        ("ENV D=/d\nCOPY ${D}/x $D/", Copy(("/d/x",), "/d/")),
        ("COPY --from=s --chown=u:g --chmod=755 a /b", Copy(("a",), "/b", origin="s", owner="u:g", mode="755")),
        ("COPY --parents --exclude=*.c --exclude=x a /b/", Copy(("a",), "/b/", parents=True, exclude=("*.c", "x"))),
        ("ENV A=1\nCOPY <<X <<'Y' /d/\n$A's\nX\n$A\nY", Copy((), "/d/", files=(("X", "1's\n"), ("Y", "$A\n")))),
        ("ADD http://h/x /y", Copy(("http://h/x",), "/y", add=True)),
        ("ADD --unpack=false a /y", Copy(("a",), "/y", add=True, unpack=False)),
        ("ADD --unpack a /y", Copy(("a",), "/y", add=True, unpack=True)),
    ],
)
def test_copies(text: str, wanted: Copy) -> None:
    assert action(text) == wanted


# whatever comes


WORD = st.text(st.sampled_from("ab$\\'\"{}[]:-=,<>#/.\t 1`"), max_size=25)
LINE = st.one_of(WORD, st.builds(lambda word, rest: word + " " + rest, st.sampled_from(sorted(INSTRUCTIONS)), WORD))


@given(st.lists(LINE, max_size=6))
def test_every_file_is_read_or_refused_with_its_name(lines: list[str]) -> None:
    what = "Dockerfile:"
    try:
        played("\n".join(["FROM x", *lines]))
    except GhaError as error:
        what = error.what
    assert what.startswith("Dockerfile:")


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8), min_size=1, max_size=6))
def test_lines_that_go_on_are_one(words: list[str]) -> None:
    assert read_lines("FROM x\nRUN " + " \\\n# c\n".join(words), "f").lines[1].rest.split() == words
