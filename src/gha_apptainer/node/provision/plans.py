"""The plan: how Apptainer comes to a host, as a value, from a description of the host. Pure.

The sources: https://apptainer.org/docs/admin/main/installation.html for Ubuntu and EL, Debian's own packages for Debian.
"""

from __future__ import annotations

from typing import Any, Mapping, Tuple

from gha_apptainer.domain.apptainer_trials import MINIMUM
from gha_apptainer.domain.containers import Args
from gha_apptainer.domain.values import dataclass

_INSTALLATION = "https://apptainer.org/docs/admin/main/installation.html"
MACHINES = ("x86_64", "aarch64")
PRIVATE, SYSTEM, NONE = "private", "system", "none"


@dataclass(frozen=True)
class HostDescription:
    """What decides the way. `os_ids` is ID and then ID_LIKE of os-release; `version` its VERSION_ID, `pretty` its PRETTY_NAME.

    `sudo`: root by `sudo -n` without a question. `commands`: those of `ASKED` that the host has. `archives`: origins of the package
    archives that the host's apt uses. `cache`: where we may keep things, empty if nowhere.
    """

    os_ids: Args
    version: str
    pretty: str
    machine: str
    uid: int
    sudo: bool
    commands: Args
    archives: Args
    cache: str


ASKED = ("apt-get", "dpkg-deb", "tar", "dnf", "yum", "add-apt-repository", "sudo")
"""The commands that a description tells about."""


@dataclass(frozen=True)
class Step:
    """One thing to do: run `argv` (as root if `root`), or, with a `url`, first fetch it, check `sha256`, and run `argv` with `{file}`."""

    says: str
    argv: Args = ()
    root: bool = False
    url: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class ProvisionPlan:
    """`way` private: unpack packages in the user's cache; system: do the `steps`; none: `remedy` says what a person can do."""

    way: str
    says: str
    steps: Tuple[Step, ...] = ()
    remedy: str = ""


def plan(host: HostDescription, data: Mapping[str, Any], *, change_system: bool) -> ProvisionPlan:
    """How Apptainer comes to `host`. `change_system` allows to install system packages, as the action does on a hosted runner."""
    if host.machine not in MACHINES:
        return _nothing("no Apptainer can be installed on %s" % host.machine, "only %s are served" % " and ".join(MACHINES))
    if "Debian" in host.archives and {"apt-get", "dpkg-deb", "tar"} <= set(host.commands):
        return _private(host, data["debian"])
    if "ubuntu" in host.os_ids:
        return _system(host, _ubuntu_steps(host, data["ubuntu"]), change_system)
    if {"rhel", "centos", "fedora"} & set(host.os_ids):
        return _system(host, _el_steps(host, data["el"]), change_system)
    return _nothing(
        "no way is known to install Apptainer on %s" % host.pretty,
        "install Apptainer %d.%d or newer (%s), then name it in GHA_APPTAINER" % (*MINIMUM, _INSTALLATION),
    )


def _nothing(says: str, remedy: str) -> ProvisionPlan:
    return ProvisionPlan(NONE, says, remedy=remedy)


def _private(host: HostDescription, data: Mapping[str, Any]) -> ProvisionPlan:
    if not host.cache:
        return _nothing(
            "there is no directory to install Apptainer in", "set HOME or XDG_CACHE_HOME to a directory of yours, with 200 MB free"
        )
    says = "installs Apptainer of Debian %s in %s, without root; nothing of the system is changed" % (data["suite"], host.cache)
    return ProvisionPlan(PRIVATE, says)


def _system(host: HostDescription, steps: Tuple[Step, ...], change_system: bool) -> ProvisionPlan:
    commands = "; ".join(_as_typed(step) for step in steps)
    fetched = "".join("fetch %s, then " % step.url for step in steps if step.url)
    if not change_system:
        return _nothing("Apptainer is missing, and system packages are not for us to install", "%srun: %s" % (fetched, commands))
    if host.uid != 0 and not host.sudo:
        return _nothing("Apptainer is missing, and installing it needs root", "ask an administrator to %srun: %s" % (fetched, commands))
    return ProvisionPlan(SYSTEM, "installs the system package of Apptainer on %s" % host.pretty, steps)


def _as_typed(step: Step) -> str:
    return ("sudo " if step.root else "") + " ".join(step.argv).replace("{file}", "./" + step.url.rsplit("/", 1)[-1])


def _ubuntu_steps(host: HostDescription, data: Mapping[str, Any]) -> Tuple[Step, ...]:
    update = Step("reads the package lists", ("apt-get", "-qq", "update"), root=True)
    helpers = Step("installs its helpers", ("apt-get", "-qq", "-y", "install", *data["helpers"]), root=True)
    package = data["packages"].get(host.machine)
    if package is not None:
        install = Step(
            "installs Apptainer %s of its own project" % data["version"],
            ("apt-get", "-qq", "-y", "install", "{file}"),
            root=True,
            url=package["url"],
            sha256=package["sha256"],
        )
        return update, install, helpers
    archive = Step("adds the project's signed archive", ("add-apt-repository", "-y", data["archive"]), root=True)
    prepare = Step("installs what adds archives", ("apt-get", "-qq", "-y", "install", "software-properties-common"), root=True)
    install = Step("installs Apptainer", ("apt-get", "-qq", "-y", "install", "apptainer"), root=True)
    first = (update,) if "add-apt-repository" in host.commands else (update, prepare)
    return (*first, archive, install, helpers)


def _el_steps(host: HostDescription, data: Mapping[str, Any]) -> Tuple[Step, ...]:
    tool = "dnf" if "dnf" in host.commands else "yum"
    install = Step("installs Apptainer of EPEL", (tool, "-q", "-y", "install", *data["packages"]), root=True)
    if "fedora" in host.os_ids[:1]:  # Fedora has it in its own archive
        return (install,)
    return Step("adds EPEL", (tool, "-q", "-y", "install", data["repository"]), root=True), install
