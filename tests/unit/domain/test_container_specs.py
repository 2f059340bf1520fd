from __future__ import annotations

from dataclasses import replace

import pytest

from gha_apptainer.domain.asked import HOST_GATEWAY, Asked
from gha_apptainer.domain.container_specs import DEFAULT_PATH, check_platform, check_sources, container_spec, exec_request
from gha_apptainer.domain.containers import ANONYMOUS, BIND, TMPFS, VOLUME, ContainerSpec, Mount, Owner, Port
from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import HostUnfit, InputError, Refused
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.images import Digest, Health, Image, OciConfig

HOST = HostFacts(hostname="node", boot_id="b", machine="x86_64", kernel="6.1", uid=1000, gid=1000, state_dir="/s")
NVIDIA = replace(HOST, nvidia_reason="")
ROCM = replace(HOST, rocm_reason="")
OWNER = Owner(host="node", boot_id="b", scope="cli")
CONFIG = OciConfig(entrypoint=("/entry", "-x"), cmd=("serve", "--all"), env=(("PATH", "/bin"), ("A", "image"), ("B", "image")))


def image(config: OciConfig = CONFIG) -> Image:
    return Image(
        reference="docker.io/library/x:1", digest=Digest("sha256:1", "manifest"), config=config, rootfs="/r", form="sandbox", route="path"
    )


def spec(asked: Asked, config: OciConfig = CONFIG, host: HostFacts = HOST, masks: dict[str, str] | None = None) -> ContainerSpec:
    return container_spec(image(config), asked, host, OWNER, gpu_masks=masks)


def argv(asked: Asked, config: OciConfig = CONFIG) -> tuple[str, ...]:
    main = spec(asked, config).main
    assert main is not None
    return main.argv


def env(
    asked: Asked, config: OciConfig = CONFIG, host: HostFacts = HOST, masks: dict[str, str] | None = None
) -> tuple[tuple[str, str], ...]:
    main = spec(asked, config, host, masks).main
    assert main is not None
    return main.env


# the table of https://docs.docker.com/reference/dockerfile/#understand-how-cmd-and-entrypoint-interact and of `docker run --entrypoint`
@pytest.mark.parametrize(
    "entrypoint, command, expected",
    [
        (None, None, ("/entry", "-x", "serve", "--all")),
        (None, ("a",), ("/entry", "-x", "a")),
        (None, (), ("/entry", "-x")),
        (("/sh",), None, ("/sh",)),
        (("/sh",), ("-c", "x"), ("/sh", "-c", "x")),
        ((), ("ls",), ("ls",)),
    ],
)
def test_command(entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None, expected: tuple[str, ...]) -> None:
    assert argv(Asked(entrypoint=entrypoint, command=command)) == expected


def test_command_of_an_image_without_entrypoint() -> None:
    assert argv(Asked(), OciConfig(cmd=("sh",))) == ("sh",)
    assert argv(Asked(command=("ls",)), OciConfig(cmd=("sh",))) == ("ls",)


@pytest.mark.parametrize(
    "asked, config", [(Asked(), OciConfig()), (Asked(entrypoint=()), CONFIG), (Asked(command=()), OciConfig(cmd=("sh",)))]
)
def test_no_command_at_all(asked: Asked, config: OciConfig) -> None:
    with pytest.raises(InputError, match="no command specified"):
        spec(asked, config)


def test_a_held_container_needs_no_command() -> None:
    assert spec(Asked(hold=True), OciConfig()).main is None


def test_environment_order() -> None:
    assert env(Asked(env=(("C", "asked"), ("A", "asked")))) == (("PATH", "/bin"), ("A", "asked"), ("B", "image"), ("C", "asked"))


def test_environment_defaults() -> None:
    assert env(Asked(), OciConfig(cmd=("x",))) == (("PATH", DEFAULT_PATH),)
    assert env(Asked(hostname="box", tty=True), OciConfig(cmd=("x",))) == (("PATH", DEFAULT_PATH), ("HOSTNAME", "box"), ("TERM", "xterm"))
    assert ("TERM", "dumb") in env(Asked(tty=True, env=(("TERM", "dumb"),)))


def test_environment_names_can_be_dropped() -> None:
    assert env(Asked(unset_env=("A", "PATH", "NEVER"))) == (("B", "image"),)


@pytest.mark.parametrize("asked, config, expected", [("", "", ""), ("", "www", "www"), ("0:0", "www", "0:0")])
def test_user(asked: str, config: str, expected: str) -> None:
    main = spec(Asked(user=asked), replace(CONFIG, user=config)).main
    assert main is not None
    assert main.user == expected


@pytest.mark.parametrize("asked, config, expected", [("", "", "/"), ("", "/srv", "/srv"), ("", "srv", "/srv"), ("/w", "/srv", "/w")])
def test_workdir(asked: str, config: str, expected: str) -> None:
    main = spec(Asked(workdir=asked), replace(CONFIG, workdir=config)).main
    assert main is not None
    assert (main.cwd, main.create_cwd) == (expected, True)


def test_volumes_of_the_image_become_anonymous_unless_covered() -> None:
    asked = Asked(mounts=(Mount("data", "/var/lib/db/", kind=VOLUME), Mount("", "/x", kind=TMPFS)))
    found = spec(asked, replace(CONFIG, volumes=("/var/lib/db", "/cache", "/x/"))).mounts
    assert found == (Mount("data", "/var/lib/db", kind=VOLUME), Mount("", "/x", kind=TMPFS), Mount("", "/cache", kind=ANONYMOUS))


@pytest.mark.parametrize(
    "mounts",
    [
        (Mount("/a", "/x"), Mount("/b", "/x")),
        (Mount("/a", "/x"), Mount("", "/y/../x/", kind=TMPFS)),
        (Mount("a", "/x"),),
        (Mount("/a", "x"),),
        (Mount("/a", "/"),),
    ],
)
def test_mounts_that_cannot_be(mounts: tuple[Mount, ...]) -> None:
    with pytest.raises(InputError):
        spec(Asked(mounts=mounts))


def test_missing_sources() -> None:
    check_sources((Mount("/gone", "/x", create=True), Mount("gone", "/y", kind=VOLUME), Mount("/here", "/z")), lambda path: path == "/here")
    with pytest.raises(InputError, match="cannot bind /gone on /x"):
        check_sources((Mount("/gone", "/x", kind=BIND),), lambda _path: False)


def test_the_rest_is_carried_over() -> None:
    health = Health(("CMD", "x"))
    config = replace(CONFIG, stop_signal="3", healthcheck=health, labels=(("a", "1"), ("b", "1")))
    asked = Asked(
        hostname="h", add_hosts=(("db", "10.0.0.1"),), network="none", read_only=True, remove=True, interactive=True, labels=(("b", "2"),)
    )
    found = spec(asked, config)
    assert (found.hostname, found.hosts, found.network, found.writable) == ("h", {"db": "10.0.0.1"}, "none", False)
    assert (found.remove, found.interactive, found.labels, found.stop_signal, found.health) == (
        True,
        True,
        {"a": "1", "b": "2"},
        "SIGQUIT",
        health,
    )
    assert spec(Asked(stop_signal="INT"), config).stop_signal == "SIGINT"
    assert spec(Asked()).stop_signal == "SIGTERM"
    assert found.owner == OWNER


def test_a_spec_survives_its_document() -> None:
    found = spec(
        Asked(env=(("X", "\udcff"),), labels=(("a", "b"),), mounts=(Mount("/a", "/b"),)), masks={"CUDA_VISIBLE_DEVICES": "0"}, host=NVIDIA
    )
    assert from_json(ContainerSpec, to_json(found)) == found


@pytest.mark.parametrize(
    "wish, host, kind",
    [
        ("none", NVIDIA, "none"),
        ("auto", HOST, "none"),
        ("auto", NVIDIA, "nvidia"),
        ("auto", ROCM, "rocm"),
        ("any", NVIDIA, "nvidia"),
        ("any", ROCM, "rocm"),
        ("nvidia", NVIDIA, "nvidia"),
        ("rocm", ROCM, "rocm"),
    ],
)
def test_gpu(wish: str, host: HostFacts, kind: str) -> None:
    assert spec(Asked(gpu=wish), host=host).gpu == kind


@pytest.mark.parametrize("wish, host, word", [("nvidia", ROCM, "NVIDIA"), ("rocm", NVIDIA, "ROCm"), ("any", HOST, "NVIDIA")])
def test_a_gpu_that_is_absent_is_an_error_with_the_reason(wish: str, host: HostFacts, word: str) -> None:
    with pytest.raises(HostUnfit, match=word):
        spec(Asked(gpu=wish), host=host)


MASKS = {"CUDA_VISIBLE_DEVICES": "2,3", "ZE_AFFINITY_MASK": "1", "OTHER": "x"}


def test_masks_are_passed_with_a_gpu_only() -> None:
    assert spec(Asked(gpu="nvidia"), host=NVIDIA, masks=MASKS).gpu_env == (("CUDA_VISIBLE_DEVICES", "2,3"), ("ZE_AFFINITY_MASK", "1"))
    assert ("CUDA_VISIBLE_DEVICES", "2,3") in env(Asked(gpu="nvidia"), CONFIG, NVIDIA, MASKS)
    assert spec(Asked(), host=NVIDIA, masks=MASKS).gpu_env == ()


@pytest.mark.parametrize("wanted, found", [("2", "2"), ("3,2", "3,2"), ("", ""), ("0", "2,3"), ("0,1,2,3", "2,3"), ("all", "2,3")])
def test_the_environment_narrows_a_mask_but_never_widens_it(wanted: str, found: str) -> None:
    asked = Asked(gpu="nvidia", env=(("CUDA_VISIBLE_DEVICES", wanted),))
    assert dict(env(asked, CONFIG, NVIDIA, MASKS))["CUDA_VISIBLE_DEVICES"] == found
    assert dict(spec(asked, host=NVIDIA, masks=MASKS).gpu_env)["CUDA_VISIBLE_DEVICES"] == found


def test_without_a_mask_the_environment_decides() -> None:
    assert ("CUDA_VISIBLE_DEVICES", "1") in env(Asked(gpu="nvidia", env=(("CUDA_VISIBLE_DEVICES", "1"),)), CONFIG, NVIDIA)


@pytest.mark.parametrize(
    "select, masks, found",
    [
        ("count:1", {}, "0"),
        ("count:1", MASKS, "2"),
        ("count:2", MASKS, "2,3"),
        ("device:1", MASKS, "3"),
        ("device:1,0", MASKS, "3,2"),
        ("device:1", {}, "1"),
        ("device:GPU-a", {"CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}, "GPU-a"),
    ],
)
def test_chosen_gpus(select: str, masks: dict[str, str], found: str) -> None:
    assert dict(spec(Asked(gpu="any", gpu_select=select), host=NVIDIA, masks=masks).gpu_env)["CUDA_VISIBLE_DEVICES"] == found


@pytest.mark.parametrize(
    "select, masks, error",
    [("count:3", MASKS, HostUnfit), ("device:2", MASKS, HostUnfit), ("device:GPU-x", MASKS, HostUnfit), ("count:2", {}, Refused)],
)
def test_gpus_that_the_job_does_not_have(select: str, masks: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        spec(Asked(gpu="any", gpu_select=select), host=NVIDIA, masks=masks)


def test_chosen_rocm_gpus_use_their_own_mask() -> None:
    assert spec(Asked(gpu="any", gpu_select="count:1"), host=ROCM).gpu_env == (("ROCR_VISIBLE_DEVICES", "0"),)
    assert spec(Asked(gpu="any", gpu_select="count:1"), host=ROCM, masks={"HIP_VISIBLE_DEVICES": "4,5"}).gpu_env == (
        ("HIP_VISIBLE_DEVICES", "4"),
    )


@pytest.mark.parametrize("platform", ["", "linux", "linux/amd64", "amd64", "linux/x86_64", "LINUX/AMD64", "linux/amd64/v2"])
def test_own_platform(platform: str) -> None:
    check_platform(Asked(platform=platform), HOST)


@pytest.mark.parametrize("platform", ["linux/arm64", "arm64", "windows/amd64", "windows"])
def test_other_platforms_are_refused(platform: str) -> None:
    with pytest.raises(Refused, match="linux/amd64"):
        check_platform(Asked(platform=platform), HOST)


def test_apptainer_args_meet_the_same_rules() -> None:
    found = spec(Asked(apptainer_args=("--nv", "-B", "/a:/b:ro", "--env", "A=1", "--pwd", "/w")), host=NVIDIA)
    assert found.gpu == "nvidia"
    assert found.mounts == (Mount("/a", "/b", read_only=True),)
    assert found.main is not None
    assert (found.main.cwd, dict(found.main.env)["A"]) == ("/w", "1")
    with pytest.raises(InputError, match="two mounts on /b"):
        spec(Asked(mounts=(Mount("/c", "/b"),), apptainer_args=("-B", "/a:/b")))
    with pytest.raises(HostUnfit):
        spec(Asked(apptainer_args=("--nv",)))


def test_exec_inherits_from_the_main_process() -> None:
    made = spec(Asked(env=(("C", "1"),), user="www", workdir="/w"))
    request = exec_request(made, Asked(), ("ls",))
    assert made.main is not None
    assert (request.argv, request.env, request.cwd, request.user) == (("ls",), made.main.env, "/w", "www")
    assert not request.create_cwd


def test_exec_has_its_own_wishes() -> None:
    made = spec(Asked(env=(("C", "1"),), user="www", workdir="/w"))
    request = exec_request(made, Asked(env=(("A", "exec"), ("D", "2")), unset_env=("B",), user="0", workdir="/x", tty=True), ("ls",))
    assert request.env == (("PATH", "/bin"), ("A", "exec"), ("C", "1"), ("TERM", "xterm"), ("D", "2"))
    assert (request.cwd, request.user, request.tty) == ("/x", "0", True)


def test_exec_in_a_held_container_has_the_images_values() -> None:
    made = spec(Asked(hold=True, gpu="nvidia"), replace(CONFIG, user="www", workdir="/srv"), NVIDIA, MASKS)
    request = exec_request(made, Asked(env=(("CUDA_VISIBLE_DEVICES", "0,1,2"),)), ("ls",))
    assert (request.cwd, request.user) == ("/srv", "www")
    assert dict(request.env)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert dict(request.env)["A"] == "image"


def test_exec_needs_a_command() -> None:
    with pytest.raises(InputError, match="no command"):
        exec_request(spec(Asked()), Asked(), ())


def test_networks_and_ports_are_merged() -> None:
    config = replace(CONFIG, ports=("80/tcp", "53/udp"))

    def made(**more: object) -> ContainerSpec:
        return spec(Asked(**more), config)  # type: ignore[arg-type]  # the tests pass what the class takes

    exposed = (Port(80), Port(53, protocol="udp"))
    assert (made().network, made().ports, made().exposed) == ("host", (), exposed)
    assert made(publish=(Port(8080, 1),)).network == "private"
    assert made(publish=(Port(8080, 1),), network="host").network == "host"
    assert made(publish_all=True).ports == exposed
    assert made(publish_all=True, publish=(Port(80, 8080),), expose=(Port(90),)).ports == (
        Port(80, 8080),
        Port(53, protocol="udp"),
        Port(90),
    )
    named = made(network="private", network_name="n", aliases=("a",), dns=("10.0.0.1",))
    assert (named.network_name, named.aliases, named.dns) == ("n", ("a",), ("10.0.0.1",))
    for wrong in (
        {"network": "none", "publish": (Port(80),)},
        {"aliases": ("a",)},
        {"publish": (Port(80, 8080), Port(81, 8080))},
    ):
        with pytest.raises(InputError):
            made(**wrong)
    with pytest.raises(InputError, match="EXPOSE"):
        spec(Asked(), replace(CONFIG, ports=("x",)))


def test_the_machine_itself_is_named_only_where_it_is_reached() -> None:
    wish = Asked(add_hosts=(("host.docker.internal", HOST_GATEWAY), ("db", "10.0.0.1")))
    assert spec(wish).hosts == {"host.docker.internal": "127.0.0.1", "db": "10.0.0.1"}
    with pytest.raises(Refused, match="host-gateway"):
        spec(replace(wish, network="private"))


def test_health_checks_are_merged() -> None:
    checked = replace(CONFIG, healthcheck=Health(("CMD", "x"), interval=5.0, retries=2))

    def health(asked: Health | None, config: OciConfig = checked) -> Health | None:
        return spec(Asked(health=asked), config).health

    assert health(None) == Health(("CMD", "x"), interval=5.0, retries=2)
    assert health(Health((), timeout=1.0)) == Health(("CMD", "x"), interval=5.0, timeout=1.0, retries=2)
    assert health(Health(("CMD-SHELL", "y"), retries=9)) == Health(("CMD-SHELL", "y"), interval=5.0, retries=9)
    assert health(Health(("NONE",))) is None
    assert health(Health((), interval=1.0), CONFIG) is None
    assert health(None, replace(CONFIG, healthcheck=Health(("NONE",)))) is None
    with pytest.raises(InputError, match="health"):
        health(Health(("EXEC", "x")))


def test_users_are_switched_where_an_entrypoint_runs() -> None:
    assert spec(Asked(entrypoint=("/e",))).switch_users
    assert not spec(Asked(entrypoint=(), command=("x",))).switch_users
    assert not spec(Asked(entrypoint=("/e",), hold=True)).switch_users
