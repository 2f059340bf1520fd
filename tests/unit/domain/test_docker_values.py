from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain import docker_values as values
from gha_apptainer.domain.containers import ANONYMOUS, BIND, TMPFS, VOLUME, Mount
from gha_apptainer.domain.errors import InputError, Refused


def quiet(text: str) -> None:
    raise AssertionError("unexpected warning: " + text)


@pytest.mark.parametrize(
    "text, mount",
    [
        ("/in", Mount("", "/in", kind=ANONYMOUS)),
        ("data:/in", Mount("data", "/in", kind=VOLUME)),
        ("data:/in:ro", Mount("data", "/in", kind=VOLUME, read_only=True)),
        ("/out:/in", Mount("/out", "/in", kind=BIND, create=True)),
        ("/out:/in:rw,z", Mount("/out", "/in", kind=BIND, create=True)),
        ("/out:/in:ro,Z,cached,rprivate,nocopy", Mount("/out", "/in", kind=BIND, create=True, read_only=True)),
        ("/out:/in/../x//y/", Mount("/out", "/x/y", kind=BIND, create=True)),
        (".:/in", Mount("/here", "/in", kind=BIND, create=True)),
        ("./a/b:/in", Mount("/here/a/b", "/in", kind=BIND, create=True)),
        ("../a:/in", Mount("/a", "/in", kind=BIND, create=True)),
    ],
)
def test_volumes(text: str, mount: Mount) -> None:
    assert values.volume("-v", text, "/here", quiet) == mount


@pytest.mark.parametrize(
    "text", ["", ":", "a:", ":/in", "/a:/b:", "/a:/b:ro:z", "/a:b", "in", "/a:/", "/a:/..", "~/x:/in", "a/b:/in", "x:/in"]
)
def test_volumes_not_understood(text: str) -> None:
    with pytest.raises(InputError, match=r"^-v: "):
        values.volume("-v", text, "/here", quiet)


@pytest.mark.parametrize("mode", ["ro,rw", "z,Z", "what", "", "cached,delegated", "RO"])
def test_volume_options_not_understood(mode: str) -> None:
    with pytest.raises(InputError):
        values.volume("-v", "/a:/b:%s" % mode, "/", quiet)


def test_propagation_is_approximate() -> None:
    said: list[str] = []
    values.volume("-v", "/cvmfs:/cvmfs:rshared", "/", said.append)
    values.mount("--mount", "type=bind,src=/a,dst=/b,bind-propagation=rslave", "/", said.append)
    assert len(said) == 2


@pytest.mark.parametrize(
    "text, mount",
    [
        ("type=bind,source=/a,target=/b", Mount("/a", "/b")),
        ("type=bind,src=/a,dst=/b,ro", Mount("/a", "/b", read_only=True)),
        ("TYPE=bind,src=./a,destination=/b,readonly=true", Mount("/here/a", "/b", read_only=True)),
        ("type=bind,src=/a,dst=/b,readonly=0,consistency=cached", Mount("/a", "/b")),
        ('type=bind,"src=/a,b",dst=/c', Mount("/a,b", "/c")),
        ('type=bind,"src=/say ""hi""",dst=/c', Mount('/say "hi"', "/c")),
        ("src=data,dst=/c", Mount("data", "/c", kind=VOLUME)),
        ("type=volume,dst=/c,volume-nocopy", Mount("", "/c", kind=ANONYMOUS)),
        ("type=tmpfs,dst=/c,tmpfs-size=2k,tmpfs-mode=0755", Mount("", "/c", kind=TMPFS, size=2048, mode=0o755)),
        ("type=tmpfs,dst=/c", Mount("", "/c", kind=TMPFS)),
    ],
)
def test_mounts(text: str, mount: Mount) -> None:
    assert values.mount("--mount", text, "/here", quiet) == mount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type=bind",
        "type=bind,dst=/b",
        "type=bind,src=/a",
        "type=bind,src,dst=/b",
        "type=bind,src=a,dst=/b",
        "type=bind,src=/a,dst=b",
        "type=bind,src=/a,dst=/b,what=1",
        "type=bind,src=/a,dst=/b,tmpfs-size=1",
        "type=tmpfs,src=/a,dst=/b",
        "type=tmpfs,dst=/b,tmpfs-mode=9",
        "type=bind,src=/a,dst=/b,ro=perhaps",
        'type=bind,src="/a",dst=/b',
        'type=bind,"src=/a,dst=/b',
        'type=bind,"src=/a"x,dst=/b',
    ],
)
def test_mounts_not_understood(text: str) -> None:
    with pytest.raises(InputError, match=r"^--mount: "):
        values.mount("--mount", text, "/here", quiet)


@pytest.mark.parametrize(
    "text",
    [
        "type=npipe,dst=/b",
        "type=image,src=x,dst=/b",
        "type=volume,dst=/b,volume-driver=nfs",
        "type=bind,src=/a,dst=/b,bind-recursive=disabled",
    ],
)
def test_mounts_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"^--mount: "):
        values.mount("--mount", text, "/here", quiet)


@given(st.lists(st.text(min_size=1), min_size=1))
def test_csv_fields_survive_quoting(fields: list[str]) -> None:
    line = ",".join('"%s"' % one.replace('"', '""') for one in fields)
    assert values.csv_fields("--mount", line) == tuple(fields)


@pytest.mark.parametrize(
    "text, mount",
    [
        ("/run", Mount("", "/run", kind=TMPFS)),
        ("/run:size=65536k,mode=1770,ro", Mount("", "/run", kind=TMPFS, size=64 << 20, mode=0o1770, read_only=True)),
        ("/run:rw,exec,nosuid,nodev", Mount("", "/run", kind=TMPFS)),
    ],
)
def test_tmpfs(text: str, mount: Mount) -> None:
    assert values.tmpfs("--tmpfs", text, quiet) == mount


def test_tmpfs_without_noexec_says_so() -> None:
    said: list[str] = []
    values.tmpfs("--tmpfs", "/run:noexec", said.append)
    assert "noexec" in said[0]


@pytest.mark.parametrize("text", ["/run:uid=5", "/run:suid", "/run:size=50%", "/run:huge=always"])
def test_tmpfs_refused(text: str) -> None:
    with pytest.raises(Refused):
        values.tmpfs("--tmpfs", text, quiet)


@pytest.mark.parametrize(
    "text, found",
    [("0", 0), ("17", 17), ("64m", 64 << 20), ("64M", 64 << 20), ("1.5g", 3 << 29), ("2GiB", 2 << 30), ("3kb", 3072), ("1b", 1)],
)
def test_sizes(text: str, found: int) -> None:
    assert values.size("--shm-size", text) == found


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1mm", "1.2.3", "0x10", "1e3", "½g"])
def test_sizes_not_understood(text: str) -> None:
    with pytest.raises(InputError):
        values.size("--shm-size", text)


@given(st.integers(0, 1 << 60))
def test_sizes_in_bytes(number: int) -> None:
    assert values.size("--shm-size", str(number)) == number


def test_signals_are_the_kernels() -> None:
    for one in signal.Signals:
        if one.name not in ("SIGRTMIN", "SIGRTMAX"):
            assert values.signal_number(one.name) == one
            assert values.signal_number(one.name[3:].lower()) == one
            assert values.signal_number(str(int(one))) == one
            assert values.signal_number(values.signal_name(one.name)) == one
    assert values.signal_number("RTMIN+3") == signal.SIGRTMIN + 3
    assert values.signal_number("SIGRTMAX-1") == signal.SIGRTMAX - 1
    assert values.signal_name("37") == "SIGRTMIN+3"
    assert values.signal_name("34") == "SIGRTMIN"


@pytest.mark.parametrize("text", ["", "0", "65", "SIG", "TERMINATE", "RTMIN+99", "RTMIN-1", "-9", "RTMIN+"])
def test_no_signals(text: str) -> None:
    with pytest.raises(InputError):
        values.signal_number(text)


def env_file(data: bytes, environ: dict[str, str] | None = None) -> tuple[tuple[str, str | None], ...]:
    return values.key_values("--env-file", "the-file", lambda _path: data, environ)


def test_env_file_is_dockers_format() -> None:
    data = b"\xef\xbb\xbfA=1\r\n# comment\n  # so is this\n\n  B=  'quoted' \"kept\" # kept\nC=\nD=x=y\nHOME\nGONE\n E\t=x"
    with pytest.raises(InputError, match=r"--env-file: the-file:10: the name 'E\\t' contains white space"):
        env_file(data, {"HOME": "/h"})
    assert env_file(data.rpartition(b"\n")[0], {"HOME": "/h"}) == (
        ("A", "1"),
        ("B", "  'quoted' \"kept\" # kept"),
        ("C", ""),
        ("D", "x=y"),
        ("HOME", "/h"),
    )
    assert env_file(b"A\nB=\n") == (("A", None), ("B", ""))


@pytest.mark.parametrize("data, line", [(b"A=1\n=x", 2), (b"A=\xff", 1), (b"\n\nA B=1", 3), (b"A=1\0", 1), (b"A B", 1)])
def test_env_file_errors_name_file_and_line(data: bytes, line: int) -> None:
    with pytest.raises(InputError, match="--env-file: the-file:%d: " % line):
        env_file(data, {})


def test_env_file_that_cannot_be_read() -> None:
    def read(path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    with pytest.raises(InputError, match="cannot read the-file: Permission denied"):
        values.key_values("--env-file", "the-file", read, {})


NAME = st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1)
VALUE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0"))


@given(st.lists(st.tuples(NAME, VALUE)))
def test_env_file_round_trip(pairs: list[tuple[str, str]]) -> None:
    assert env_file("".join("%s=%s\n" % pair for pair in pairs).encode()) == tuple(pairs)


@given(st.binary())
def test_env_file_never_fails_in_other_words(data: bytes) -> None:
    try:
        found = env_file(data, {})
    except InputError:
        return
    assert all(name and "=" not in name for name, _ in found)
