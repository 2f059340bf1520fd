from __future__ import annotations

import pytest

from gha_apptainer.domain.containers import ANONYMOUS, BIND, VOLUME, Mount
from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.errors import GhaError, InputError, Refused
from gha_apptainer.domain.hook_mounts import HostView, host_spelling, image_path_reason, system_mounts, user_mounts, volume_name, work_of
from gha_apptainer.domain.hook_nodes import GLIBC, MUSL, NONE, Libc, libc_of, node_fit
from gha_apptainer.domain.hook_policy import HookPolicy, check_device, check_image, check_policy, path_right, rights
from gha_apptainer.domain.hook_requests import HookMount
from gha_apptainer.domain.image_refs import parse

LINKS = {"/runner/link": "/etc", "/data/out": "/", "/var/run/docker.sock": "/run/docker.sock", "/runner/_temp": "/runner/_temp"}


def view(work: str = "/runner", exists: bool = True) -> HostView:
    def real(path: str) -> str:
        import posixpath

        path = posixpath.normpath(path)
        for link, target in LINKS.items():
            if path == link or path.startswith(link + "/"):
                return posixpath.normpath(target + path[len(link) :])
        return path

    return HostView(work, "a" * 32, real, lambda _: exists)


def test_a_policy_is_a_document() -> None:
    policy = HookPolicy(host_paths=("/data",), nodes={"musl": "/n"}, privileged="ignore")
    assert from_json(HookPolicy, to_json(policy)) == policy
    assert check_policy(HookPolicy(), "x") == HookPolicy()


@pytest.mark.parametrize(
    "policy",
    [
        HookPolicy(privileged="yes"),
        HookPolicy(networks=()),
        HookPolicy(networks=("bridge",)),
        HookPolicy(host_paths=("relative",)),
        HookPolicy(nodes={"glibc": "/x"}),
        HookPolicy(nodes={"musl": "x"}),
        HookPolicy(home="runner"),
        HookPolicy(pull="sometimes"),
        HookPolicy(host_steps="fine"),
    ],
)
def test_values_that_no_field_may_have(policy: HookPolicy) -> None:
    with pytest.raises(InputError, match=r"policy\.json"):
        check_policy(policy, "policy.json")


@pytest.mark.case("hooks-70", "hooks-79")
@pytest.mark.parametrize(
    "path, right",
    [
        ("/data", "rw"),
        ("/data/x", "rw"),
        ("/data2", ""),
        ("/data/ro/x", "ro"),
        ("/cvmfs/a", "ro"),
        ("/", ""),
        ("/dat", ""),
        ("/data/ro/rw/y", "rw"),
    ],
)
def test_the_longest_path_decides(path: str, right: str) -> None:
    policy = HookPolicy(host_paths=("/cvmfs:ro", "/data", "/data/ro:ro", "/data/ro/rw"))
    assert path_right(policy, path, {}) == right


@pytest.mark.case("hooks-70")
def test_mounts_that_are_allowed() -> None:
    policy = HookPolicy(host_paths=("/cvmfs:ro", "/data"))
    wanted = (
        HookMount("/cvmfs/x", "/c"),
        HookMount("/data/new", "/d/../e"),
        HookMount("", "/s"),
        HookMount("name", "/n"),
        HookMount("/runner/x", "/w"),
    )
    assert user_mounts(wanted, policy, view()) == (
        Mount("/cvmfs/x", "/c", True, BIND, create=True),
        Mount("/data/new", "/e", False, BIND, create=True),
        Mount("", "/s", False, ANONYMOUS),
        Mount("job-%s.name" % ("a" * 16), "/n", False, VOLUME),
        Mount("/runner/x", "/w", False, BIND, create=True),
    )
    assert volume_name("name", HookPolicy(volumes="runner"), "b" * 32) == "runner.name"


@pytest.mark.case("hooks-79")
@pytest.mark.parametrize(
    "source", ["/etc", "/", "/cvmfs/../etc", "/runner/link/passwd", "/data/out/etc", "/var/run/docker.sock", "/runnershop"]
)
def test_mounts_that_are_not(source: str) -> None:
    with pytest.raises(Refused) as caught:
        user_mounts((HookMount(source, "/x"),), HookPolicy(host_paths=("/cvmfs:ro", "/data")), view())
    assert source in caught.value.what


def test_a_path_to_read_must_be_there() -> None:
    with pytest.raises(InputError, match="does not exist"):
        user_mounts((HookMount("/cvmfs/none", "/x"),), HookPolicy(), view(exists=False))


@pytest.mark.case("hooks-14", "hooks-15")
def test_the_runners_own_mounts() -> None:
    wanted = (
        HookMount("/var/run/docker.sock", "/var/run/docker.sock"),
        HookMount("/runner/_actions", "/__w/_actions"),
        HookMount("/runner", "/__w"),
    )
    mounts = system_mounts(wanted, view())
    assert [one.target for one in mounts] == ["/__w/_actions", "/__w"]
    assert all(one.create for one in mounts)
    assert work_of(wanted, {}) == "/runner"
    assert work_of((), {"RUNNER_TEMP": "/other/_temp"}) == "/other"
    assert host_spelling(mounts, "/runner") == (Mount("/runner", "/runner", create=True),)
    assert host_spelling((Mount("/x", "/runner/inner"),), "/runner") == ()
    with pytest.raises(Refused, match="link leads elsewhere"):
        system_mounts((HookMount("/runner/link", "/__w/_temp"),), view())


def test_images_and_devices() -> None:
    policy = HookPolicy(images=("docker.io/library/*", "ghcr.io/owner/*:1"), devices=("/dev/dri/*",))
    check_image(policy, parse("ubuntu:24.04"))
    check_image(policy, parse("ghcr.io/owner/x:1"))
    check_image(policy, parse("/images/x.sif"))
    for name in ("quay.io/x/y", "ghcr.io/owner/x:2"):
        with pytest.raises(Refused):
            check_image(policy, parse(name))
    check_device(policy, "/dev/dri/card0")
    with pytest.raises(Refused):
        check_device(policy, "/dev/sda")
    assert image_path_reason("/cvmfs/x", HookPolicy(), view()) is None
    assert image_path_reason("/runner/x", HookPolicy(), view()) is None
    assert image_path_reason("/runner/link", HookPolicy(), view()) is not None
    assert "ignored" in rights(HookPolicy(privileged="ignore"), "--cap-add", "ALL")


@pytest.mark.case("hooks-20", "hooks-38")
@pytest.mark.parametrize(
    "libc, machine, nodes, alpine, place, problem",
    [
        (Libc(GLIBC, (2, 36)), "x86_64", {}, False, "", ""),
        (Libc(GLIBC, (2, 28)), "x86_64", {"glibc-2.17": "/n"}, False, "", ""),
        (Libc(GLIBC, (2, 17)), "x86_64", {}, False, "", "glibc 2.17"),
        (Libc(GLIBC, (2, 17)), "x86_64", {"glibc-2.17": "/old", "glibc-2.12": "/older", "glibc-2.20": "/new"}, False, "/old", ""),
        (Libc(GLIBC, (2, 11)), "x86_64", {"glibc-2.17": "/old"}, False, "", "glibc 2.11"),
        (Libc(MUSL, alpine=True), "x86_64", {}, True, "", ""),
        (Libc(MUSL), "x86_64", {"musl": "/m"}, True, "", ""),
        (Libc(MUSL, alpine=True), "aarch64", {"musl": "/m"}, False, "/m", ""),
        (Libc(MUSL, alpine=True), "aarch64", {}, True, "", "musl"),
        (Libc(NONE), "x86_64", {}, False, "", "no C library"),
    ],
)
def test_which_node_fits(libc: Libc, machine: str, nodes: dict[str, str], alpine: bool, place: str, problem: str) -> None:
    fit = node_fit(libc, machine, nodes)
    assert (fit.alpine, fit.place) == (alpine, place)
    assert bool(fit.problem) == bool(problem)
    assert problem in fit.problem


@pytest.mark.parametrize(
    "release, alpine_file, loader, banner, libc",
    [
        ("ID=alpine\n", True, True, "", Libc(MUSL, alpine=True)),
        ('ID="void"\n', False, True, "", Libc(MUSL)),
        ("ID=ubuntu\n", False, False, "GNU C Library (Ubuntu GLIBC 2.35-0ubuntu3) stable release version 2.35.", Libc(GLIBC, (2, 35))),
        ("", False, False, "GNU C Library in odd words", Libc(GLIBC)),
        ("ID=debian\n", False, False, "", Libc(NONE)),
    ],
)
def test_which_library_it_is(release: str, alpine_file: bool, loader: bool, banner: str, libc: Libc) -> None:
    assert libc_of(release, alpine_file, loader, banner) == libc


def test_errors_are_ours() -> None:
    with pytest.raises(GhaError):
        system_mounts((HookMount("relative", "/x"),), view())
