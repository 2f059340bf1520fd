"""The mounts of a RUN, read from their flags. Pure. https://docs.docker.com/reference/dockerfile/#run---mount."""

from __future__ import annotations

import posixpath
import re
from typing import Dict, Mapping

from gha_apptainer.domain.docker_values import csv_fields
from gha_apptainer.domain.docker_values import size as parse_size
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.node.dockerfile.actions import RunMount
from gha_apptainer.node.dockerfile.stages import Step, expanded, inside

_MOUNT_KEYS = {
    "bind": ("from", "source", "target", "rw", "ro"),
    "cache": ("id", "target", "ro", "sharing", "mode", "uid", "gid"),
    "tmpfs": ("target", "size"),
    "secret": ("id", "target", "required", "mode", "uid", "gid", "env"),
}
_KEY_NAMES = {"src": "source", "dst": "target", "destination": "target", "readonly": "ro", "readwrite": "rw"}


def read_mount(step: Step, text: str, variables: Mapping[str, str], workdir: str) -> RunMount:
    """One --mount. `variables` and `workdir` are the stage's at that line. Raises InputError naming file and line."""
    found: Dict[str, str] = {}
    for part in csv_fields("--mount", text):
        key, sign, value = part.partition("=")
        key = _KEY_NAMES.get(key, key)
        found[key] = expanded(step, value, variables) if sign else "true"
        if key == "from" and "$" in value:
            raise step.wrong("--mount from=%s: variables are not replaced there" % value, "name a stage: FROM ${IMAGE} AS name")
    kind = found.pop("type", "bind")
    for key in found:
        if key not in _MOUNT_KEYS[kind]:
            raise step.wrong("--mount=type=%s does not take %s" % (kind, key), "it takes " + ", ".join(_MOUNT_KEYS[kind]))
    target = found.get("target", "")
    if kind == "secret":
        if not target and not found.get("id"):
            raise step.wrong("--mount=%s has neither id nor target" % text)
        target = target or ("" if "env" in found else "/run/secrets/" + found["id"])
    elif not target:
        raise step.wrong("--mount=%s has no target" % text)
    target = inside(target, workdir) if target else ""
    if target == "/":
        raise step.wrong("--mount=%s: a mount at / would hide the image" % text)
    name = found.get("id") or {"secret": posixpath.basename(target), "cache": target}.get(kind, "")
    if found.get("env") and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", found["env"]):
        raise step.wrong("--mount env=%s is no name of a variable" % found["env"])
    sharing = found.get("sharing", "shared")
    if sharing not in ("shared", "private", "locked"):
        raise step.wrong("--mount sharing=%s" % sharing, "shared, private or locked")
    return RunMount(
        kind=kind,
        target=target,
        source=found.get("source", ""),
        origin=found.get("from", ""),
        read_only=_on(found, "ro") or (kind in ("bind", "secret") and not _on(found, "rw")),
        id=name,
        sharing=sharing,
        size=_size(step, found["size"]) if "size" in found else 0,
        mode=_octal(step, found["mode"]) if "mode" in found else -1,
        owner=(_number(step, found, "uid"), _number(step, found, "gid")),
        required=_on(found, "required"),
        variable=found.get("env", ""),
    )


def _on(found: Mapping[str, str], key: str) -> bool:
    return found.get(key, "false").lower() in ("true", "1")


def _octal(step: Step, text: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", text):
        raise step.wrong("mode %s is not octal" % text)
    return int(text, 8)


def _number(step: Step, found: Mapping[str, str], key: str) -> int:
    text = found.get(key, "0")
    if not text.isdigit():
        raise step.wrong("--mount %s=%s is no number" % (key, text))
    return int(text)


def _size(step: Step, text: str) -> int:
    try:
        return parse_size("--mount size", text)
    except GhaError as error:
        raise step.wrong(error.what, error.remedy) from error
