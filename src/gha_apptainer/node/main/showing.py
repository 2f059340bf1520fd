"""ps, logs, inspect: what containers are and what they wrote."""

from __future__ import annotations

import json
import os
import time

from gha_apptainer.domain.containers import CREATED, EXITED, HEALTHY, RUNNING, STARTING, TCP, UNHEALTHY, Args, Container, HealthState
from gha_apptainer.domain.docker_options import ParsedOptions
from gha_apptainer.domain.docker_values import whole
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.node.main import tell
from gha_apptainer.node.main.context import Context, each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Sequence, Tuple

PS_VERSION = 1
"""Version of the document that `ps --json` prints."""
_STATES = (CREATED, RUNNING, EXITED)


def ps(argv: Args, context: Context) -> int:
    """`docker ps`: newest first."""
    parsed = context.parse(argv, "ps")
    if parsed is None:
        return 0
    if parsed.positional:
        raise InputError("ps takes no names", remedy="use --filter name=%s" % parsed.positional[0])
    form = "document" if parsed.has("json") else parsed.last("format", "table")
    if form not in ("document", "table", "json"):
        raise Refused("--format: templates are not understood", remedy="use table or json, or --json for one document")
    matches = [_filter(text) for text in parsed.given.get("--filter", ())]
    found = [one for one in reversed(context.engine.list()) if all(match(one) for match in matches)]
    found = _limited(found, parsed)
    if parsed.has("quiet"):
        lines: Sequence[str] = [one.id if parsed.has("no-trunc") else one.id[:12] for one in found]
    elif form == "document":
        lines = [json.dumps({"version": PS_VERSION, "containers": [row(one) for one in found]}, indent=2)]
    elif form == "json":
        lines = [json.dumps(row(one)) for one in found]
    else:
        lines = table([row(one) for one in found], whole_texts=parsed.has("no-trunc"))
    for line in lines:
        tell(line)
    return 0


def _limited(found: List[Container], parsed: ParsedOptions) -> List[Container]:
    """Without -a those that run; -n and -l count all, and so does a filter that asks for a status."""
    last = 1 if parsed.has("latest") else whole("--last", parsed.last("last", "-1"), least=-1)
    if last >= 0:
        return found[:last]
    by_status = any(text.startswith("status=") for text in parsed.given.get("--filter", ()))
    return [one for one in found if one.state == RUNNING or by_status or parsed.has("all")]


def _filter(text: str) -> Callable[[Container], bool]:
    key, equals, value = text.partition("=")
    if not equals or not value:
        raise InputError("--filter: %r is no KEY=VALUE" % text)
    if key == "id":
        return lambda one: one.id.startswith(value)
    if key == "name":
        return lambda one: value in one.name
    if key == "ancestor":
        return lambda one: value in (one.spec.image.reference, one.spec.image.digest.text)
    if key == "status" and value in _STATES:
        return lambda one: one.state == value
    if key == "health" and value in (STARTING, HEALTHY, UNHEALTHY, "none"):
        return lambda one: value == ("none" if one.health is None else one.health.status)
    if key == "network":
        return lambda one: value in (one.spec.network_name, one.spec.network)
    if key == "label":
        name, wants, wanted = value.partition("=")
        return lambda one: name in one.spec.labels and (not wants or one.spec.labels[name] == wanted)
    raise InputError(
        "--filter: %r is not known" % text,
        remedy="id=, name=, label=, ancestor=, network=, health=starting|healthy|unhealthy|none, status=" + "|".join(_STATES),
    )


def row(one: Container) -> Dict[str, object]:
    """One container under the names of `docker ps --format json`, times as RFC 3339."""
    main = one.spec.main
    return {
        "ID": one.id,
        "Image": one.spec.image.reference,
        "Command": " ".join(main.argv) if main is not None else "",
        "CreatedAt": moment(one.created),
        "State": one.state,
        "Status": _status(one),
        "Ports": _ports(one),
        "Names": one.name,
        "Labels": dict(one.spec.labels),
        "Scope": one.spec.owner.scope,
    }


def _status(one: Container) -> str:
    if one.state == EXITED and one.status is not None:
        return "Exited (%d) %s ago" % (one.status.exit_code, _ago(time.time() - one.status.finished))
    if one.state != RUNNING:
        return "Created"
    if one.health is None:
        return "Up"
    return "Up (health: starting)" if one.health.status == STARTING else "Up (%s)" % one.health.status


def _ports(one: Container) -> str:
    """As `docker ps`: published ports with where they are published, then those that only its network sees."""
    found = []
    for port in one.reach.ports:
        address = "[%s]" % port.address if ":" in port.address else port.address
        found.append("%s:%d->%d/%s" % (address, port.host, port.container, port.protocol))
    published = {(port.container, port.protocol) for port in one.reach.ports}
    inside = {(port, TCP) for port in one.reach.open} | {(port.container, port.protocol) for port in one.spec.exposed}
    return ", ".join(found + ["%d/%s" % port for port in sorted(inside - published)]) if one.state == RUNNING else ""


def _ago(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return "%d %s%s" % (count, unit, "" if count == 1 else "s")
    return "%d second%s" % (max(seconds, 0), "" if 1 <= seconds < 2 else "s")


def table(rows: Sequence[Dict[str, object]], *, whole_texts: bool) -> List[str]:
    """The rows in columns, with a header."""
    cut: Callable[[str, int], str] = (
        (lambda text, _width: text) if whole_texts else (lambda text, width: text if len(text) <= width else text[: width - 1] + "…")
    )
    cells: List[Tuple[str, ...]] = [("CONTAINER ID", "IMAGE", "COMMAND", "STATUS", "PORTS", "NAMES")]
    for one in rows:
        identity = str(one["ID"]) if whole_texts else str(one["ID"])[:12]
        command = json.dumps(cut(str(one["Command"]), 20), ensure_ascii=False)
        cells.append((identity, cut(str(one["Image"]), 60), command, str(one["Status"]), str(one["Ports"]), str(one["Names"])))
    widths = [max(len(line[at]) for line in cells) for at in range(len(cells[0]))]
    return ["   ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in cells]


def logs(argv: Args, context: Context) -> int:
    """`docker logs`: each line to the stream that it came from, byte for byte."""
    parsed = context.parse(argv, "logs")
    if parsed is None:
        return 0
    if len(parsed.positional) != 1:
        raise InputError("logs takes one container", remedy="gha-apptainer logs NAME")
    tail = parsed.last("tail", "all")
    count = -1 if tail == "all" else whole("--tail", tail, least=-1)
    identity = context.engine.get(parsed.positional[0]).id
    stamps = parsed.has("timestamps")
    for line in context.engine.logs(identity, follow=parsed.has("follow"), tail=count):
        data = line.text if line.partial else line.text + b"\n"
        if stamps:
            data = moment(line.time).encode() + b" " + data
        _write(2 if line.stream == "stderr" else 1, data)
    return 0


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def inspect(argv: Args, context: Context) -> int:
    """`docker inspect`: one JSON array."""
    parsed = context.parse(argv, "inspect")
    if parsed is None:
        return 0
    if parsed.last("format", "json") != "json":
        raise Refused("--format: templates are not understood", remedy="read the JSON, for instance with jq")
    found: List[Dict[str, object]] = []
    code = each(parsed.positional, "inspect", lambda name: found.append(details(context.engine.get(name))))
    tell(json.dumps(found, indent=4))
    return code


def details(one: Container) -> Dict[str, object]:
    """One container under Docker's names, with ImageDigest, Route and Owner as our own."""
    spec, status, main = one.spec, one.status, one.spec.main
    ended = one.state == EXITED
    state: Dict[str, object] = {
        "Status": one.state,
        "Running": one.state == RUNNING,
        "Pid": one.pid,
        "ExitCode": status.exit_code if status is not None and ended else 0,
        "OOMKilled": status.oom if status is not None else False,
        "Error": status.reason if status is not None else "",
        "StartedAt": moment(status.started if status is not None else 0.0),
        "FinishedAt": moment(status.finished if status is not None and ended else 0.0),
    }
    if one.health is not None:
        state["Health"] = _health(one.health)
    config = {
        "Hostname": spec.hostname or one.id[:12],
        "User": main.user if main is not None else "",
        "Tty": main.tty if main is not None else False,
        "OpenStdin": spec.interactive,
        "Env": ["%s=%s" % pair for pair in main.env] if main is not None else [],
        "Cmd": list(main.argv) if main is not None else [],
        "Image": spec.image.reference,
        "WorkingDir": main.cwd if main is not None else "/",
        "Labels": dict(spec.labels),
        "StopSignal": spec.stop_signal,
    }
    mounts = [
        {
            "Type": "volume" if m.kind == "anonymous" else m.kind,
            "Name": m.source if m.kind == "volume" else "",
            "Source": m.source,
            "Destination": m.target,
            "RW": not m.read_only,
        }
        for m in spec.mounts
    ]
    return {
        "Id": one.id,
        "Name": one.name,
        "Created": moment(one.created),
        "State": state,
        "Image": spec.image.reference,
        "ImageDigest": spec.image.digest.text,
        "Route": spec.image.route,
        "Mounts": mounts,
        "Config": config,
        "NetworkSettings": _network(one),
        "HostConfig": {
            "NetworkMode": spec.network_name or spec.network,
            "ReadonlyRootfs": not spec.writable,
            "AutoRemove": spec.remove,
            "Gpu": spec.gpu,
        },
        "Owner": {"Scope": spec.owner.scope, "Host": spec.owner.host, "Pid": spec.owner.pid},
    }


def _health(found: HealthState) -> Dict[str, object]:
    log = [
        {"Start": moment(probe.started), "End": moment(probe.finished), "ExitCode": probe.exit_code, "Output": probe.output}
        for probe in found.log
    ]
    return {"Status": found.status, "FailingStreak": found.failing, "Log": log}


def _network(one: Container) -> Dict[str, object]:
    """Under Docker's names, with Open and Blocked as our own."""
    ports: Dict[str, object] = {"%d/%s" % (port.container, port.protocol): None for port in one.spec.exposed}
    for port in one.reach.ports:
        key = "%d/%s" % (port.container, port.protocol)
        bound = {"HostIp": port.address, "HostPort": str(port.host)}
        before = ports.get(key)
        ports[key] = [*before, bound] if isinstance(before, list) else [bound]
    return {
        "IPAddress": one.reach.address,
        "Ports": ports,
        "Networks": {one.spec.network_name: {"Aliases": list(one.spec.aliases)}} if one.spec.network_name else {},
        "Open": list(one.reach.open),
        "Blocked": list(one.reach.blocked),
    }


def moment(seconds: float) -> str:
    """RFC 3339 in UTC with nanoseconds, as Docker prints times; 0 is its zero time."""
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + ".%09dZ" % int(seconds % 1 * 1e9)
