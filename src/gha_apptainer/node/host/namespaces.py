"""Why namespaces cannot be used here, tried in processes of their own and said with the name of the setting to change."""

from __future__ import annotations

import os

from gha_apptainer.node.host import trying
from gha_apptainer.node.host.surroundings import read_text

SWITCHES = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
)
"""Settings of Debian and of Ubuntu with the value that forbids user namespaces to ordinary users."""
LIMIT = "/proc/sys/user/max_user_namespaces"


def userns_reason() -> str:
    """Why no user and mount namespace can be made, in one sentence that names the setting to change; empty if one can."""
    failed = trying.attempt(lambda: trying.own_namespace(trying.NEW_MOUNT))
    return "user namespaces cannot be used (%s): %s" % (failed, _setting()) if failed else ""


def _setting() -> str:
    """The setting that forbids them, best known first."""
    if read_text(LIMIT).strip() == "0":
        return "the administrator has to set user.max_user_namespaces to 15000 or more (sysctl, as on EL systems)"
    if os.geteuid() != 0:
        if read_text(SWITCHES[0][0]).strip() == SWITCHES[0][1]:
            return "the administrator has to set kernel.unprivileged_userns_clone to 1 (sysctl, Debian)"
        if read_text(SWITCHES[1][0]).strip() == SWITCHES[1][1]:
            return (
                "the administrator has to set kernel.apparmor_restrict_unprivileged_userns to 0 (sysctl, Ubuntu), "
                "or to load an AppArmor profile that allows them"
            )
    try:
        os.stat("/proc/self/ns/user")
    except OSError:
        return "this kernel was built without them (CONFIG_USER_NS)"
    return "the container or sandbox around us forbids them (seccomp profile, or a limit of its own)"


def fresh_proc_reason() -> str:
    """Why a new /proc cannot be mounted in a new pid namespace; a container around us that masks parts of /proc forbids it."""

    def work() -> None:
        trying.own_namespace(trying.NEW_MOUNT | trying.NEW_PID)
        trying.in_child(lambda: trying.mount("proc", "/proc", "proc"))

    return trying.attempt(work)
