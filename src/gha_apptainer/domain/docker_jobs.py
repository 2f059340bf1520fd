"""The rows of the table for `options:` of job containers and services, where they differ from `docker create`.

On a runner these words are a workflow's, written for Docker, and a job must not fail for a limit that nobody needs enforced. So what only
limits is approximated with a warning, what widens the job's rights is for the site's policy, and what would change a result is honoured or
refused. Rows without `apply` are read by `domain/job_options.py`.
"""

from __future__ import annotations

from typing import Tuple

from gha_apptainer.domain.docker_table import APPROXIMATE, HONOURED, OPTIONS, Draft, Option

_VERB = (OPTIONS,)
_LIMIT = "not enforced: limits are the batch system's or the machine's"


def _already(_draft: Draft, _flag: str, _value: str) -> None:
    """It is so, or makes no difference to a job."""


def _limit(long: str, *, value: str = "VALUE", short: str = "") -> Option:
    return Option(long, "a limit", short, value, True, _VERB, APPROXIMATE, _LIMIT, (), _already)


def _accepted(long: str, help: str, *, value: str = "", short: str = "") -> Option:
    return Option(long, help, short, value, True, _VERB, HONOURED, "", (), _already)


def _kept(long: str, help: str, *, value: str = "", short: str = "", aliases: Tuple[str, ...] = ()) -> Option:
    return Option(long, help, short, value, True, _VERB, HONOURED, "", aliases)


ROWS: Tuple[Option, ...] = (
    _kept("cpus", "how many processors it may run on; kept by processor affinity", value="NUMBER"),
    _kept("cpuset-cpus", "on which of the job's processors it may run", value="LIST"),
    _kept("memory", "checked against the machine's memory, not enforced", value="BYTES", short="m"),
    _kept("ulimit", "limits of processes, as far as the user may set them", value="NAME=SOFT[:HARD]"),
    _kept("device", "bind a device node that the site's policy allows", value="DEVICE"),
    _kept("privileged", "for the site's policy: refused, or ignored with a warning"),
    _kept("cap-add", "SYS_PTRACE needs nothing; others as --privileged", value="CAPABILITY"),
    _kept("security-opt", "seccomp=unconfined and no-new-privileges need nothing; others as --privileged", value="OPTION"),
    _kept("network", "host, none, or the job's own; container:NAME is refused", value="NETWORK", aliases=("net",)),
    _kept("ipc", "always its own", value="MODE"),
    _kept("pid", "always its own", value="MODE"),
    _kept("uts", "always its own", value="MODE"),
    _kept("userns", "always its own", value="MODE"),
    _kept("cgroupns", "always its own", value="MODE"),
    _kept("restart", "nothing is started again", value="POLICY"),
    _kept("group-add", "ignored: an ordinary user cannot take on other groups", value="GROUP"),
    _accepted("attach", "the runner shows the output", value="STREAM", short="a"),
    _accepted("detach", "the runner waits for nothing else", short="d"),
    _accepted("interactive", "there is nobody to type", short="i"),
    _accepted("tty", "there is no terminal", short="t"),
    _accepted("rm", "everything of a job is removed at its end"),
    _accepted("init", "there always is one"),
    _accepted("log-driver", "output is kept and shown at the end", value="DRIVER"),
    _accepted("log-opt", "output is kept and shown at the end", value="OPTION"),
    _accepted("annotation", "annotations are for OCI runtimes", value="TEXT"),
    _accepted("stop-timeout", "a job's end waits for nothing", value="SECONDS"),
    _accepted("sig-proxy", "signals are the runner's"),
    _limit("blkio-weight"),
    _limit("blkio-weight-device"),
    _limit("cgroup-parent"),
    _limit("cpu-period"),
    _limit("cpu-quota"),
    _limit("cpu-shares", short="c"),
    _limit("cpuset-mems"),
    _limit("device-read-bps"),
    _limit("device-read-iops"),
    _limit("device-write-bps"),
    _limit("device-write-iops"),
    _limit("kernel-memory"),
    _limit("memory-reservation"),
    _limit("memory-swap"),
    _limit("memory-swappiness"),
    _limit("oom-kill-disable", value=""),
    _limit("oom-score-adj"),
    _limit("pids-limit"),
)
