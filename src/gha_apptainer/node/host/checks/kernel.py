"""What the kernel lets this user do: namespaces, joining, filters, networks, limits."""

from __future__ import annotations

import os
import struct

from gha_apptainer.node.host import namespaces, trying
from gha_apptainer.node.host.checks.answering import Patient, Said, fail, ok, skip, warn
from gha_apptainer.node.host.surroundings import read_text

_ADMIN = "send the block at the end of this report to the administrators of this machine"
_FILES = 4096  # open files that a busy job wants


def user_namespace(patient: Patient) -> Said:
    """A user and a mount namespace are made, and one id is mapped."""
    reason = patient.facts.userns_reason
    return fail(reason, _ADMIN) if reason else ok("a user namespace can be made")


def nested_user_namespace(patient: Patient) -> Said:
    """A second user namespace is made inside the first, as Apptainer does inside ours."""
    if patient.facts.userns_reason:
        return skip("no user namespace to try it in")

    def twice() -> None:
        trying.own_namespace(trying.NEW_MOUNT)
        trying.own_namespace(trying.NEW_MOUNT, inside=True)

    reason = trying.attempt(twice)
    limit = read_text(namespaces.LIMIT).strip() or "not told"
    if reason:
        return fail("no user namespace inside another: %s" % reason, "raise user.max_user_namespaces (now %s); %s" % (limit, _ADMIN))
    return ok("a user namespace inside another can be made (limit %s)" % limit)


def fresh_proc(patient: Patient) -> Said:
    """A new /proc is mounted in a new pid namespace."""
    if patient.facts.userns_reason:
        return skip("no user namespace to try it in")
    reason = patient.facts.proc_reason
    if reason:
        return warn(
            "a container cannot have a /proc of its own: %s" % reason,
            "a pod around us masks parts of /proc: ask for procMount Unmasked; until then containers see the processes around them",
        )
    return ok("a container can have a /proc of its own")


def joining(patient: Patient) -> Said:
    """One process makes namespaces, another enters them by setns, as every exec does."""
    if patient.facts.userns_reason:
        return skip("no user namespace to try it in")

    def join() -> None:
        told_in, told_out = os.pipe()
        holder = os.fork()
        if holder == 0:
            try:
                trying.own_namespace(trying.NEW_MOUNT)
                os.write(told_out, b"r")
                trying.sleep_until_killed()
            finally:
                os._exit(1)
        os.close(told_out)
        try:
            if os.read(told_in, 1) != b"r":
                raise trying.CannotTry("the namespace to enter could not be made")
            trying.join(holder, ("user", "mnt"))
        finally:
            os.kill(holder, 9)
            os.waitpid(holder, 0)

    reason = trying.attempt(join)
    if reason:
        return fail("a running container cannot be entered: %s" % reason, "a seccomp profile around us may forbid setns; %s" % _ADMIN)
    return ok("a running container can be entered")


def seccomp(_: Patient) -> Said:
    """A seccomp filter is installed, as the emulation of root does."""
    reason = trying.attempt(trying.allow_all_filter)
    if reason:
        return warn("no seccomp filter can be installed: %s" % reason, "package managers in containers may fail at chown; %s" % _ADMIN)
    return ok("seccomp filters can be installed, so package managers work without subordinate ids")


def private_network(patient: Patient) -> Said:
    """A network namespace is made and `lo` is brought up in it."""
    if patient.facts.userns_reason:
        return skip("no user namespace to try it in")

    def loopback() -> None:
        import fcntl
        import socket

        trying.own_namespace(trying.NEW_MOUNT | trying.NEW_NET)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            fcntl.ioctl(probe, 0x8914, struct.pack("16sh14x", b"lo", 0x1))  # SIOCSIFFLAGS, IFF_UP: man 7 netdevice
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))

    reason = trying.attempt(loopback)
    if reason:
        return warn("--network none does not work: %s" % reason, "use --network host")
    return ok("--network none works, lo is up")


def network_card(patient: Patient) -> Said:
    """A pair of virtual network cards (veth) is made in a network namespace of our own."""
    if patient.facts.userns_reason:
        return skip("no user namespace to try it in")

    def pair() -> None:
        from gha_apptainer.node.host import links

        trying.own_namespace(trying.NEW_MOUNT | trying.NEW_NET)
        here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        route = links.Route()
        route.pair(here)
        route.up(links.INSIDE)

    reason = trying.attempt(pair)
    if reason:
        return warn(
            "containers of one network cannot reach each other: %s" % reason,
            "load the kernel's veth module (modprobe veth); until then services are reached with --network host, and by published ports",
        )
    return ok("containers of one network can reach each other by name")


def confinement(_: Patient) -> Said:
    """Names SELinux's mode and the AppArmor profile that we run under."""
    enforcing = read_text("/sys/fs/selinux/enforce").strip()
    profile = read_text("/proc/self/attr/current").strip("\0\n ")
    found = []
    if enforcing:
        found.append("SELinux is %s (%s)" % ("enforcing" if enforcing == "1" else "permissive", profile or "no context"))
    elif profile and profile != "unconfined":
        found.append("AppArmor profile %s" % profile)
    if enforcing == "1":
        return warn("; ".join(found), "if mounts fail, look for denials of overlay or fuse mounts with: ausearch -m avc -ts recent")
    return ok("; ".join(found) or "neither SELinux nor AppArmor confines us")


def cgroups(_: Patient) -> Said:
    """Looks for the counter by which a kill for memory is told from others."""
    mounts = read_text("/proc/self/mountinfo")
    own = read_text("/proc/self/cgroup")
    if " - cgroup2 " in mounts:
        lines = [line[3:] for line in own.splitlines() if line.startswith("0::")]
        for line in lines:
            if os.path.exists("/sys/fs/cgroup%s/memory.events" % line.rstrip("/")):
                return ok("cgroup v2, kills for memory can be told")
        return ok("cgroup v2, without a readable memory account: a kill for memory is only guessed")
    if " - cgroup " in mounts:
        return ok("cgroup v1, kills for memory are only guessed")
    return ok("no cgroups: kills for memory are only guessed")


def limits(_: Patient) -> Said:
    """Reads the hard limits of open files and processes."""
    import resource

    open_files, processes = resource.getrlimit(resource.RLIMIT_NOFILE)[1], resource.getrlimit(resource.RLIMIT_NPROC)[1]

    def told(number: int) -> str:
        return "unlimited" if number == resource.RLIM_INFINITY else str(number)

    text = "at most %s open files and %s processes" % (told(open_files), told(processes))
    if open_files != resource.RLIM_INFINITY and open_files < _FILES:
        return warn(text, "raise the hard limit of open files (ulimit -Hn) to %d or more" % _FILES)
    return ok(text)


def subordinate_ids(patient: Patient) -> Said:
    """Looks this user up in /etc/subuid."""
    import pwd

    uid = patient.facts.uid
    if len(patient.facts.uid_ranges) == 1 and patient.facts.uid_ranges[0].count == 1:
        return ok("one user id is mapped around us, which is enough")
    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        names = {str(uid)}
    rows = [line.split(":") for line in read_text("/etc/subuid").splitlines()]
    if any(len(row) == 3 and row[0] in names for row in rows):
        return ok("this user has subordinate ids; they are not needed and not used")
    return ok("no subordinate ids, and none are needed")
