"""The kernel's count of processes that it killed for lack of memory, in the control group we run in. man 7 cgroups."""

from __future__ import annotations


def _paths() -> list[str]:
    found = []
    try:
        with open("/proc/self/cgroup") as handle:
            for line in handle:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                if controllers == "":
                    found += ["/sys/fs/cgroup%s/memory.events" % path, "/sys/fs/cgroup/unified%s/memory.events" % path]
                elif "memory" in controllers.split(","):
                    found += ["/sys/fs/cgroup/memory%s/memory.oom_control" % path]
    except (OSError, ValueError):
        pass
    return found


def oom_kills() -> int:
    """How many processes of our control group the kernel has killed for memory so far; -1 where it cannot be read."""
    for path in _paths():
        try:
            with open(path) as handle:
                for line in handle:
                    name, _, value = line.partition(" ")
                    if name == "oom_kill":
                        return int(value)
        except (OSError, ValueError):
            continue
    return -1
