"""build: a Dockerfile becomes an image in the store."""

from __future__ import annotations

import json
import os
from typing import Callable, Dict, Mapping, Optional, Sequence, Tuple

from gha_apptainer.domain.docker_values import csv_fields
from gha_apptainer.domain.documents import plain
from gha_apptainer.domain.errors import GhaError, InputError
from gha_apptainer.domain.images import PULL_ALWAYS, PULL_IF_NOT_PRESENT
from gha_apptainer.node import files
from gha_apptainer.node.main import environment, notes, tell
from gha_apptainer.node.main.context import Context
from gha_apptainer.node.main.parsing import Parser

DOCUMENT = 1
"""Version of the document that --json prints."""
_EXAMPLE = "gha-apptainer build -t mytool:1 ."
_SECRET_LIMIT = 500 << 10  # bytes, as Docker has it


def main(argv: Sequence[str], context: Optional[Context] = None) -> int:
    """Build it; the last line on stdout is the image's digest."""
    parser = Parser("gha-apptainer build", _EXAMPLE, "Build an image from a Dockerfile, without Docker and without root.")
    parser.add_argument("context", metavar="CONTEXT", help="the directory from which COPY and ADD take files")
    parser.add_argument("-t", "--tag", metavar="NAME[:TAG]", action="append", default=[], help="a name for the image, as `run` takes it")
    parser.add_argument("-f", "--file", metavar="FILE", default="", help="the Dockerfile (CONTEXT/Dockerfile)")
    parser.add_argument("--target", metavar="STAGE", default="", help="the stage to build, by name or number (the last)")
    parser.add_argument("--build-arg", metavar="NAME[=VALUE]", action="append", default=[], help="the value of an ARG; without = ours")
    parser.add_argument("--label", metavar="NAME=VALUE", action="append", default=[], help="a label of the image")
    parser.add_argument("--secret", metavar="id=ID[,src=FILE|,env=NAME]", action="append", default=[], help="for RUN --mount=type=secret")
    parser.add_argument("--no-cache", action="store_true", help="run every instruction anew")
    parser.add_argument("--pull", action="store_true", help="ask registries whether base images are current")
    parser.add_argument("--iidfile", metavar="FILE", default="", help="write the image's digest to a file")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress; what commands print is shown when one fails")
    chosen = parser.read(argv)
    if chosen is None:
        return 0
    found = context or Context(environment())
    from gha_apptainer.node.dockerfile.building import BuildOrder, build_image

    talk: Callable[[str], None] = (lambda _text: None) if chosen.quiet else notes()
    order = BuildOrder(
        context=chosen.context,
        dockerfile=chosen.file,
        args=_args(chosen.build_arg, found.environ),
        target=chosen.target,
        tags=tuple(chosen.tag),
        labels=tuple(_pair("--label", text) for text in chosen.label),
        secrets=_secrets(chosen.secret, found.environ),
        cache=not chosen.no_cache,
        pull=PULL_ALWAYS if chosen.pull else PULL_IF_NOT_PRESENT,
        output=-1 if chosen.quiet else 2,
    )
    built = build_image(order, found.settings, found.host, found.login, talk)
    if chosen.iidfile:
        files.write_whole(chosen.iidfile, files.encode(built.image.digest.text), mode=0o644)
    if not chosen.json:
        tell(built.image.digest.text)
        return 0
    document = {
        "version": DOCUMENT,
        "digest": built.image.digest.text,
        "tags": list(built.tags),
        "rootfs": built.image.rootfs,
        "config": plain(built.image.config),
        "steps": [plain(step) for step in built.steps],
        "seconds": built.seconds,
    }
    tell(json.dumps(document, indent=2))
    return 0


def _pair(flag: str, text: str) -> Tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise InputError("%s %s: it is NAME=VALUE" % (flag, text))
    return name, value


def _args(words: Sequence[str], environ: Mapping[str, str]) -> Dict[str, str]:
    """Build arguments; one without a value takes the caller's variable, and is left out where there is none, as with Docker."""
    found: Dict[str, str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not name:
            raise InputError("--build-arg %s: it is NAME=VALUE or NAME" % word)
        if sign:
            found[name] = value
        elif name in environ:
            found[name] = environ[name]
    return found


def _secrets(words: Sequence[str], environ: Mapping[str, str]) -> Dict[str, bytes]:
    """Contents of secrets by id: of a file, or of a variable of the caller's."""
    found: Dict[str, bytes] = {}
    for word in words:
        fields = dict(_pair("--secret", part) for part in csv_fields("--secret", word))
        values = {{"source": "src"}.get(name, name): value for name, value in fields.items()}
        kind = values.pop("type", "env" if "env" in values else "file")
        if not values.get("id") or not set(values) <= {"id", "src", "env"} or kind not in ("file", "env"):
            raise InputError("--secret %s: it is id=ID with src=FILE or env=NAME" % word)
        found[values["id"]] = _secret(word, kind, values, environ)
    return found


def _secret(word: str, kind: str, values: Mapping[str, str], environ: Mapping[str, str]) -> bytes:
    if kind == "env":
        name = values.get("env") or values.get("src") or values["id"]
        if name not in environ:
            raise InputError("--secret %s: there is no variable %s" % (word, name))
        return files.encode(environ[name])
    path = os.path.expanduser(values.get("src") or values["id"])
    try:
        return files.read_whole(path, limit=_SECRET_LIMIT)
    except (OSError, GhaError) as error:
        raise InputError("--secret %s: cannot read %s: %s" % (word, path, getattr(error, "strerror", None) or error)) from error
