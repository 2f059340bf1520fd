"""How an Apptainer is asked for its version and tried once: the two command lines that probes of the machine need.

They stand here, and not with the other command lines in `node.apptainer`, because the probes lie below it.
"""

from __future__ import annotations

MINIMUM = (1, 3)
"""The oldest Apptainer that is taken: older ones lack options that the engine needs."""

Args = tuple[str, ...]


def version_argv(apptainer: str) -> Args:
    """Asks an Apptainer for its version."""
    return (apptainer, "--version")


def trial_argv(apptainer: str, root: str, program: Args) -> Args:
    """Starts a container of the directory `root` in a user namespace, as root and setuid installations too, to see whether it works.

    Without a pid namespace of its own: whether a new /proc can be mounted is a question of its own.
    """
    return (apptainer, "-s", "exec", "--userns", "--contain", "--no-home", "--no-mount", "hostfs,bind-paths", root, *program)


def too_old(path: str, said: str) -> tuple[str, str]:
    """Version, and why it is not good enough (empty: it is), from what `apptainer --version` printed."""
    import re

    match = re.search(r"\bapptainer version (\d+)\.(\d+)\S*", said)
    if match is None:
        return "", "%s is no Apptainer: it says %r for its version" % (path, said.strip()[:200])
    version = match.group(0).split()[-1]
    if (int(match.group(1)), int(match.group(2))) < MINIMUM:
        return version, "%s is version %s, %d.%d or newer is needed" % (path, version, *MINIMUM)
    return version, ""
