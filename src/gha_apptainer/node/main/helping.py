"""Help texts, made from the tables."""

from __future__ import annotations

from typing import List, Sequence, Tuple

from gha_apptainer.domain.docker_table import APPROXIMATE, REFUSED, Option, options_of
from gha_apptainer.node.main import VERBS

_WIDTH = 100
_USAGE = {
    "run": ("[OPTIONS] IMAGE [COMMAND] [ARG…]", "gha-apptainer run --rm -v .:/src -w /src ubuntu:24.04 make"),
    "create": ("[OPTIONS] IMAGE [COMMAND] [ARG…]", "gha-apptainer create --name build ubuntu:24.04 sleep 60"),
    "start": ("[OPTIONS] CONTAINER [CONTAINER…]", "gha-apptainer start -a build"),
    "exec": ("[OPTIONS] CONTAINER COMMAND [ARG…]", "gha-apptainer exec -it build bash"),
    "stop": ("[OPTIONS] CONTAINER [CONTAINER…]", "gha-apptainer stop -t 30 build"),
    "kill": ("[OPTIONS] CONTAINER [CONTAINER…]", "gha-apptainer kill -s HUP build"),
    "rm": ("[OPTIONS] CONTAINER [CONTAINER…]", "gha-apptainer rm -f build"),
    "wait": ("CONTAINER [CONTAINER…]", "gha-apptainer wait build"),
    "ps": ("[OPTIONS]", "gha-apptainer ps -a --filter label=nightly"),
    "logs": ("[OPTIONS] CONTAINER", "gha-apptainer logs -f --tail 20 build"),
    "inspect": ("[OPTIONS] CONTAINER [CONTAINER…]", "gha-apptainer inspect build"),
}


def overview(more: Sequence[Tuple[str, str]] = ()) -> str:
    """The commands, one line each."""
    rows = [(name, row[2]) for name, row in VERBS.items() if row[2]]
    rows += list(more)
    width = max(len(name) for name, _ in rows)
    lines = [
        "Example: gha-apptainer run --rm ubuntu:24.04 cat /etc/os-release",
        "",
        "Usage: gha-apptainer COMMAND [OPTIONS] …",
        "",
        "Commands:",
    ]
    lines += ["  %-*s  %s" % (width, name, text) for name, text in rows]
    lines += ["", "gha-apptainer COMMAND --help tells more. GHA_APPTAINER_TRACE=1 prints tracebacks."]
    return "\n".join(lines)


def verb_help(verb: str) -> str:
    """Example, usage, and the options of a docker-like verb."""
    usage, example = _USAGE[verb]
    lines = ["Example: " + example, "", "Usage: gha-apptainer %s %s" % (verb, usage), "", VERBS[verb][2].capitalize() + ".", "", "Options:"]
    rows = [row for row in options_of(verb) if row.treatment != REFUSED]
    spelled = [(_spelling(row), _told(row)) for row in sorted(rows, key=lambda row: row.long)]
    spelled.append(("    --help", "print this"))
    for left, text in spelled:
        lines += _entry(left, text)
    refused = sorted(row.long for row in options_of(verb) if row.treatment == REFUSED)
    if refused:
        lines += ["", "Options of Docker that are refused, each with its reason:"]
        lines += _filled(" ".join("--" + name for name in refused), "  ")
    return "\n".join(lines)


def _spelling(row: Option) -> str:
    short = "-%s, " % row.short if row.short else "    "
    return "%s--%s%s" % (short, row.long, " " + row.value if row.value else "")


def _told(row: Option) -> str:
    return "%s (%s)" % (row.help, row.note) if row.treatment == APPROXIMATE else row.help


def _entry(left: str, text: str) -> List[str]:
    column = 36
    body = _filled(text, " " * (column + 2))
    if len(left) > column - 2:
        return ["  " + left, *body]
    return ["  " + left.ljust(column) + body[0].strip(), *body[1:]]


def _filled(text: str, indent: str) -> List[str]:
    lines = [indent]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) + 1 > _WIDTH and lines[-1] != indent:
            lines.append(indent)
        lines[-1] += ("" if lines[-1] == indent else " ") + word
    return lines
