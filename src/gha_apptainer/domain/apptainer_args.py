"""Arguments for Apptainer that a person may write, read against a table.

The engine owns most of Apptainer's flags (namespaces, writable layer, user, environment): those are refused by name. Binds, environment,
working directory and GPUs are translated, so that they meet the same rules as everywhere else. Those that say what holds anyway
are accepted; none is handed through as it is. Names are those of https://apptainer.org/docs/user/main/cli/apptainer_exec.html.
"""

from __future__ import annotations

from gha_apptainer.domain.containers import GPU_NVIDIA, GPU_ROCM, Args, Env, Mount
from gha_apptainer.domain.docker_values import csv_fields, target
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Tuple

_SO = "so"

_SWITCHES: Dict[str, str] = {
    "--no-home": _SO,
    "--cleanenv": _SO,
    "--contain": _SO,
    "--containall": _SO,
    "--compat": _SO,
    "--pid": _SO,
    "--ipc": _SO,
    "--uts": _SO,
    "--userns": _SO,
    "--no-eval": _SO,
    "--no-privs": _SO,
    "--writable": _SO,
    "--writable-tmpfs": _SO,
    "--nv": GPU_NVIDIA,
    "--rocm": GPU_ROCM,
}
_SHORT_SWITCHES = {
    "-e": "--cleanenv",
    "-c": "--contain",
    "-C": "--containall",
    "-p": "--pid",
    "-i": "--ipc",
    "-u": "--userns",
    "-w": "--writable",
}
_VALUES: Dict[str, str] = {"--bind": "bind", "--mount": "mount", "--env": "env", "--pwd": "cwd", "--cwd": "cwd"}
_SHORT_VALUES = {"-B": "--bind"}

_REFUSED: Dict[str, str] = {
    "--add-caps": "a container never has more rights than the user who starts it",
    "--allow-setuid": "a container never has more rights than the user who starts it",
    "--keep-privs": "a container never has more rights than the user who starts it",
    "--security": "the user inside is chosen by `user`",
    "--fakeroot": "root inside is the default; choose by `user`",
    "--home": "the home inside is the container's own; bind a directory and set HOME",
    "--hostname": "the engine sets the host name",
    "--overlay": "the engine has its own writable layer; choose by `writable`",
    "--workdir": "the engine has its own scratch space",
    "--scratch": "the engine has its own scratch space",
    "--net": "the network is the machine's own",
    "--network": "the network is the machine's own",
    "--network-args": "the network is the machine's own",
    "--netns-path": "the network is the machine's own",
    "--env-file": "Apptainer reads it as a shell script; give NAME=VALUE lines in `env`",
    "--no-mount": "the engine decides what is mounted",
    "--no-init": "there always is an init",
    "--no-umask": "the umask is 022, as with Docker",
    "--nvccli": "GPUs are given by --nv",
    "--app": "the command is given in full",
    "--apply-cgroups": "limits belong to the batch system",
    "--memory": "limits belong to the batch system",
    "--cpus": "limits belong to the batch system",
    "--fusemount": "the engine mounts what is mounted",
    "--underlay": "the engine has its own writable layer",
    "--config": "the engine has its own configuration",
    "--docker-login": "give `username` and `password`",
    "--dns": "names are resolved as on this machine",
    "--drop-caps": "the set of capabilities is fixed",
    "--sharens": "every container has its own namespaces",
}
_SHORT_REFUSED = {"-f": "--fakeroot", "-H": "--home", "-o": "--overlay", "-W": "--workdir", "-S": "--scratch", "-n": "--net"}


@dataclass(frozen=True)
class ApptainerArgs:
    """What the arguments mean: mounts, environment, working directory ("" unsaid), GPU kind ("" unsaid)."""

    mounts: Tuple[Mount, ...] = ()
    env: Env = ()
    workdir: str = ""
    gpu: str = ""


def parse_apptainer_args(args: Args, name: str = "apptainer-args") -> ApptainerArgs:
    """Read arguments of `apptainer exec`; `name` is the input they came from.

    Raises Refused for what the engine owns and for flags outside the table, InputError for a malformed value.
    """
    mounts: List[Mount] = []
    env: Dict[str, str] = {}
    workdir = gpu = ""
    left = list(args)
    while left:
        flag, value, equals = _split(left.pop(0), name)
        if flag in _SWITCHES:
            if equals and value != "true":
                raise Refused("%s: %s=%s cannot be honoured" % (name, flag, value))
            kind = _SWITCHES[flag]
            if kind in (GPU_NVIDIA, GPU_ROCM):
                if gpu not in ("", kind):
                    raise InputError("%s: --nv and --rocm exclude each other" % name)
                gpu = kind
            continue
        if flag not in _VALUES:
            raise Refused(
                "%s: %s cannot be used: %s" % (name, flag, _REFUSED.get(flag, "it is not known to be safe here")), remedy=_known()
            )
        if not equals:
            if not left:
                raise InputError("%s: %s needs a value" % (name, flag))
            value = left.pop(0)
        where = "%s: %s" % (name, flag)
        kind = _VALUES[flag]
        if kind == "bind":
            mounts += [_bind(where, part) for part in _unescaped(value, ",")]
        elif kind == "mount":
            mounts.append(_mount(where, value))
        elif kind == "env":
            env.update(_env(where, value))
        else:
            workdir = value
    return ApptainerArgs(tuple(mounts), tuple(env.items()), workdir, gpu)


def _known() -> str:
    return "usable: " + ", ".join(sorted(tuple(_VALUES) + tuple(_SWITCHES)))


def _split(word: str, name: str) -> Tuple[str, str, bool]:
    """Long spelling of the flag, its value, and whether the value came along."""
    if word.startswith("--") and len(word) > 2:
        flag, equals, value = word.partition("=")
        return flag, value, bool(equals)
    short = word[:2]
    if word.startswith("-") and len(short) == 2:
        if short in _SHORT_VALUES:
            value = word[2:]
            return _SHORT_VALUES[short], value[1:] if value.startswith("=") else value, bool(value)
        if len(word) == 2 and short in _SHORT_SWITCHES:
            return _SHORT_SWITCHES[short], "", False
        if short in _SHORT_REFUSED:
            return _SHORT_REFUSED[short], "", False
        raise Refused("%s: %s cannot be used: it is not known to be safe here" % (name, word), remedy=_known())
    raise InputError("%s: %r is no option" % (name, word), remedy="image and command have their own inputs")


def _unescaped(text: str, separator: str) -> List[str]:
    """Split where the separator stands without a backslash before it; other escapes stay for the next level."""
    parts = [""]
    at = 0
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text) and text[at + 1] in ",:":
            parts[-1] += text[at + 1] if text[at + 1] == separator else text[at : at + 2]
            at += 2
        elif text[at] == separator:
            parts.append("")
            at += 1
        else:
            parts[-1] += text[at]
            at += 1
    return parts


def _bind(where: str, text: str) -> Mount:
    parts = _unescaped(text, ":")
    if len(parts) > 3 or not parts[0].startswith("/"):
        raise InputError("%s: %r is no bind" % (where, text), remedy="write /source[:/target[:ro]]")
    inside = parts[1] if len(parts) > 1 and parts[1] else parts[0]
    options = parts[2].split(",") if len(parts) == 3 else []
    for word in options:
        if word not in ("ro", "rw"):
            raise Refused("%s: option %r cannot be honoured" % (where, word), remedy="ro or rw")
    return Mount(source=parts[0], target=target(where, inside), read_only="ro" in options)


def _mount(where: str, text: str) -> Mount:
    values: Dict[str, str] = {}
    for field in csv_fields(where, text):
        key, _, value = field.partition("=")
        key = {"src": "source", "dst": "destination", "target": "destination", "readonly": "ro"}.get(key, key)
        if key not in ("type", "source", "destination", "ro"):
            raise Refused("%s: %r cannot be honoured" % (where, key), remedy="type=bind,source=…,destination=…[,ro]")
        values[key] = value
    if values.get("type", "bind") != "bind" or not values.get("source", "").startswith("/"):
        raise InputError("%s: %r is no bind of an absolute path" % (where, text), remedy="type=bind,source=/…,destination=/…[,ro]")
    return Mount(source=values["source"], target=target(where, values.get("destination") or values["source"]), read_only="ro" in values)


def _env(where: str, text: str) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for field in csv_fields(where, text):
        name, equals, value = field.partition("=")
        if not equals or not name:
            raise InputError(
                "%s: %r is no NAME=VALUE" % (where, field), cause="Apptainer splits the value at commas", remedy="use `env` instead"
            )
        found[name] = value
    return found
