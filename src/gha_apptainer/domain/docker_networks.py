"""The small languages of Docker's network and health flags: ports, networks, durations. Rules as in `docker_values`."""

from __future__ import annotations

from typing import List, Tuple

from gha_apptainer.domain.containers import LOOPBACK, NETWORK_HOST, NETWORK_NONE, NETWORK_PRIVATE, TCP, UDP, Port
from gha_apptainer.domain.docker_values import csv_fields, is_name
from gha_apptainer.domain.errors import InputError, Refused

_PORT_REMEDY = "write [ADDRESS:][HOST:]CONTAINER[/tcp|/udp], such as 8080:80, 127.0.0.1:8080:80 or 80"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def publish(flag: str, text: str) -> Tuple[Port, ...]:
    """A `-p` value: `[address:][host:]container[/protocol]`, with ranges of the same length; `host` may be empty, or a range for one port.

    Without an address the port is published on 127.0.0.1 only.
    """
    if "=" in text:
        return (_publish_long(flag, text),)
    body, _, protocol = text.partition("/")
    address, rest = _address(flag, text, body)
    host_text, colon, inside_text = rest.rpartition(":")
    if not colon:
        host_text, inside_text = "", rest
    inside = _range(flag, text, inside_text)
    kind = _protocol(flag, text, protocol)
    if not host_text:
        return tuple(Port(one, 0, address, kind) for one in inside)
    hosts = _range(flag, text, host_text)
    if len(inside) == 1 and len(hosts) > 1:
        return (Port(inside[0], hosts[0], address, kind, hosts[-1]),)
    if len(inside) != len(hosts):
        raise InputError("%s: the ranges in %r have different lengths" % (flag, text), remedy=_PORT_REMEDY)
    return tuple(Port(one, outside, address, kind) for one, outside in zip(inside, hosts))


def expose(flag: str, text: str) -> Tuple[Port, ...]:
    """An `--expose` value or a key of an image's ExposedPorts: `80`, `80/udp`, `7000-7009/tcp`."""
    body, _, protocol = text.partition("/")
    kind = _protocol(flag, text, protocol)
    return tuple(Port(one, 0, LOOPBACK, kind) for one in _range(flag, text, body))


def _publish_long(flag: str, text: str) -> Port:
    found = {"protocol": TCP, "published": "0", "target": ""}
    for field in csv_fields(flag, text):
        key, _, value = field.partition("=")
        if key == "mode":
            continue  # host or ingress: there is one machine
        if key not in found:
            raise InputError("%s: unknown key %r in %r" % (flag, key, text), remedy="known: target, published, protocol, mode")
        found[key] = value
    kind = _protocol(flag, text, found["protocol"])
    published = 0 if found["published"] == "0" else _number(flag, text, found["published"])
    return Port(_number(flag, text, found["target"]), published, LOOPBACK, kind)


def _address(flag: str, text: str, body: str) -> Tuple[str, str]:
    """The listener's address and what follows it."""
    if body.startswith("["):
        address, closed, rest = body[1:].partition("]:")
    elif body.count(":") == 2:
        address, _, rest = body.partition(":")
        closed = ":"
    elif body.count(":") < 2:
        return LOOPBACK, body
    else:
        closed = ""
    if not closed:
        raise InputError("%s: %r is no port" % (flag, text), cause="an IPv6 address stands in brackets", remedy=_PORT_REMEDY)
    if not address:
        return LOOPBACK, rest
    import ipaddress  # only here: it is slow to load

    try:
        return str(ipaddress.ip_address(address)), rest
    except ValueError as error:
        raise InputError("%s: %r in %r is no IP address" % (flag, address, text), remedy=_PORT_REMEDY) from error


def _protocol(flag: str, text: str, protocol: str) -> str:
    kind = protocol.lower() or TCP
    if kind == "sctp":
        raise Refused("%s=%s cannot be honoured: only tcp and udp are forwarded" % (flag, text), remedy="use tcp or udp")
    if kind not in (TCP, UDP):
        raise InputError("%s: unknown protocol %r in %r" % (flag, protocol, text), remedy="use tcp or udp")
    return kind


def _range(flag: str, text: str, part: str) -> Tuple[int, ...]:
    first, dash, last = part.partition("-")
    low = _number(flag, text, first)
    high = _number(flag, text, last) if dash else low
    if high < low:
        raise InputError("%s: the range %s in %r goes backwards" % (flag, part, text), remedy=_PORT_REMEDY)
    return tuple(range(low, high + 1))


def _number(flag: str, text: str, part: str) -> int:
    if not (part.isdigit() and part.isascii()) or not 1 <= int(part) <= 65535:
        raise InputError("%s: %r is no port" % (flag, text), remedy=_PORT_REMEDY)
    return int(part)


def network(flag: str, text: str) -> Tuple[str, str, Tuple[str, ...]]:
    """A `--network` value as (kind, name, aliases); the long form knows `name=` and `alias=`."""
    name = text
    aliases: List[str] = []
    if "=" in text:
        name = ""
        for field in csv_fields(flag, text):
            key, _, value = field.partition("=")
            if key == "name":
                name = value
            elif key == "alias":
                aliases.append(alias(flag, value))
            else:
                raise Refused("%s: %s cannot be honoured" % (flag, key or field), remedy="known: name= and alias=")
    if name in (NETWORK_HOST, NETWORK_NONE):
        return name, "", tuple(aliases)
    if name in (NETWORK_PRIVATE, "bridge", "default"):
        return NETWORK_PRIVATE, "", tuple(aliases)
    if name.startswith("container:"):
        raise Refused(
            "%s=%s cannot be honoured" % (flag, name), remedy="give both containers the same network NAME: they find each other by name"
        )
    if not is_name(name):
        raise InputError("%s: %r is no network" % (flag, text), remedy="use host, none, private, or a name that containers share")
    return NETWORK_PRIVATE, name, tuple(aliases)


def alias(flag: str, text: str) -> str:
    """A name for /etc/hosts."""
    if not text or len(text) > 253 or not text.isascii() or not all(letter.isalnum() or letter in "._-" for letter in text):
        raise InputError("%s: %r is no host name" % (flag, text), remedy="letters, digits, dots, dashes and underscores")
    return text


def duration(flag: str, text: str) -> float:
    """Seconds from Go's durations: `30s`, `1m30s`, `1.5h`, `500ms`, `0`. https://pkg.go.dev/time#ParseDuration"""
    rest, total = text, 0.0
    if rest == "0":
        return 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        unit = next((one for one in ("ns", "us", "µs", "ms", "s", "m", "h") if rest[digits:].startswith(one)), "")
        try:
            total += float(rest[:digits]) * _UNITS[unit]
        except (ValueError, KeyError) as error:
            raise InputError("%s: %r is no duration" % (flag, text), remedy="a number with its unit, such as 30s or 1m30s") from error
        rest = rest[digits + len(unit) :]
    if not text or 0 < total < 1e-3:
        raise InputError("%s: %r is no duration of at least 1ms" % (flag, text), remedy="a number with its unit, such as 30s or 1m30s")
    return total
