"""`exec` on its shortest path: one cold process, from arguments to a command in a running container, without a parser or a document.

Takes the plain forms of `gha-apptainer exec` (`-i -w -u -e NAME=VALUE`); whatever else is asked for is the full command's. Imports what
the joiner imports, nothing more.
"""

from __future__ import annotations

import os
import sys

from gha_apptainer.node.engine import flat, join
from gha_apptainer.node.interpreter import signal

_VALUES = {"-w": "cwd", "--workdir": "cwd", "-u": "user", "--user": "user", "-e": "env", "--env": "env"}
_HEX = frozenset("0123456789abcdef")


class Plain:
    """An exec in plain form: container by name or full id, command, and what differs from the container's own settings."""

    __slots__ = ("argv", "container", "cwd", "env", "interactive", "user")

    def __init__(self) -> None:
        self.container, self.cwd, self.user = "", "", ""
        self.argv: tuple[str, ...] = ()
        self.env: list[tuple[str, str]] = []
        self.interactive = False


def parse(argv: list[str]) -> Plain | None:
    """The arguments after `exec` as a plain request, or None if they need the full command."""
    plain = Plain()
    at = 0
    while at < len(argv) and argv[at].startswith("-"):
        word = argv[at]
        if word in ("-i", "--interactive"):
            plain.interactive = True
        elif word in _VALUES and at + 1 < len(argv):
            at += 1
            if _VALUES[word] == "env":
                name, equals, value = argv[at].partition("=")
                if not equals or not name:
                    return None
                plain.env.append((name, value))
            elif not argv[at]:
                return None
            else:
                setattr(plain, _VALUES[word], argv[at])
        else:
            return None
        at += 1
    if at + 2 > len(argv):
        return None
    plain.container, plain.argv = argv[at], tuple(argv[at + 1 :])
    return plain


def directory(state: str, container: str) -> str:
    """The record directory of a container named in full, or "" if the full command must look for it."""
    if "/" in container or container.startswith("."):
        return ""
    if len(container) == 64 and _HEX.issuperset(container):
        identity = container
    else:
        try:
            with open(state + "/names/" + container, "rb") as handle:
                identity = handle.read(256).split(b" ")[0].decode("ascii")
        except (OSError, ValueError):
            return ""
    found = state + "/containers/" + identity
    return found if len(identity) == 64 and _HEX.issuperset(identity) and os.path.isdir(found) else ""


def trusted(state: str) -> bool:
    """Whether the state directory is a private directory of this user, and no link."""
    try:
        found = os.lstat(state)
    except OSError:
        return False
    return found.st_mode & 0o170077 == 0o040000 and found.st_uid == os.geteuid()


def run(plain: Plain, base: str) -> int:
    """Enter, wait, and give Docker's exit code. Raises OSError or ValueError where the record cannot be used; nothing has run then."""
    record = flat.read(base + "/join")
    settings = flat.read_settings(base + "/exec")
    env = dict(settings.env)
    env.update(plain.env)
    command = join.Command(
        plain.argv,
        tuple(env.items()),
        plain.cwd or settings.cwd,
        plain.user or settings.user,
        0 if plain.interactive else -1,
        1,
        2,
    )
    try:
        pid = join.spawn(record, command)
    except join.JoinFailed as failed:
        sys.stderr.write("gha-apptainer: %s\n" % failed.text)
        return failed.code
    forward(pid)
    return join.exit_code(os.waitpid(pid, 0)[1])


def forward(pid: int) -> None:
    """Hand INT, TERM, HUP and QUIT on to the command."""

    def hand_on(number: int, _: object) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, hand_on)


def main(argv: list[str]) -> int | None:
    """The exit code, or None if this is a case for the full command (nothing has been done then)."""
    plain = parse(argv)
    if plain is None:
        return None
    state = os.environ.get("GHA_APPTAINER_STATE") or "/tmp/gha-apptainer-%d" % os.geteuid()
    base = directory(state, plain.container) if trusted(state) else ""
    if not base:
        return None
    try:
        return run(plain, base)
    except (OSError, ValueError):
        return None
