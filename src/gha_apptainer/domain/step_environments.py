"""What a container step's environment is, and what it is not.

On top of the image's own: the variables that GitHub promises to every step, the workflow's `env` context, directories that earlier steps
wrote to GITHUB_PATH, and the `env` input, later ones winning. Nothing else of the host but PROXIES and, by `container_spec`, GPU masks: a
module system's LD_LIBRARY_PATH or a batch system's variables do not belong into another operating system, and the
runner's own credentials into no step at all.
"""

from __future__ import annotations

import json
import re

from gha_apptainer.domain.containers import Env
from gha_apptainer.domain.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, FrozenSet, Mapping, Optional, Tuple

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
"""Passed on in small and in capital letters."""

_GIVEN = frozenset({
    "CI", "ACT",
    "RUNNER_ARCH", "RUNNER_DEBUG", "RUNNER_ENVIRONMENT", "RUNNER_NAME", "RUNNER_OS", "RUNNER_PERFLOG", "RUNNER_TEMP", "RUNNER_TOOL_CACHE",
    "RUNNER_TRACKING_ID", "RUNNER_WORKSPACE",
    "ACTIONS_CACHE_SERVICE_V2", "ACTIONS_CACHE_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL",
    "ACTIONS_RESULTS_URL", "ACTIONS_RUNTIME_TOKEN", "ACTIONS_RUNTIME_URL", "ACTIONS_STEP_DEBUG",
})  # fmt: skip
_GITHUB = re.compile(r"GITHUB_[A-Z0-9_]+")
_CREDENTIAL = re.compile(r"(?:^|_)(?:TOKEN|PAT|PASSWORD|SECRET|KEY|CREDENTIALS?|JITCONFIG)(?:_|$)")


def _is_given(name: str) -> bool:
    return name in _GIVEN or (_GITHUB.fullmatch(name) is not None and not _CREDENTIAL.search(name))


def given_by_runner(environ: Mapping[str, str]) -> Env:
    """The GITHUB_*, RUNNER_* and similar variables of the runner's step, and proxies. A GITHUB_* credential of the runner's is none."""
    names = [name for name in environ if _is_given(name)]
    names += [name for name in environ if name.lower() in PROXIES and name in (name.lower(), name.upper())]
    return tuple((name, environ[name]) for name in names)


def env_context(text: str, runner: Optional[Mapping[str, str]], own: FrozenSet[str]) -> Env:
    """The workflow's `env` context, from its JSON.

    `runner` is the environment that the runner itself was started with, where the runner mixes it in (act does), and None elsewhere:
    what stands there with the same value is the host's, not the workflow's, and what `given_by_runner` takes comes by that way. `own` are
    names of the action's own inputs, which such a runner adds as well. Raises InputError.
    """
    if not text.strip():
        return ()
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise InputError("the env context that the runner handed over cannot be read: %s" % error) from error
    if not isinstance(raw, dict):
        raise InputError("the env context that the runner handed over is no mapping")
    found = {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in raw.items()}
    if runner is not None:
        found = {
            name: value
            for name, value in found.items()
            if runner.get(name) != value and not _is_given(name) and name not in own and name != "ImageOS"
        }
    return tuple((name, value) for name, value in found.items() if name and "=" not in name and "\0" not in name + value)


def step_environment(given: Env, context: Env, asked: Env) -> Env:
    """All of them in their order; PATH is settled by `path_of`."""
    merged: Dict[str, str] = dict(given)
    merged.update(context)
    merged.update(asked)
    return tuple(merged.items())


def added_paths(path: str, runner_path: Optional[str], usable: Tuple[str, ...]) -> Tuple[str, ...]:
    """The directories that GITHUB_PATH put in front of `path`, in order.

    `runner_path` is the PATH that the runner itself has, which stands at the end. Where it is not known or is not there,
    only directories below `usable` count: the container sees those at their own paths.
    """
    if runner_path:
        if path == runner_path:
            return ()
        if path.endswith(":" + runner_path):
            return tuple(one for one in path[: -len(runner_path) - 1].split(":") if one.startswith("/"))
    return tuple(one for one in path.split(":") if any(one == place or one.startswith(place + "/") for place in usable))


def path_of(entries: Tuple[str, ...], context: Env, asked: Env, image: Env, default: str) -> str:
    """PATH inside: the `env` input's as it is; else GITHUB_PATH's entries before the env context's, the image's, or `default`."""
    given = dict(asked).get("PATH")
    if given is not None:
        return given
    base = dict(context).get("PATH", dict(image).get("PATH", default))
    return ":".join([*entries, *([base] if base else [])])
