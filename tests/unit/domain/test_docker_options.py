from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.containers import ANONYMOUS, BIND, TMPFS, VOLUME, Mount, Port
from gha_apptainer.domain.docker_options import ParsedOptions, parse_options
from gha_apptainer.domain.docker_table import APPROXIMATE, HONOURED, REFUSED, TABLE, VERBS, options_of
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.images import Health

# what `docker VERB --help` of Docker 28.2 lists; a flag that is missing from the table could not be refused by name
DOCKER_28 = {
    "run": """add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent cgroupns cidfile cpu-count
        cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus cpuset-mems detach detach-keys device
        device-cgroup-rule device-read-bps device-read-iops device-write-bps device-write-iops disable-content-trust dns dns-option
        dns-search domainname entrypoint env env-file expose gpus group-add health-cmd health-interval health-retries
        health-start-interval health-start-period health-timeout hostname init interactive io-maxbandwidth io-maxiops ip ip6 ipc isolation
        kernel-memory label label-file link link-local-ip log-driver log-opt mac-address memory memory-reservation memory-swap
        memory-swappiness mount name network network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit platform
        privileged publish publish-all pull quiet read-only restart rm runtime security-opt shm-size sig-proxy stop-signal stop-timeout
        storage-opt sysctl tmpfs tty ulimit use-api-socket user userns uts volume volume-driver volumes-from workdir""",
    "exec": "detach detach-keys env env-file interactive privileged tty user workdir",
    "start": "attach checkpoint checkpoint-dir detach-keys interactive",
    "stop": "signal timeout",
    "kill": "signal",
    "rm": "force link volumes",
    "ps": "all filter format last latest no-trunc quiet size",
    "logs": "details follow since tail timestamps until",
    "inspect": "format size type",
    "wait": "",
}


def run(*argv: str, **more: object) -> ParsedOptions:
    return parse_options(argv, "run", **more)  # type: ignore[arg-type]  # the tests pass what the function takes


@pytest.mark.parametrize("verb", sorted(DOCKER_28))
def test_every_flag_of_docker_is_in_the_table(verb: str) -> None:
    assert set(DOCKER_28[verb].split()) <= {row.long for row in options_of(verb)}


@pytest.mark.parametrize("verb", VERBS)
def test_no_spelling_stands_for_two_rows(verb: str) -> None:
    long = [name for row in options_of(verb) for name in (row.long, *row.aliases)]
    short = [row.short for row in options_of(verb) if row.short]
    assert len(long) == len(set(long))
    assert len(short) == len(set(short))


def test_rows_say_what_they_must() -> None:
    for row in TABLE:
        assert row.treatment in (HONOURED, APPROXIMATE, REFUSED)
        assert bool(row.note) == (row.treatment != HONOURED), row.long
        assert bool(row.help) == (row.treatment != REFUSED), row.long


def test_a_refused_flag_names_itself_and_the_reason() -> None:
    for verb in VERBS:
        for row in options_of(verb):
            if row.treatment == REFUSED:
                with pytest.raises(Refused) as caught:
                    parse_options((row.flag, "x") if row.value else (row.flag,), verb)
                assert row.flag in caught.value.what
                assert row.note in caught.value.what


def test_a_refused_switch_may_be_switched_off() -> None:
    assert run("--privileged=false", "image").asked.image == "image"


def test_options_end_at_the_image() -> None:
    parsed = run("--rm", "image", "ls", "--rm=no", "-e", "--name")
    assert parsed.asked.remove
    assert parsed.asked.image == "image"
    assert parsed.asked.command == ("ls", "--rm=no", "-e", "--name")


def test_two_dashes_end_the_options() -> None:
    assert run("--", "image").asked.image == "image"
    assert run("--", "-odd").asked.image == "-odd"


def test_without_a_command_the_image_decides() -> None:
    assert run("image").asked.command is None


@pytest.mark.parametrize(
    "argv",
    [
        ("-i", "-t", "-u", "me", "image"),
        ("-it", "-u", "me", "image"),
        ("-itume", "image"),
        ("-itu", "me", "image"),
        ("-itu=me", "image"),
        ("--interactive", "--tty", "--user=me", "image"),
        ("--interactive=true", "--tty=1", "--user", "me", "image"),
    ],
)
def test_spellings_of_the_same(argv: tuple[str, ...]) -> None:
    asked = run(*argv).asked
    assert (asked.interactive, asked.tty, asked.user, asked.image) == (True, True, "me", "image")


def test_switches_can_be_switched_off_again() -> None:
    assert not run("--rm", "--rm=false", "image").asked.remove


def test_the_last_of_a_single_option_wins() -> None:
    assert run("--name=one", "--name", "two", "image").asked.name == "two"


def test_env_keeps_bytes_and_order() -> None:
    parsed = run(
        "-e", "B=1", "-eA=x=y\n\r", "--env=INPUT_NODE-VERSION=20", "-e", "B=2", "-e", "HOME", "-e", "GONE", "i", environ={"HOME": "/h"}
    )
    assert parsed.asked.env == (("B", "2"), ("A", "x=y\n\r"), ("INPUT_NODE-VERSION", "20"), ("HOME", "/h"))
    assert parsed.asked.unset_env == ("GONE",)


def test_env_files_come_before_env() -> None:
    parsed = run("-e", "A=flag", "--env-file", "f", "i", read=lambda _path: b"A=file\nB=file\n")
    assert parsed.asked.env == (("A", "flag"), ("B", "file"))


def test_labels() -> None:
    parsed = run("-l", "a=1", "--label", "b", "--label-file", "f", "i", read=lambda _path: b"c=3\na=0\nd\n")
    assert dict(parsed.asked.labels) == {"a": "1", "b": "", "c": "3", "d": ""}


def test_mounts_of_every_kind() -> None:
    parsed = run(
        "-v",
        "/a:/b:ro",
        "-v",
        "vol:/c",
        "-v",
        "/d",
        "--tmpfs",
        "/e:size=1m,mode=700",
        "--mount",
        "type=bind,src=/f,dst=/g",
        "--shm-size=64m",
        "i",
    )
    assert parsed.asked.mounts == (
        Mount("/a", "/b", read_only=True, kind=BIND, create=True),
        Mount("vol", "/c", kind=VOLUME),
        Mount("", "/d", kind=ANONYMOUS),
        Mount("", "/e", kind=TMPFS, size=1 << 20, mode=0o700),
        Mount("/f", "/g"),
        Mount("", "/dev/shm", kind=TMPFS, size=64 << 20),
    )


@pytest.mark.parametrize(
    "value, kind, select",
    [
        ("all", "any", ""),
        ("0", "none", ""),
        ("2", "any", "count:2"),
        ("count=2", "any", "count:2"),
        ("device=0,1", "any", "device:0,1"),
        ('"device=0,1"', "any", "device:0,1"),
        ("device=GPU-3a23c669", "any", "device:GPU-3a23c669"),
        ("nvidia", "nvidia", ""),
        ("rocm", "rocm", ""),
        ("driver=amd,count=all", "rocm", ""),
        ('all,"capabilities=compute,utility"', "any", ""),
        ("auto", "auto", ""),
    ],
)
def test_gpus(value: str, kind: str, select: str) -> None:
    asked = run("--gpus", value, "i").asked
    assert (asked.gpu, asked.gpu_select) == (kind, select)


@pytest.mark.parametrize("value", ["", "some", "device=", "count=x", "driver=intel"])
def test_gpus_not_understood(value: str) -> None:
    with pytest.raises(InputError, match="--gpus"):
        run("--gpus", value, "i")


def test_choosing_gpus_says_how_far_it_goes() -> None:
    assert "visible-devices" in run("--gpus=1", "i").warnings[0]
    assert run("--gpus=all", "i").warnings == ()


@pytest.mark.parametrize(
    "value, network",
    [
        ("host", ("host", "", ())),
        ("none", ("none", "", ())),
        ("name=none", ("none", "", ())),
        ("private", ("private", "", ())),
        ("bridge", ("private", "", ())),
        ("default", ("private", "", ())),
        ("mine", ("private", "mine", ())),
        ("name=mine,alias=a,alias=b.c", ("private", "mine", ("a", "b.c"))),
    ],
)
def test_networks(value: str, network: tuple[str, str, tuple[str, ...]]) -> None:
    for argv in (("--network", value, "i"), ("--net=" + value, "i")):
        asked = run(*argv).asked
        assert (asked.network, asked.network_name, asked.aliases) == network


def test_a_network_like_dockers_says_what_it_lacks() -> None:
    assert "other machines" in run("--network", "bridge", "i").warnings[0]
    assert "other machines" in run("-p", "80", "i").warnings[0]
    assert not run("--network", "private", "-p", "80", "i").warnings


@pytest.mark.parametrize("value", ["container:x", "name=host,ip=10.0.0.1", "driver-opt=x"])
def test_other_networks_are_refused(value: str) -> None:
    with pytest.raises(Refused, match="--network"):
        run("--network", value, "i")


def test_a_network_is_a_name() -> None:
    with pytest.raises(InputError, match="--network"):
        run("--network", "a/b", "i")
    with pytest.raises(InputError, match="--network-alias"):
        run("--network-alias", "a b", "i")
    assert run("--network=n1", "--network-alias", "db", "i").asked.aliases == ("db",)


@pytest.mark.parametrize(
    "value, ports",
    [
        ("80", [Port(80)]),
        ("8080:80", [Port(80, 8080)]),
        ("8080:80/udp", [Port(80, 8080, protocol="udp")]),
        ("0.0.0.0:8080:80", [Port(80, 8080, "0.0.0.0")]),
        ("127.0.0.2::80", [Port(80, 0, "127.0.0.2")]),
        ("[::1]:8080:80", [Port(80, 8080, "::1")]),
        (":80", [Port(80)]),
        ("8000-8001:80-81", [Port(80, 8000), Port(81, 8001)]),
        ("8000-8010:80", [Port(80, 8000, last=8010)]),
        ("80-81", [Port(80), Port(81)]),
        ("target=80,published=8080,protocol=udp", [Port(80, 8080, protocol="udp")]),
    ],
)
def test_ports(value: str, ports: list[Port]) -> None:
    assert list(run("-p", value, "i").asked.publish) == ports


@pytest.mark.parametrize("value", ["", "x", "80:", "0:80", "65536", "1:2:3:4", "::1:80:80", "h:1:2", "1-2:3-5", "5-4", "80/icmp", "a=b"])
def test_ports_not_understood(value: str) -> None:
    with pytest.raises(InputError, match="-p"):
        run("-p", value, "i")
    with pytest.raises(Refused, match="sctp"):
        run("-p", "80/sctp", "i")


def test_health_options() -> None:
    asked = run("--health-cmd", "check it", "--health-interval=1m30s", "--health-timeout", "500ms", "--health-retries=5", "i").asked
    assert asked.health == Health(("CMD-SHELL", "check it"), 90.0, 0.5, 0.0, 5)
    assert run("--health-start-period", "2h", "--health-start-interval", "1.5s", "i").asked.health == Health(
        (), start_period=7200.0, start_interval=1.5
    )
    assert run("--no-healthcheck", "i").asked.health == Health(("NONE",))
    assert run("i").asked.health is None
    with pytest.raises(InputError, match="--no-healthcheck"):
        run("--no-healthcheck", "--health-cmd", "x", "i")
    for wrong in ("5", "1x", "", "s", "1us"):
        with pytest.raises(InputError, match="--health-interval"):
            run("--health-interval", wrong, "i")


def test_name_servers() -> None:
    asked = run("--dns", "10.0.0.1", "--dns", "::1", "--dns-search", ".", "--dns-opt", "ndots:2", "i").asked
    assert (asked.dns, asked.dns_search, asked.dns_options) == (("10.0.0.1", "::1"), (".",), ("ndots:2",))
    for argv in (("--dns", "there"), ("--dns-search", "a b"), ("--dns-option", "")):
        with pytest.raises(InputError, match=argv[0]):
            run(*argv, "i")


@pytest.mark.parametrize(
    "value, pair",
    [
        ("db:10.0.0.1", ("db", "10.0.0.1")),
        ("db=10.0.0.1", ("db", "10.0.0.1")),
        ("db:::1", ("db", "::1")),
        ("db=[2001:db8::1]", ("db", "2001:db8::1")),
        ("host.docker.internal:host-gateway", ("host.docker.internal", "host-gateway")),
    ],
)
def test_hosts(value: str, pair: tuple[str, str]) -> None:
    assert run("--add-host", value, "i").asked.add_hosts == (pair,)


@pytest.mark.parametrize("value", ["db", "db:", ":10.0.0.1", "db:somewhere", "a b:10.0.0.1"])
def test_hosts_not_understood(value: str) -> None:
    with pytest.raises(InputError, match="--add-host"):
        run("--add-host", value, "i")


def test_pull_policies() -> None:
    assert [run("--pull", one, "i").asked.pull for one in ("always", "missing", "never")] == ["always", "if-not-present", "never"]


def test_small_ones() -> None:
    asked = run(
        "--init", "--read-only", "-d", "-h", "box", "-w", "/w", "--entrypoint", "", "--stop-signal", "int", "--platform", "linux/amd64", "i"
    ).asked
    assert (asked.init, asked.read_only, asked.detach, asked.hostname, asked.workdir) == (True, True, True, "box", "/w")
    assert (asked.entrypoint, asked.stop_signal, asked.platform) == ((), "SIGINT", "linux/amd64")
    assert run("--entrypoint", "/bin/sh", "i").asked.entrypoint == ("/bin/sh",)
    assert run("--expose", "80-81/udp", "i").asked.expose == (Port(80, protocol="udp"), Port(81, protocol="udp"))


@pytest.mark.parametrize(
    "argv, word",
    [
        (("--name", "a", "i"), "--name"),
        (("--name", "-x", "i"), "--name"),
        (("-w", "relative", "i"), "-w"),
        (("--workdir=", "i"), "--workdir"),
        (("-u", "a:b:c", "i"), "-u"),
        (("-u", ":b", "i"), "-u"),
        (("-h", "-box", "i"), "-h"),
        (("--hostname", "x" * 64, "i"), "--hostname"),
        (("--pull", "sometimes", "i"), "--pull"),
        (("-e", "=x", "i"), "-e"),
        (("-l", "=x", "i"), "-l"),
        (("--rm=maybe", "i"), "--rm"),
        (("--stop-signal", "NOPE", "i"), "--stop-signal"),
        (("--shm-size", "big", "i"), "--shm-size"),
        (("-e",), "-e needs a value"),
        (("--name",), "--name needs a value"),
    ],
)
def test_errors_name_the_flag_as_it_was_written(argv: tuple[str, ...], word: str) -> None:
    with pytest.raises(InputError) as caught:
        run(*argv)
    assert word in caught.value.what


@pytest.mark.parametrize(
    "argv", [("--ipc=host", "i"), ("--pid", "host", "i"), ("--uts=host", "i"), ("--restart=always", "i"), ("--sig-proxy=false", "i")]
)
def test_values_that_cannot_be_honoured(argv: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match=argv[0].partition("=")[0]):
        run(*argv)


@pytest.mark.parametrize(
    "argv", [("--ipc=private", "i"), ("--restart=no", "i"), ("--sig-proxy", "i"), ("--security-opt=no-new-privileges", "i")]
)
def test_values_that_hold_anyway(argv: tuple[str, ...]) -> None:
    assert run(*argv).asked.image == "i"


@pytest.mark.parametrize("flag, near", [("--nmae", "--name"), ("--enf-file", "--env-file"), ("--workdirr=x", "--workdir")])
def test_an_unknown_flag_shows_its_neighbours(flag: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        run(flag, "i")
    assert "unknown option %s" % flag.partition("=")[0] in caught.value.what
    assert near in caught.value.remedy


def test_an_unknown_letter_is_named_in_its_word() -> None:
    with pytest.raises(InputError, match="unknown option -z in -iz"):
        run("-iz", "i")


def test_a_flag_of_another_verb_is_unknown() -> None:
    with pytest.raises(InputError, match="unknown option --rm"):
        parse_options(("--rm", "x"), "exec")


def test_help_wins_until_the_image() -> None:
    assert run("--rm", "--help").help
    assert not run("image", "--help").help


def test_exec() -> None:
    parsed = parse_options(("-it", "-e", "A=1", "-w", "/w", "-u", "0", "box", "sh", "-c", "x"), "exec")
    assert parsed.positional == ("box", "sh", "-c", "x")
    assert (parsed.asked.tty, parsed.asked.env, parsed.asked.workdir, parsed.asked.user) == (True, (("A", "1"),), "/w", "0")


def test_other_verbs_mix_words_and_options() -> None:
    parsed = parse_options(("one", "-t", "3", "two", "--signal=INT"), "stop")
    assert parsed.positional == ("one", "two")
    assert parsed.last("timeout") == "3"
    assert parse_options(("--time=4", "x"), "stop").last("timeout") == "4"
    assert parsed.last("signal") == "INT"
    assert parse_options(("-aq", "-f", "label=a", "--filter", "label=b"), "ps").given["--filter"] == ("label=a", "label=b")
    assert not parse_options((), "ps").has("all")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda text: not text.startswith("-"))


@given(st.lists(st.tuples(TEXT.map(lambda text: text.replace("=", "x")), TEXT)), st.booleans(), TEXT, st.lists(TEXT))
def test_any_environment_survives(pairs: list[tuple[str, str]], joined: bool, image: str, command: list[str]) -> None:
    argv = [word for name, value in pairs for word in (["--env=%s=%s" % (name, value)] if joined else ["-e", "%s=%s" % (name, value)])]
    asked = run(*argv, image, *command).asked
    assert dict(asked.env) == dict(pairs)
    assert len(asked.env) == len(dict(pairs))
    assert asked.image == image
    assert asked.command == (tuple(command) or None)


@given(
    st.lists(
        st.sampled_from(
            ["-", "--", "-i", "-it", "-e", "A=1", "--name", "--rm", "x", "=", "-v", "/a", "--gpus", "-h", "", "--=", "-=", "--help"]
        )
    )
)
def test_any_words_are_parsed_or_refused_in_our_own_words(words: list[str]) -> None:
    for verb in VERBS:
        try:
            parse_options(tuple(words), verb)
        except (InputError, Refused):
            continue
