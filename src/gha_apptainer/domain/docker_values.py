"""The small languages inside Docker's flags: volumes, mounts, sizes, files of variables, signals.

Every parser is pure, names the flag that it reads in its errors, and raises InputError for what is wrong and Refused for what is
Docker's but cannot be honoured here. Sources: https://docs.docker.com/reference/cli/docker/container/run/ and Docker's behaviour.
"""

from __future__ import annotations

from gha_apptainer.domain.containers import ANONYMOUS, BIND, TMPFS, VOLUME, Mount
from gha_apptainer.domain.errors import InputError, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Mapping, Optional, Tuple

    Reader = Callable[[str], bytes]
    """Gives the bytes of a file that an option names; raises OSError."""

_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_REST = _NAME_FIRST | frozenset("_.-")
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SPACE = " \t\n\v\f\r"

_MODE_GROUPS: Mapping[str, str] = {
    "ro": "access",
    "rw": "access",
    "z": "label",
    "Z": "label",
    "nocopy": "copy",
    "cached": "consistency",
    "delegated": "consistency",
    "consistent": "consistency",
    "private": "propagation",
    "rprivate": "propagation",
    "slave": "propagation",
    "rslave": "propagation",
    "shared": "propagation",
    "rshared": "propagation",
}
_LATE_MOUNTS = "mounts made on the host after the container's start may not appear inside, and never the other way round"

_SIGNALS = [
    "HUP",
    "INT",
    "QUIT",
    "ILL",
    "TRAP",
    "ABRT",
    "BUS",
    "FPE",
    "KILL",
    "USR1",
    "SEGV",
    "USR2",
    "PIPE",
    "ALRM",
    "TERM",
    "STKFLT",
    "CHLD",
    "CONT",
    "STOP",
    "TSTP",
    "TTIN",
    "TTOU",
    "URG",
    "XCPU",
    "XFSZ",
    "VTALRM",
    "PROF",
    "WINCH",
    "IO",
    "PWR",
    "SYS",
]  # the numbers 1 to 31 of Linux on x86_64 and aarch64, in order
_SIGNAL_ALIASES = {"IOT": "ABRT", "CLD": "CHLD", "POLL": "IO"}
_RTMIN, _RTMAX = 34, 64


_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)"


def is_name(text: str) -> bool:
    """Whether Docker would take this as the name of a container or a volume: two characters or more of [a-zA-Z0-9_.-]."""
    return len(text) > 1 and text[0] in _NAME_FIRST and all(letter in _NAME_REST for letter in text)


def boolean(flag: str, text: str) -> bool:
    """A boolean as Go's strconv.ParseBool reads it."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InputError("%s: %r is no boolean" % (flag, text), remedy="use true or false")


def whole(flag: str, text: str, *, least: int = 0) -> int:
    """A decimal integer of at least `least`."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isdigit() and digits.isascii()) or int(text) < least:
        raise InputError("%s: %r is no whole number of at least %d" % (flag, text, least))
    return int(text)


def size(flag: str, text: str) -> int:
    """Bytes from Docker's size syntax: `65536k`, `64m`, `1.5g`, `2GiB`; units are powers of 1024."""
    lowered = text.strip().lower()
    digits = lowered.rstrip("kmgtpib ")
    unit = lowered[len(digits) :].strip()
    for ending in ("ib", "b"):
        if len(unit) > 1 and unit.endswith(ending):
            unit = unit[: -len(ending)]
            break
    try:
        if unit not in _UNITS or not digits or not all(letter.isdigit() or letter == "." for letter in digits):
            raise ValueError(text)
        return int(float(digits) * _UNITS[unit]) if "." in digits else int(digits) * _UNITS[unit]
    except ValueError as error:
        raise InputError("%s: %r is no size" % (flag, text), remedy="write bytes, or a number with k, m or g, such as 64m") from error


def duration(flag: str, text: str) -> float:
    """Seconds of a duration as Go writes it, such as 30s or 1m30s; a bare number is seconds."""
    import re  # slow to load, and few commands have durations

    parts = re.findall(_DURATION, text)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InputError("%s %s is no duration" % (flag, text), remedy="such as 30s, 1m30s or 2h")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def octal(flag: str, text: str) -> int:
    """File permission bits from octal digits."""
    if not text or any(letter not in "01234567" for letter in text) or int(text, 8) > 0o7777:
        raise InputError("%s: %r is no octal mode" % (flag, text), remedy="such as 1777 or 0755")
    return int(text, 8)


def target(flag: str, text: str) -> str:
    """A path inside the container: absolute, not the root itself, written without `..` and doubled slashes."""
    if not text.startswith("/"):
        raise InputError("%s: %r is no absolute path in the container" % (flag, text))
    parts: List[str] = []
    for part in text.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    if not parts:
        raise InputError("%s: the root directory cannot be mounted over" % flag)
    return "/" + "/".join(parts)


def host_path(flag: str, text: str, cwd: str) -> str:
    """A path on the host; `.`, `./x` and `../x` are relative to `cwd`, as in Docker's client."""
    if text.startswith("/"):
        return text
    if text.startswith("."):
        import posixpath  # cheap: os has loaded it

        return posixpath.normpath(posixpath.join(cwd, text))
    raise InputError("%s: %r is no absolute path on the host" % (flag, text), remedy="begin it with / or ./")


def signal_number(text: str, flag: str = "signal") -> int:
    """The number of a signal written as Docker takes it: `TERM`, `SIGTERM`, `15`, `RTMIN+3`. Raises InputError."""
    if text.isdigit() and text.isascii():
        number = int(text)
        if 1 <= number <= _RTMAX:
            return number
    upper = text.upper()
    name = upper[3:] if upper.startswith("SIG") else upper
    name = _SIGNAL_ALIASES.get(name, name)
    if name in _SIGNALS:
        return _SIGNALS.index(name) + 1
    for anchor, base, sign in (("RTMIN", _RTMIN, "+"), ("RTMAX", _RTMAX, "-")):
        offset = name[len(anchor) + 1 :]
        if name == anchor:
            return base
        if name.startswith(anchor + sign) and offset.isdigit() and _RTMIN <= base + int(sign + offset) <= _RTMAX:
            return base + int(sign + offset)
    raise InputError("%s: %r is no signal" % (flag, text), remedy="such as SIGTERM, INT or 9")


def signal_name(text: str, flag: str = "signal") -> str:
    """The same signal as `SIGTERM` or, for a real-time one, as `SIGRTMIN+3`."""
    number = signal_number(text, flag)
    if number <= len(_SIGNALS):
        return "SIG" + _SIGNALS[number - 1]
    return "SIGRTMIN+%d" % (number - _RTMIN) if number > _RTMIN else "SIGRTMIN" if number == _RTMIN else str(number)


def key_values(flag: str, path: str, read: Reader, environ: Optional[Mapping[str, str]]) -> Tuple[Tuple[str, Optional[str]], ...]:
    """The lines of a --env-file or --label-file, in Docker's format.

    One NAME=VALUE a line, the value taken to the end of the line as it stands: no quoting, no escapes. Lines whose first character is
    `#` and blank lines are skipped; spaces before the name are dropped, spaces in it are an error, and so is text that is no UTF-8. A
    bare NAME takes its value from `environ` and is left out where that has none; without an `environ` it stays bare. Errors name file
    and line.
    """
    try:
        data = read(path)
    except OSError as error:
        raise InputError("%s: cannot read %s: %s" % (flag, path, error.strerror or error)) from error
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    found: List[Tuple[str, Optional[str]]] = []
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = (raw[:-1] if raw.endswith(b"\r") else raw).decode("utf-8").lstrip(_SPACE)
        except UnicodeDecodeError as error:
            raise InputError("%s: %s:%d: bytes that are no UTF-8" % (flag, path, number)) from error
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not name:
            raise InputError("%s: %s:%d: no name before the `=`" % (flag, path, number))
        if any(letter in _SPACE for letter in name):
            raise InputError(
                "%s: %s:%d: the name %r contains white space" % (flag, path, number, name),
                remedy="write NAME=VALUE without spaces around the `=`",
            )
        if "\0" in line:
            raise InputError("%s: %s:%d: a NUL byte" % (flag, path, number))
        if equals:
            found.append((name, value))
        elif environ is None:
            found.append((name, None))
        elif name in environ:
            found.append((name, environ[name]))
    return tuple(found)


def volume(flag: str, text: str, cwd: str, warn: Callable[[str], None]) -> Mount:
    """A `-v` value: `/in`, `name:/in`, `/host:/in`, each of the latter two with `:options`."""
    parts = text.split(":")
    if not text or len(parts) > 3 or any(not part for part in parts):
        raise InputError(
            "%s: %r is no volume" % (flag, text),
            cause="an empty part, or a `:` in a path" if text else "it is empty",
            remedy="write source:target[:options]; for a path with a colon use --mount",
        )
    if len(parts) == 1:
        return Mount(source="", target=target(flag, text), kind=ANONYMOUS)
    read_only = _volume_mode(flag, parts[2], warn) if len(parts) == 3 else False
    inside = target(flag, parts[1])
    source = parts[0]
    if source[0] in "/.":
        return Mount(source=host_path(flag, source, cwd), target=inside, read_only=read_only, create=True)
    return Mount(source=_volume_name(flag, source), target=inside, read_only=read_only, kind=VOLUME)


def _volume_name(flag: str, text: str) -> str:
    if not is_name(text):
        raise InputError(
            "%s: %r is neither a path nor the name of a volume" % (flag, text),
            remedy="a path begins with / or ./; a name has two or more of the characters a-z A-Z 0-9 _ . -",
        )
    return text


def _volume_mode(flag: str, text: str, warn: Callable[[str], None]) -> bool:
    """Whether the options ask for read-only. SELinux labels need no change: the container runs as the user, with the user's own context."""
    seen: Dict[str, str] = {}
    for word in text.split(","):
        group = _MODE_GROUPS.get(word)
        if group is None:
            raise InputError("%s: unknown volume option %r" % (flag, word), remedy="known: " + ", ".join(_MODE_GROUPS))
        if group in seen:
            raise InputError("%s: volume options %r and %r exclude each other" % (flag, seen[group], word))
        seen[group] = word
    _propagation(flag, seen.get("propagation", ""), warn)
    return seen.get("access") == "ro"


def _propagation(flag: str, word: str, warn: Callable[[str], None]) -> None:
    if word and word not in ("private", "rprivate"):
        warn("%s: propagation %r: %s" % (flag, word, _LATE_MOUNTS))


def tmpfs(flag: str, text: str, warn: Callable[[str], None]) -> Mount:
    """A `--tmpfs` value: `/path[:option,…]`."""
    path, _, options = text.partition(":")
    inside = target(flag, path)
    bytes_, mode, read_only = 0, 0o1777, False
    for word in options.split(",") if options else ():
        name, _, value = word.partition("=")
        if name == "size":
            if value.endswith("%"):
                raise Refused(
                    "%s: size=%s: a share of the memory cannot be given" % (flag, value), remedy="give it in bytes, such as size=64m"
                )
            bytes_ = size(flag, value)
        elif name == "mode":
            mode = octal(flag, value)
        elif word in ("ro", "rw"):
            read_only = word == "ro"
        elif word == "noexec":
            warn("%s: programs on %s can be executed, noexec has no effect" % (flag, inside))
        elif word not in ("nosuid", "nodev", "exec"):
            raise Refused("%s: option %r cannot be honoured" % (flag, word), remedy="known: size=, mode=, ro, rw, exec, nosuid, nodev")
    return Mount(source="", target=inside, read_only=read_only, kind=TMPFS, size=bytes_, mode=mode)


def csv_fields(flag: str, text: str) -> Tuple[str, ...]:
    """One record of comma-separated values; a field in double quotes may hold commas, `""` in it is one quote."""
    fields: List[str] = []
    at = 0
    while True:
        if text[at : at + 1] != '"':
            end = text.find(",", at)
            end = len(text) if end < 0 else end
            fields.append(text[at:end])
            if '"' in fields[-1]:
                raise InputError("%s: a quote in the middle of %r" % (flag, fields[-1]), remedy='quote the whole field: "source=/a,b"')
        else:
            field, end = _quoted(flag, text, at + 1)
            fields.append(field)
            if end < len(text) and text[end] != ",":
                raise InputError("%s: text after the closing quote of %r" % (flag, field))
        if end >= len(text):
            return tuple(fields)
        at = end + 1


def _quoted(flag: str, text: str, at: int) -> Tuple[str, int]:
    parts: List[str] = []
    while True:
        end = text.find('"', at)
        if end < 0:
            raise InputError("%s: a quote is not closed in %r" % (flag, text))
        parts.append(text[at:end])
        if text[end + 1 : end + 2] != '"':
            return "".join(parts), end + 1
        parts.append('"')
        at = end + 2


_MOUNT_KEYS = {
    "type": "type",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "readonly",
    "ro": "readonly",
    "consistency": "consistency",
    "bind-propagation": "bind-propagation",
    "bind-recursive": "bind-recursive",
    "volume-nocopy": "volume-nocopy",
    "tmpfs-size": "tmpfs-size",
    "tmpfs-mode": "tmpfs-mode",
}
_MOUNT_BOOLEANS = ("readonly", "volume-nocopy")
_MOUNT_REFUSED = ("bind-nonrecursive", "volume-driver", "volume-label", "volume-opt", "volume-subpath", "image-subpath")
_MOUNT_TYPES = (BIND, VOLUME, TMPFS)


def mount(flag: str, text: str, cwd: str, warn: Callable[[str], None]) -> Mount:
    """A `--mount` value: comma-separated `key=value`, type bind, volume (the default) or tmpfs. A missing bind source stays an error."""
    values = _mount_values(flag, text)
    kind = values.get("type", VOLUME)
    if kind not in _MOUNT_TYPES:
        raise Refused("%s: type=%s cannot be honoured" % (flag, kind), remedy="use one of: " + ", ".join(_MOUNT_TYPES))
    for key in values:
        owner = key.partition("-")[0]
        if owner in _MOUNT_TYPES and owner != kind:
            raise InputError("%s: %s does not go with type=%s" % (flag, key, kind))
    if "target" not in values:
        raise InputError("%s: %r has no target" % (flag, text), remedy="add target=/path")
    inside = target(flag, values["target"])
    read_only = boolean(flag, values.get("readonly", "false"))
    source = values.get("source", "")
    if kind == TMPFS:
        if source:
            raise InputError("%s: a tmpfs has no source" % flag)
        size_ = size(flag, values.get("tmpfs-size", "0"))
        return Mount(
            source="", target=inside, read_only=read_only, kind=TMPFS, size=size_, mode=octal(flag, values.get("tmpfs-mode", "1777"))
        )
    if kind == VOLUME:
        if not source:
            return Mount(source="", target=inside, read_only=read_only, kind=ANONYMOUS)
        return Mount(source=_volume_name(flag, source), target=inside, read_only=read_only, kind=VOLUME)
    if not source:
        raise InputError("%s: %r has no source" % (flag, text), remedy="add source=/path")
    if values.get("bind-recursive", "enabled") != "enabled":
        raise Refused("%s: bind-recursive=%s cannot be honoured" % (flag, values["bind-recursive"]), remedy="only enabled, the default")
    _propagation(flag, values.get("bind-propagation", ""), warn)
    return Mount(source=host_path(flag, source, cwd), target=inside, read_only=read_only)


def _mount_values(flag: str, text: str) -> Dict[str, str]:
    values: Dict[str, str] = {}
    for field in csv_fields(flag, text):
        name, equals, value = field.partition("=")
        key = _MOUNT_KEYS.get(name.lower(), "")
        if name.lower() in _MOUNT_REFUSED:
            raise Refused("%s: %s cannot be honoured" % (flag, name))
        if not key:
            raise InputError("%s: unknown key %r in %r" % (flag, name, text), remedy="known: " + ", ".join(_MOUNT_KEYS))
        if not equals and key not in _MOUNT_BOOLEANS:
            raise InputError("%s: %s needs a value in %r" % (flag, name, text))
        values[key] = value if equals else "true"
    return values
