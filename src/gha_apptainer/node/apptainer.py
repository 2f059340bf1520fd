"""The only module that builds Apptainer command lines and environments."""

from __future__ import annotations

import os.path
import sys

from gha_apptainer.domain.containers import Args, Env
from gha_apptainer.domain.hosts import HostFacts, IdRange
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.process import BASE_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Sequence, Tuple

MKSQUASHFS_ARGS = "-comp zstd -Xcompression-level 1"
"""Builds 2.7 times faster than the default, reads twice as fast and is 5 % larger."""

PASSED_TO_BUILDS = (
    "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip
"""What a build takes over from our own environment: how to reach the network, and nothing else."""

_GUARD = r"""
import ctypes, os, signal, sys
NEWUSER, PDEATHSIG = 0x10000000, 1
libc = ctypes.CDLL(None, use_errno=True)
parent, uids, gids = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def end(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGKILL)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, end)
libc.prctl(PDEATHSIG, signal.SIGTERM, 0, 0, 0)
if os.getppid() != parent:
    os._exit(125)
ready, mapped = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.umask(0o022)
    if uids:
        if libc.unshare(NEWUSER):
            sys.stderr.write("cannot make a user namespace: %s\n" % os.strerror(ctypes.get_errno()))
            os._exit(125)
        os.write(ready[1], b"x")
        if os.read(mapped[0], 1) != b"x":
            os._exit(125)
    libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        os.execvpe(sys.argv[4], sys.argv[4:], os.environ)
    except OSError as error:
        sys.stderr.write("cannot start %s: %s\n" % (sys.argv[4], error.strerror))
        os._exit(125)
os.close(ready[1])
os.close(mapped[0])
if uids and os.read(ready[0], 1) == b"x":
    try:
        for kind, table in (("uid_map", uids), ("gid_map", gids)):
            with open("/proc/%d/%s" % (child, kind), "w") as handle:
                handle.write(table.replace(",", "\n") + "\n")
        os.write(mapped[1], b"x")
    except OSError as error:
        sys.stderr.write("cannot map ids in a user namespace: %s\n" % error.strerror)
os.close(mapped[1])
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code if code >= 0 else 128 - code)
"""


def build_argv(
    apptainer: str,
    source: str,
    target: str,
    *,
    sandbox: bool,
    plain_http: bool = False,
    authfile: str = "",
    fix_perms: bool = False,
) -> Args:
    """`apptainer build` of `target` from `source` (docker://…, a SIF or a directory), as a directory or as a SIF.

    `fix_perms` gives an ordinary user rwX on everything, without which he could neither read nor remove some images.
    """
    argv = [apptainer, "-s", "build", "--force", "--disable-cache"]
    if sandbox:
        argv.append("--sandbox")
    else:
        argv += ["--mksquashfs-args", MKSQUASHFS_ARGS]
    if fix_perms:
        argv.append("--fix-perms")
    if plain_http:
        argv.append("--no-https")
    if authfile:
        argv += ["--authfile", authfile]
    return (*argv, target, source)


def build_env(apptainer: str, home: str, temporary: str, environ: Mapping[str, str]) -> Env:
    """The whole environment of a build: its own home, cache and temporary directories, and the caller's proxies."""
    beside = os.path.dirname(apptainer)
    own = {
        "PATH": "%s:%s" % (beside, BASE_PATH) if beside else BASE_PATH,
        "HOME": home,
        "LANG": "C.UTF-8",
        "TMPDIR": temporary,
        "APPTAINER_TMPDIR": temporary,
        "APPTAINER_CACHEDIR": os.path.join(home, "cache"),
        "APPTAINER_CONFIGDIR": os.path.join(home, "config"),
    }
    own.update({name: environ[name] for name in PASSED_TO_BUILDS if name in environ})
    return tuple(own.items())


def guarded_argv(argv: Args, parent: int, uids: Sequence[IdRange] = (), gids: Sequence[IdRange] = ()) -> Args:
    """`argv` under a small parent of its own, which ends the whole process group when process `parent` (ours) is gone.

    With id ranges it runs in a user namespace that maps them to themselves: root there has every right over files and
    none over the machine, and it works for a root that lacks capabilities, where plain Apptainer refuses to start. To be run by
    `process.run`, which makes it a group leader.
    """
    table = [",".join("%d %d %d" % (one.first, one.first, _not_all(one)) for one in ranges) for ranges in (uids, gids)]
    return (sys.executable, "-I", "-S", "-c", _GUARD, str(parent), *table, *argv)


def _not_all(ids: IdRange) -> int:
    """How many ids to map: never the last one of all, because a map of every id is how Apptainer recognises that it is in no namespace."""
    return min(ids.count, 4294967294 - ids.first)


ENGINE_CONFIG = (
    ("config passwd", "no"),
    ("config group", "no"),
    ("config resolv_conf", "no"),
    ("mount home", "no"),
    ("mount tmp", "no"),
    ("mount hostfs", "no"),
    ("enable overlay", "no"),
)
"""What Apptainer would mount or generate by itself is ours to decide; useradd cannot rename over a passwd file that it had bound."""


@dataclass(frozen=True)
class Bind:
    """One bind mount, absolute paths on both sides."""

    source: str
    target: str
    read_only: bool = False


def engine_config() -> str:
    """The configuration file with which the engine starts Apptainer: nothing of the host comes in unasked."""
    return "".join("%s = %s\n" % row for row in ENGINE_CONFIG)


def mount_option(bind: Bind) -> str:
    """The value of --mount: one CSV record, so that every path passes."""
    fields = ["type=bind", "source=" + bind.source, "destination=" + bind.target] + (["ro"] if bind.read_only else [])
    return ",".join('"%s"' % field.replace('"', '""') if any(mark in field for mark in ',"\n') else field for field in fields)


def exec_argv(
    host: HostFacts, root: str, program: Args, *, config: str, binds: Tuple[Bind, ...], flags: Args = (), fresh_proc: bool = True
) -> Args:
    """Start a container around `program` in the mounted root directory `root`.

    Contained (-C): own pid and ipc namespace, minimal /dev. --no-init: `program` is process 1. `config` is a file with engine_config,
    empty where the installation refuses the option (setuid). `fresh_proc` False is for hosts that forbid a new proc mount.
    """
    argv = [host.apptainer, "-s"]
    if config:
        argv += ["--config", config]
    argv += ["exec", "-C", "--no-init", "--no-home", "--writable", "--cwd", "/"]
    if host.apptainer_setuid:
        argv.append("--userns")
    unwanted = ["hostfs", "bind-paths"] + ([] if config else ["home", "tmp", "cwd"]) + ([] if fresh_proc else ["proc"])
    argv += ["--no-mount", ",".join(unwanted)]
    if not fresh_proc:
        argv += ["--mount", mount_option(Bind("/proc", "/proc"))]
    argv += list(flags)
    for bind in binds:
        argv += ["--mount", mount_option(bind)]
    return (*argv, root, *program)


def reproduce_argv(
    image: str, binds: Tuple[Bind, ...], cwd: str, program: Args, *, gpu: str = "", root: bool = False, writable: bool = True
) -> Tuple[Args, int]:
    """What a person types on a login node for about the same, and the place of the image in it. `image` is a path or docker://…@digest.

    It leans on nothing of ours: where that Apptainer has other rules, for root or for writing, it says so itself.
    """
    argv = ["apptainer", "exec", "--containall", "--no-home"]
    argv += ["--fakeroot"] if root else []
    argv += ["--writable-tmpfs"] if writable else []
    argv += {"nvidia": ["--nv"], "rocm": ["--rocm"]}.get(gpu, [])
    for bind in binds:
        argv += ["--mount", mount_option(bind)]
    argv += ["--pwd", cwd]
    return (*argv, image, *program), len(argv)
