from __future__ import annotations

from typing import Dict, Optional

import pytest

from gha_apptainer.domain.docker_table import OPTIONS, REFUSED, options_of
from gha_apptainer.domain.errors import GhaError, InputError, Refused
from gha_apptainer.domain.hook_policy import HookPolicy
from gha_apptainer.domain.job_options import JOB, SERVICE, JobOptions, processors, read_options

DEFAULT = HookPolicy()


def read(
    text: str, kind: str = JOB, policy: HookPolicy = DEFAULT, env: Optional[Dict[str, str]] = None, memory: int = 8 << 30, reason: str = ""
) -> JobOptions:
    def no_file(path: str) -> bytes:
        raise FileNotFoundError(2, "nothing", path)

    return read_options(text, kind, env or {}, policy, read=no_file, memory=memory, device_reason=lambda _: reason)


def test_nothing_asked_for() -> None:
    assert read("") == JobOptions()
    assert read("   ") == JobOptions()


@pytest.mark.parametrize("text", ["--cpus 2", "--cpus=2"])
def test_both_spellings(text: str) -> None:
    found = read(text)
    assert found.cpus == 2.0
    assert len(found.warnings) == 1


@pytest.mark.case("hooks-65")
@pytest.mark.parametrize("text", ["--privileged", "--cap-add NET_ADMIN", "--cap-add=SYS_ADMIN", "--security-opt apparmor=unconfined"])
def test_rights_are_the_sites_to_refuse_or_ignore(text: str) -> None:
    with pytest.raises(Refused) as caught:
        read(text)
    assert text.split("=", maxsplit=1)[0].split(" ", maxsplit=1)[0] in caught.value.what
    ignored = read(text, policy=HookPolicy(privileged="ignore"))
    assert len(ignored.warnings) == 1
    assert "ignored" in ignored.warnings[0]


@pytest.mark.case("hooks-65")
@pytest.mark.parametrize(
    "text", ["--cap-add SYS_PTRACE", "--security-opt seccomp=unconfined", "--security-opt no-new-privileges", "--privileged=false"]
)
def test_rights_that_need_nothing(text: str) -> None:
    assert read(text).warnings == ()


@pytest.mark.case("hooks-63")
def test_health() -> None:
    health = read(
        '--health-cmd "pg_isready -U x" --health-interval 10s --health-timeout=5s --health-retries 5 --health-start-period 1m30s'
    ).asked.health
    assert health is not None
    assert health.test == ("CMD-SHELL", "pg_isready -U x")
    assert (health.interval, health.timeout, health.retries, health.start_period) == (10.0, 5.0, 5, 90.0)
    off = read("--no-healthcheck").asked.health
    assert off is not None
    assert off.test == ("NONE",)
    with pytest.raises(GhaError):
        read("--health-interval ten")


@pytest.mark.case("hooks-66")
def test_networks() -> None:
    assert (read("--network host").network, read("--net=none").network, read("--network private").network) == ("host", "none", "private")
    shared = read("--network my-net --network-alias db --name one --hostname two")
    assert (shared.network, shared.aliases) == ("", ("db", "one", "two"))
    assert "one network a job" in shared.warnings[0]
    with pytest.raises(Refused):
        read("--network container:abc")
    with pytest.raises(Refused):
        read("--network host", policy=HookPolicy(networks=("private",)))


@pytest.mark.case("hooks-61")
def test_gpus() -> None:
    assert read("--gpus all").asked.gpu == "any"
    assert read('--gpus "device=0,1"').asked.gpu_select == "device:0,1"
    with pytest.raises(InputError):
        read("--gpus some")


@pytest.mark.case("hooks-69")
def test_an_entrypoint_is_a_services_own() -> None:
    job = read("--entrypoint /run.sh")
    assert job.asked.entrypoint is None
    assert "ignored" in job.notes[0]
    assert read("--entrypoint /run.sh", SERVICE).asked.entrypoint == ("/run.sh",)


@pytest.mark.case("hooks-72")
def test_a_bare_name_takes_the_containers_value_never_the_hosts() -> None:
    found = read("-e KNOWN -e UNKNOWN -e SET=1", env={"KNOWN": "value"})
    assert dict(found.asked.env) == {"KNOWN": "value", "SET": "1"}
    assert found.asked.unset_env == ("UNKNOWN",)


@pytest.mark.case("hooks-73")
def test_devices() -> None:
    policy = HookPolicy(devices=("/dev/infiniband/*", "/dev/fuse"))
    assert read("--device /dev/fuse --device /dev/infiniband/uverbs0:/dev/infiniband/uverbs0:rwm", policy=policy).devices == (
        "/dev/fuse",
        "/dev/infiniband/uverbs0",
    )
    for text in ("--device /dev/sda", "--device /etc/shadow", "--device /dev/fuse:/dev/other", "--device /dev/../etc/shadow"):
        with pytest.raises(Refused):
            read(text, policy=policy)
    with pytest.raises(Refused, match="there is none"):
        read("--device /dev/fuse", policy=policy, reason="there is none")


@pytest.mark.case("hooks-60")
def test_memory() -> None:
    assert "not enforced" in read("--memory 1g").warnings[0]
    assert read("--memory 8g").warnings == ()
    assert "not enforced" in read("-m 1g --memory-swap 2g").warnings[0]


def test_unknown_flags_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="--frobnicate"):
        read("--frobnicate 1")
    with pytest.raises(InputError, match="--cpu"):
        read("--cpu 1")
    with pytest.raises(InputError, match="'image'"):
        read("--cpus 1 image")
    with pytest.raises(InputError, match="quot"):
        read("-e 'open")


def test_every_flag_of_create_has_an_answer() -> None:
    rows = options_of(OPTIONS)
    names = [row.long for row in rows]
    assert len(names) == len(set(names))
    assert {row.long for row in options_of("create")} <= set(names)
    for row in rows:
        assert row.note or row.treatment != REFUSED, row.long
        assert row.help or row.treatment == REFUSED, row.long


@pytest.mark.case("hooks-59")
@pytest.mark.parametrize(
    "text, chosen, warned",
    [
        ("--cpus 1.5", (0, 1), False),
        ("--cpus 8", (), True),
        ("--cpuset-cpus 2-3,9", (2, 3), False),
        ("--cpuset-cpus 9", (), True),
        ("--cpus 1 --cpuset-cpus 1-2", (1,), False),
    ],
)
def test_processors(text: str, chosen: tuple[int, ...], warned: bool) -> None:
    found, warning = processors(read(text), (0, 1, 2, 3))
    assert found == chosen
    assert bool(warning) == warned


@pytest.mark.parametrize("text", ["--cpus x", "--cpuset-cpus 3-1", "--ulimit nofile", "--memory lots", "--tmpfs relative"])
def test_values_that_are_none(text: str) -> None:
    with pytest.raises(GhaError):
        processors(read(text), (0, 1))
