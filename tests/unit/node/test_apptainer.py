from __future__ import annotations

import pytest

from gha_apptainer.domain.hosts import HostFacts, IdRange
from gha_apptainer.node.apptainer import Bind, engine_config, exec_argv, guarded_argv, mount_option


def _host(*, setuid: bool) -> HostFacts:
    return HostFacts(
        hostname="n", boot_id="b", machine="x86_64", kernel="6", uid=1000, gid=1000, state_dir="/s", apptainer="/opt/apptainer",
        apptainer_setuid=setuid, config_option=not setuid,
    )  # fmt: skip


def _value(argv: tuple[str, ...], option: str) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


def test_a_setuid_installation_is_told_by_options_what_it_takes_from_no_file() -> None:
    argv = exec_argv(_host(setuid=True), "/root-of-it", ("/holder",), config="", binds=())
    assert "--userns" in argv
    assert "--config" not in argv
    assert _value(argv, "--no-mount") == ["hostfs,bind-paths,home,tmp,cwd"]
    assert argv[-2:] == ("/root-of-it", "/holder")


def test_an_ordinary_one_reads_our_configuration() -> None:
    argv = exec_argv(_host(setuid=False), "/root-of-it", ("/holder",), config="/c.conf", binds=())
    assert "--userns" not in argv
    assert argv[:5] == ("/opt/apptainer", "-s", "--config", "/c.conf", "exec")
    assert _value(argv, "--no-mount") == ["hostfs,bind-paths"]
    for mount in ("home", "tmp", "hostfs"):
        assert "mount %s = no\n" % mount in engine_config()


@pytest.mark.parametrize("setuid", [True, False])
def test_a_host_that_forbids_a_new_proc_has_its_own_bound(setuid: bool) -> None:
    argv = exec_argv(_host(setuid=setuid), "/r", ("/holder",), config="", binds=(Bind("/a", "/b", read_only=True),), fresh_proc=False)
    assert _value(argv, "--no-mount")[0].split(",")[-1] == "proc"
    assert _value(argv, "--mount") == ["type=bind,source=/proc,destination=/proc", "type=bind,source=/a,destination=/b,ro"]


@pytest.mark.parametrize(
    ("path", "written"),
    [("/plain", "source=/plain"), ("/a,b", '"source=/a,b"'), ('/a"b', '"source=/a""b"'), ("/a\nb", '"source=/a\nb"')],
)
def test_every_path_passes_as_one_field(path: str, written: str) -> None:
    assert mount_option(Bind(path, "/t")) == "type=bind,%s,destination=/t" % written


def test_the_map_of_a_build_never_holds_every_id() -> None:
    """A full map looks like no user namespace at all, and Apptainer then mounts what it may not."""
    argv = guarded_argv(("/opt/apptainer", "build"), 7, (IdRange(0, 4294967295),), (IdRange(0, 1000), IdRange(1000, 64536)))
    assert argv[5:8] == ("7", "0 0 4294967294", "0 0 1000,1000 1000 64536")
