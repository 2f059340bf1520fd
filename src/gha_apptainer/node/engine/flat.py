"""The join record: what the joiner must know of a running container, as flat text that needs no parser.

A file of NUL-separated fields: the version, then name=value pairs. Written once by the monitor when the container is ready.
"""

from __future__ import annotations

import os

VERSION = b"gha-apptainer join 1"
_TEXT = ("boot", "machine", "libs")
_NUMBER = ("init", "started", "uid", "gid", "single", "emulate", "keyring")
_LIMIT = 1 << 16


class JoinRecord:
    """One running container as the joiner sees it.

    `init` and `started` name its first process (host pid, clock ticks since boot), `boot` the boot they belong to. `single` is 1 where
    its user namespace maps only one id, namely root to the host's `uid`/`gid`; `emulate` 1 where root is then emulated. `libs` is a
    directory of host libraries to append to LD_LIBRARY_PATH (GPU), or empty. `keyring` 1 keeps the caller's session keyring.
    """

    __slots__ = _TEXT + _NUMBER

    def __init__(
        self,
        boot: str,
        machine: str,
        init: int,
        started: int,
        uid: int,
        gid: int,
        single: int,
        emulate: int,
        keyring: int = 0,
        libs: str = "",
    ) -> None:
        self.boot, self.machine, self.libs = boot, machine, libs
        self.init, self.started, self.uid, self.gid = init, started, uid, gid
        self.single, self.emulate, self.keyring = single, emulate, keyring


def encode(record: JoinRecord) -> bytes:
    """The record as the bytes of its file."""
    fields = ["%s=%s" % (name, getattr(record, name)) for name in _TEXT + _NUMBER]
    return b"\0".join([VERSION] + [field.encode("utf-8", "surrogateescape") for field in fields])


def decode(data: bytes) -> JoinRecord:
    """The record in those bytes; ValueError if they are anything else."""
    head, *fields = data.split(b"\0")
    if head != VERSION:
        raise ValueError("not a join record of this version")
    values = dict(field.decode("utf-8", "surrogateescape").split("=", 1) for field in fields)
    if set(values) != set(_TEXT + _NUMBER):
        raise ValueError("a join record with other fields")
    text = {name: values[name] for name in _TEXT}
    number = {name: int(values[name]) for name in _NUMBER}
    return JoinRecord(
        boot=text["boot"],
        machine=text["machine"],
        libs=text["libs"],
        init=number["init"],
        started=number["started"],
        uid=number["uid"],
        gid=number["gid"],
        single=number["single"],
        emulate=number["emulate"],
        keyring=number["keyring"],
    )


def read(path: str) -> JoinRecord:
    """The record in a file of ours. Raises FileNotFoundError, or ValueError if it is not one (forged, half-written, not ours)."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid() or found.st_mode & 0o170077 != 0o100000:
            raise ValueError("not a private file of this user")
        return decode(os.read(handle, _LIMIT))
    finally:
        os.close(handle)


class ExecSettings:
    """What a command in a container starts with unless it asks for something else: environment, directory, user."""

    __slots__ = ("cwd", "env", "user")

    def __init__(self, env: tuple[tuple[str, str], ...], cwd: str, user: str) -> None:
        self.env, self.cwd, self.user = env, cwd, user


def encode_settings(settings: ExecSettings) -> bytes:
    """The settings as the bytes of their file: version, directory, user, then NAME=VALUE, NUL between them."""
    fields = [settings.cwd, settings.user] + ["%s=%s" % pair for pair in settings.env]
    return b"\0".join([VERSION] + [field.encode("utf-8", "surrogateescape") for field in fields])


def read_settings(path: str) -> ExecSettings:
    """The settings in a file of ours; errors as `read`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid() or found.st_mode & 0o170077 != 0o100000:
            raise ValueError("not a private file of this user")
        data = b""
        while len(data) < found.st_size:
            part = os.read(handle, found.st_size - len(data))
            if not part:
                raise ValueError("half a file")
            data += part
    finally:
        os.close(handle)
    head, cwd, user, *pairs = data.decode("utf-8", "surrogateescape").split("\0")
    if head != VERSION.decode():
        raise ValueError("not of this version")
    split = [pair.partition("=") for pair in pairs]
    return ExecSettings(tuple((name, value) for name, _, value in split), cwd, user)
