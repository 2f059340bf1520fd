"""What the runner asks its container hooks for: one JSON object a call, read leniently, because the protocol is the runner's.

Unknown keys are ignored, missing optional ones have their usual value; what is there with another type than it must have is an error that
names it. https://github.com/actions/runner/blob/main/docs/adrs/1891-container-hooks.md describes the protocol; where the runner differs
from that page, the runner's way is read. `state` and everything in it may have been forged by a step: only its id is looked at.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple

from gha_apptainer.domain.containers import Args, Env
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.domain.values import dataclass

PREPARE, SCRIPT, CONTAINER, CLEANUP = "prepare_job", "run_script_step", "run_container_step", "cleanup_job"
COMMANDS = (PREPARE, SCRIPT, CONTAINER, CLEANUP)


@dataclass(frozen=True)
class HookMount:
    """One mount. `source` is a host path, the name of a volume, or empty for an anonymous one; `written` is what a person wrote."""

    source: str
    target: str
    read_only: bool = False
    written: str = ""


@dataclass(frozen=True)
class HookContainer:
    """A job container, a service or a container step. `entrypoint` empty is the image's; `options` is the text of `options:`."""

    image: str = ""
    dockerfile: str = ""
    entrypoint: str = ""
    args: Args = ()
    workdir: str = ""
    options: str = ""
    login: Optional[Login] = None
    env: Env = ()
    ports: Args = ()
    system_mounts: Tuple[HookMount, ...] = ()
    user_mounts: Tuple[HookMount, ...] = ()


@dataclass(frozen=True)
class HookRequest:
    """One call: what is asked, where the answer goes, and the id that an earlier answer gave (None: none, empty: one that is no id)."""

    command: str
    response_file: str
    job: Optional[str]
    container: Optional[HookContainer] = None
    services: Tuple[HookContainer, ...] = ()


def job_of(state: object) -> Optional[str]:
    """The id in a state that came back; None where there is no state, empty where there is one without a usable id."""
    if state is None:
        return None
    found = state.get("id") if isinstance(state, dict) else None
    return found if isinstance(found, str) and len(found) == 32 and all(mark in "0123456789abcdef" for mark in found) else ""


def read_request(raw: object) -> HookRequest:
    """A request from its parsed JSON. Raises InputError naming what is wrong, never a value: those may be secrets."""
    if not isinstance(raw, dict):
        raise InputError("the runner's request is no JSON object")
    command = raw.get("command")
    if command not in COMMANDS:
        shown = repr(command[:60]) if isinstance(command, str) else "none"
        raise InputError(
            "unknown hook command: %s" % shown,
            cause="a runner that is newer than these hooks, or no runner at all",
            remedy="known commands: " + ", ".join(COMMANDS),
        )
    args = raw.get("args")
    args = {} if args is None else args
    if not isinstance(args, dict):
        raise InputError("%s: args is no object" % command)
    response = _text(raw, "responseFile", str(command))
    job = job_of(raw.get("state"))
    if command == PREPARE:
        container = args.get("container")
        services = _list(args, "services", command)
        return HookRequest(
            command,
            response,
            job,
            None if container is None else _container(container, "container"),
            tuple(_container(one, "services[%d]" % at) for at, one in enumerate(services)),
        )
    if command == CONTAINER:
        return HookRequest(command, response, job, _container(args, "args"))
    return HookRequest(command, response, job)


def _container(raw: object, where: str) -> HookContainer:
    if not isinstance(raw, dict):
        raise InputError("%s is no object" % where)
    return HookContainer(
        image=_text(raw, "image", where),
        dockerfile=_text(raw, "dockerfile", where),
        entrypoint=_text(raw, "entryPoint", where),
        args=_texts(raw, "entryPointArgs", where),
        workdir=_text(raw, "workingDirectory", where),
        options=_text(raw, "createOptions", where),
        login=_login(raw.get("registry"), where),
        env=environment(raw.get("environmentVariables"), where),
        ports=_texts(raw, "portMappings", where),
        system_mounts=_mounts(raw, "systemMountVolumes", where),
        user_mounts=_mounts(raw, "userMountVolumes", where),
    )


def environment(raw: object, where: str) -> Env:
    """Variables as pairs; a null is the empty text. Names that no process can have are left out."""
    if raw is None:
        return ()
    if not isinstance(raw, dict):
        raise InputError("%s.environmentVariables is no object" % where)
    found: List[Tuple[str, str]] = []
    for name, value in raw.items():
        if value is not None and not isinstance(value, str):
            raise InputError("%s.environmentVariables: the value of %s is no text" % (where, name))
        text = value or ""
        if name and "=" not in name and "\0" not in name and "\0" not in text:
            found.append((name, text))
    return tuple(found)


def _mounts(raw: Mapping[str, Any], key: str, where: str) -> Tuple[HookMount, ...]:
    found = []
    for at, one in enumerate(_list(raw, key, where)):
        place = "%s.%s[%d]" % (where, key, at)
        if not isinstance(one, dict):
            raise InputError("%s is no object" % place)
        target = _text(one, "targetVolumePath", place)
        if not target:
            raise InputError("%s has no targetVolumePath" % place)
        found.append(
            HookMount(_text(one, "sourceVolumePath", place), target, one.get("readOnly") is True, _text(one, "userProvidedValue", place))
        )
    return tuple(found)


def _login(raw: object, where: str) -> Optional[Login]:
    """The login; the registry is not read from it, because the runner guesses it wrongly for names of three parts."""
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise InputError("%s.registry is no object" % where)
    name = _text(raw, "username", where + ".registry")
    return Login(name, Secret(_text(raw, "password", where + ".registry"))) if name else None


def _text(raw: Mapping[str, Any], key: str, where: str) -> str:
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise InputError("%s.%s is no text" % (where, key))
    return value


def _texts(raw: Mapping[str, Any], key: str, where: str) -> Args:
    values = _list(raw, key, where)
    if not all(isinstance(one, str) and "\0" not in one for one in values):
        raise InputError("%s.%s is no list of texts" % (where, key))
    return tuple(values)


def _list(raw: Mapping[str, Any], key: str, where: str) -> List[Any]:
    value = raw.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError("%s.%s is no list" % (where, key))
    return value


@dataclass(frozen=True)
class ServiceAnswer:
    """What the runner learns of a service. `ports` maps container ports to host ports, both as text."""

    id: str = ""
    network: str = ""
    ports: Tuple[Tuple[str, str], ...] = ()


@dataclass(frozen=True)
class PrepareAnswer:
    """The answer to prepare_job. Without a job container nothing of one may be told: the runner would stumble over it."""

    job: str
    container: str = ""
    network: str = ""
    alpine: Optional[bool] = None
    services: Tuple[ServiceAnswer, ...] = ()


def response(answer: PrepareAnswer) -> Dict[str, object]:
    """The answer as the JSON object that the runner reads: services in the order of the request, each with ports."""
    context: Dict[str, object] = {}
    if answer.container:
        context["container"] = {"id": answer.container, "network": answer.network}
    if answer.services:
        context["services"] = [{"id": one.id, "network": one.network, "ports": dict(one.ports)} for one in answer.services]
    found: Dict[str, object] = {"state": {"id": answer.job}, "context": context}
    if answer.alpine is not None:
        found["isAlpine"] = answer.alpine
    return found
