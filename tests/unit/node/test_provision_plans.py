"""How Apptainer comes to hosts of all kinds: plans from recorded descriptions, nothing is run."""

from __future__ import annotations

from typing import Any

import pytest

from gha_apptainer.node.provision.description import os_release, ways
from gha_apptainer.node.provision.plans import NONE, PRIVATE, SYSTEM, HostDescription, ProvisionPlan, plan

APT = ("apt-get", "dpkg-deb", "tar")


def host(**given: Any) -> HostDescription:
    values: dict[str, Any] = {
        "os_ids": ("debian",),
        "version": "12",
        "pretty": "Debian GNU/Linux 12 (bookworm)",
        "machine": "x86_64",
        "uid": 1000,
        "sudo": False,
        "commands": APT,
        "archives": ("Debian",),
        "cache": "/home/u/.cache/gha-apptainer",  # allowed-path
    }
    values.update(given)
    return HostDescription(**values)


UBUNTU: dict[str, Any] = {"os_ids": ("ubuntu", "debian"), "version": "24.04", "pretty": "Ubuntu 24.04.1 LTS", "archives": ("Ubuntu",)}
ALMA: dict[str, Any] = {
    "os_ids": ("almalinux", "rhel", "centos", "fedora"),
    "version": "9.4",
    "pretty": "AlmaLinux 9.4",
    "commands": ("tar", "dnf"),
    "archives": (),
}
FEDORA: dict[str, Any] = {"os_ids": ("fedora",), "version": "41", "pretty": "Fedora Linux 41", "commands": ("tar", "dnf"), "archives": ()}
CENTOS7: dict[str, Any] = {
    "os_ids": ("centos", "rhel", "fedora"),
    "version": "7",
    "pretty": "CentOS Linux 7",
    "commands": ("tar", "yum"),
    "archives": (),
}


def planned(change_system: bool = False, **given: Any) -> ProvisionPlan:
    return plan(host(**given), ways(), change_system=change_system)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("change_system", [False, True])
def test_debian_installs_privately_even_as_root(machine: str, uid: int, change_system: bool) -> None:
    found = planned(change_system, machine=machine, uid=uid)
    assert (found.way, found.steps) == (PRIVATE, ())
    assert "/home/u/.cache/gha-apptainer" in found.says  # allowed-path


def test_debian_without_a_home_says_what_to_set() -> None:
    found = planned(cache="")
    assert found.way == NONE
    assert "XDG_CACHE_HOME" in found.remedy


@pytest.mark.parametrize("given", [UBUNTU, ALMA, FEDORA, CENTOS7], ids=["ubuntu", "alma", "fedora", "centos"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_system_packages_only_where_that_is_allowed(given: dict[str, Any], machine: str) -> None:
    found = planned(False, machine=machine, **given)
    assert found.way == NONE
    assert "sudo " in found.remedy
    assert "apptainer" in found.remedy


@pytest.mark.parametrize("given", [UBUNTU, ALMA], ids=["ubuntu", "alma"])
def test_system_packages_need_root_or_sudo(given: dict[str, Any]) -> None:
    assert planned(True, **given).way == NONE
    assert planned(True, sudo=True, **given).way == SYSTEM
    assert planned(True, uid=0, **given).way == SYSTEM


def test_ubuntu_fetches_the_projects_package_with_its_digest() -> None:
    update, install, helpers = planned(True, uid=0, **UBUNTU).steps
    assert update.argv == ("apt-get", "-qq", "update")
    assert install.url.startswith("https://github.com/apptainer/apptainer/releases/download/v1.4.5/")
    assert len(install.sha256) == 64
    assert install.argv[-1] == "{file}"
    assert {"squashfuse", "fuse-overlayfs"} <= set(helpers.argv)


def test_ubuntu_on_arm_uses_the_projects_signed_archive() -> None:
    argvs = [step.argv for step in planned(True, uid=0, machine="aarch64", **UBUNTU).steps]
    assert ("apt-get", "-qq", "-y", "install", "software-properties-common") in argvs
    assert ("add-apt-repository", "-y", "ppa:apptainer/ppa") in argvs
    ready = [step.argv for step in planned(True, uid=0, machine="aarch64", **{**UBUNTU, "commands": (*APT, "add-apt-repository")}).steps]
    assert ("apt-get", "-qq", "-y", "install", "software-properties-common") not in ready


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_el_uses_epel_and_fedora_its_own_archive(machine: str) -> None:
    assert planned(True, uid=0, machine=machine, **ALMA).steps[0].argv[-1] == "epel-release"
    assert planned(True, uid=0, machine=machine, **CENTOS7).steps[0].argv[0] == "yum"
    (only,) = planned(True, uid=0, machine=machine, **FEDORA).steps
    assert "apptainer" in only.argv


def test_ubuntu_with_a_debian_archive_is_served_privately() -> None:
    assert planned(**{**UBUNTU, "archives": ("Ubuntu", "Debian")}).way == PRIVATE


@pytest.mark.parametrize("machine", ["ppc64le", "riscv64", "i686"])
def test_other_machines_are_refused_by_name(machine: str) -> None:
    found = planned(True, uid=0, machine=machine)
    assert found.way == NONE
    assert machine in found.says


def test_an_unknown_system_gets_the_address_of_the_instructions() -> None:
    found = planned(True, uid=0, os_ids=("arch",), pretty="Arch Linux", commands=("tar",), archives=())
    assert found.way == NONE
    assert "Arch Linux" in found.says
    assert "GHA_APPTAINER" in found.remedy


def test_os_release_is_read_with_and_without_quotes() -> None:
    text = "# a remark\nID=ubuntu\nID_LIKE=\"debian\"\nPRETTY_NAME='Ubuntu 24.04'\n\nBROKEN\n"
    assert os_release(text) == {"ID": "ubuntu", "ID_LIKE": "debian", "PRETTY_NAME": "Ubuntu 24.04"}
