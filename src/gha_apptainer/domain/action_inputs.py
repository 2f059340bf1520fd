"""The inputs and outputs of the container action: one table, from which action.yml and its documentation are made, and its reader.

Inputs arrive as environment variables, `GHA_INPUT_` and the name in capitals with underscores: names that every shell passes on. All are
validated before any work; an error names the input, its value and what is accepted.
"""

from __future__ import annotations

from gha_apptainer.domain.containers import Args, Env, Mount
from gha_apptainer.domain.env_blocks import parse_env_block
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.images import PULL_ALWAYS, PULL_IF_NOT_PRESENT, PULL_NEVER
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, List, Mapping, Tuple

PREFIX = "GHA_INPUT_"
ENV_CONTEXT = "GHA_ENV_CONTEXT"
"""Variable with the workflow's `env` context as JSON."""
CALLER_OUTPUT = "GHA_CALLER_OUTPUT"
"""Variable with the file for outputs of the step that calls the action: the action's own steps have files of their own."""
DEFAULT_IMAGE = "ubuntu:latest"
AUTO, NEVER = "auto", "never"
_NO_SECRET = Secret("")
_GPUS = ("auto", "nvidia", "rocm", "none")


@dataclass(frozen=True)
class Input:
    """One input. `choices` are the accepted values, empty for any; `alias_of` the input whose old spelling it is; `instead` what is
    to be done where an old spelling has no effect here."""

    name: str
    description: str
    default: str = ""
    choices: Tuple[str, ...] = ()
    alias_of: str = ""
    instead: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that carries it."""
        return PREFIX + self.name.replace("-", "_").upper() + ("_ALIAS" if self.alias_of and "_" in self.name and _clash(self) else "")

    @property
    def deprecated(self) -> bool:
        """Whether it is an old spelling."""
        return bool(self.alias_of or self.instead)

    @property
    def deprecation(self) -> str:
        """The message that the runner shows to who uses it."""
        if self.alias_of:
            return "use %s instead of %s" % (self.alias_of, self.name)
        return "%s has no effect here: %s" % (self.name, self.instead)


def _clash(row: Input) -> bool:
    """Whether an old spelling differs from the new one in dashes only, and so would have its variable."""
    return row.name.replace("_", "-") == row.alias_of


_CLIENT = "the CVMFS client is set up by the machine, or before this step by cvmfs-contrib/github-action-cvmfs"

INPUTS: Tuple[Input, ...] = (
    Input("run", "Commands to run in the container. Empty: the image's own ENTRYPOINT and CMD."),
    Input(
        "image",
        "Image: NAME:TAG, REGISTRY/NAME:TAG@sha256:…, docker://…, oras://…, or a path to a SIF or an unpacked directory. Empty: the "
        "image of the view's operating system, else %s." % DEFAULT_IMAGE,
    ),
    Input(
        "shell",
        "Shell for `run`, with GitHub's meaning: bash, sh, python, pwsh, or a command with {0} where the script goes. Empty: bash -e, or "
        "sh -e where the image has no bash.",
    ),
    Input("working-directory", "Directory to start in, relative to the workspace. Empty: the workspace."),
    Input(
        "env",
        "Variables for the container, one a line: NAME=VALUE, NAME<<EOF … EOF for several lines, or NAME alone for the runner's value.",
    ),
    Input("setup-script", "Script that is sourced before `run`: relative to the view (default there: setup.sh), else to the workspace."),
    Input("view-path", "Directory of a software view to set up, for example /cvmfs/sw.hsf.org/key4hep."),
    Input("release-platform", "LCG release and platform, for example LCG_106/x86_64-el9-gcc13-opt; finds view and image."),
    Input("release", "LCG release, together with `platform`."),
    Input("platform", "Platform of the view, for example x86_64-el9-gcc13-opt, together with `release` or `view-path`."),
    Input("cvmfs-repositories", "CVMFS repositories that the step needs, divided by commas or blanks; each must answer before it starts."),
    Input("binds", "Host paths for the container, one a line: SOURCE[:TARGET[:ro]]. A missing source is an error."),
    Input("gpu", "GPU: auto (used if there is one), nvidia or rocm (an error if there is none), or none.", "auto", _GPUS),
    Input("user", "User inside: NAME, UID, or UID:GID. Empty: the image's USER, else root."),
    Input("pull", "When to ask the registry.", PULL_IF_NOT_PRESENT, (PULL_ALWAYS, PULL_IF_NOT_PRESENT, PULL_NEVER)),
    Input("username", "User name for the image's registry."),
    Input("password", "Password or token for the image's registry; give a secret."),
    Input("writable", "Whether the container's file system can be changed; changes are gone after the step.", "true", ("true", "false")),
    Input("apptainer-args", "Arguments of `apptainer exec` (--bind, --env, --nv, --rocm, --pwd …); what the engine owns is refused."),
    Input("cache-dir", "Directory where images are kept. Empty: the site's, else one in the user's cache."),
    Input("scratch", "Directory on local disk for the container's changes. Empty: the site's, else one in /tmp."),
    Input("setup", "auto: install Apptainer for this user where it is missing; never: use only what is there.", AUTO, (AUTO, NEVER)),
    Input("apptainer_args", "Old spelling of apptainer-args.", alias_of="apptainer-args"),
    Input("container_shell", "Old spelling of shell.", alias_of="shell"),
    Input("cvmfs_repositories", "Old spelling of cvmfs-repositories.", alias_of="cvmfs-repositories"),
    Input("cvmfs_http_proxy", "Accepted, without effect here.", instead=_CLIENT),
    Input("cvmfs_quota_limit", "Accepted, without effect here.", instead=_CLIENT),
    Input("cvmfs_cache_base", "Accepted, without effect here.", instead=_CLIENT),
    Input("cvmfs_repository_tag", "Accepted, without effect here.", instead=_CLIENT),
)
"""Every input, in the order of action.yml. Only a new spelling has a default, or nobody could tell "not given" from it."""

OUTPUTS: Tuple[Tuple[str, str], ...] = (
    ("exit-code", "Exit code of the command; 125 where the container could not be run."),
    ("image-digest", "Digest of the image that was used; empty where it has none."),
    ("image-source", "How the image was found (alias, path, cvmfs, store, registry) and where it lies."),
    ("cvmfs-revisions", "Revision of each CVMFS repository that the step or its image needed, as a JSON object; {} without any."),
    (
        "command",
        "The `apptainer exec` line that does the same on a login node, without values of variables; the script is named by its length.",
    ),
)
"""Every output of the action and what it says. What a step writes to GITHUB_OUTPUT comes besides."""


@dataclass(frozen=True)
class ActionInputs:
    """The inputs, validated. `warnings` are for the log: old spellings and bare names without a value."""

    run: str = ""
    image: str = ""
    shell: str = ""
    working_directory: str = ""
    env: Env = ()
    setup_script: str = ""
    view_path: str = ""
    release_platform: str = ""
    release: str = ""
    platform: str = ""
    cvmfs_repositories: Tuple[str, ...] = ()
    binds: Tuple[Mount, ...] = ()
    gpu: str = "auto"
    user: str = ""
    pull: str = PULL_IF_NOT_PRESENT
    username: str = ""
    password: Secret = _NO_SECRET
    writable: bool = True
    apptainer_args: Args = ()
    cache_dir: str = ""
    scratch: str = ""
    setup: str = AUTO
    warnings: Tuple[str, ...] = ()


def from_variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The inputs as they stand in the environment, by name; those that are not there are left out."""
    return {row.name: environ[row.variable] for row in INPUTS if row.variable in environ}


def parse_inputs(given: Mapping[str, str], environ: Mapping[str, str]) -> ActionInputs:
    """Validate everything. `given` are texts by name, `environ` the runner's environment for bare names in `env`.

    Raises InputError naming input, value and accepted values.
    """
    values, warnings = _resolved(given)
    for row in INPUTS:
        if row.choices and values[row.name] not in row.choices:
            raise InputError("input %s: %r is not accepted" % (row.name, values[row.name]), remedy="use one of: " + ", ".join(row.choices))
        if "\0" in values[row.name]:
            raise InputError("input %s holds a NUL character" % row.name)
    env, without = parse_env_block(_raw(given, "env"), environ)
    warnings += ["input env: the runner has no variable %s, it is left out" % name for name in without]
    if bool(values["username"]) != bool(values["password"]):
        raise InputError("inputs username and password belong together", remedy="give both, or none")
    if not values["run"].strip():
        for name in ("shell", "setup-script", "view-path", "release-platform", "release", "platform"):
            if values[name]:
                remedy = "put commands into run, or leave %s out" % name
                raise InputError("input %s has nothing to work on: run is empty" % name, remedy=remedy)
    return ActionInputs(
        run=_raw(given, "run") if values["run"].strip() else "",
        image=values["image"],
        shell=values["shell"],
        working_directory=values["working-directory"],
        env=env,
        setup_script=values["setup-script"],
        view_path=values["view-path"],
        release_platform=values["release-platform"],
        release=values["release"],
        platform=values["platform"],
        cvmfs_repositories=_repositories(values["cvmfs-repositories"]),
        binds=_binds(values["binds"]),
        gpu=values["gpu"],
        user=values["user"],
        pull=values["pull"],
        username=values["username"],
        password=Secret(values["password"]),
        writable=values["writable"] == "true",
        apptainer_args=_words(values["apptainer-args"]),
        cache_dir=_absolute("cache-dir", values["cache-dir"]),
        scratch=_absolute("scratch", values["scratch"]),
        setup=values["setup"],
        warnings=tuple(warnings),
    )


def _raw(given: Mapping[str, str], name: str) -> str:
    return given.get(name, "")


def _resolved(given: Mapping[str, str]) -> Tuple[Dict[str, str], List[str]]:
    """Each input's text, defaults and old spellings put in; and warnings. A new spelling wins over an old one."""
    unknown = sorted(set(given) - {row.name for row in INPUTS})
    if unknown:
        raise InputError("unknown input %s" % ", ".join(unknown), remedy="known inputs: " + ", ".join(row.name for row in INPUTS))
    values = {row.name: given.get(row.name, "").strip() or row.default for row in INPUTS}
    warnings: List[str] = []
    for row in INPUTS:
        if not row.deprecated or not values[row.name]:
            continue
        if row.instead:
            warnings.append("input %s: %s" % (row.name, row.deprecation))
        elif not values[row.alias_of]:
            values[row.alias_of] = values[row.name]
            warnings.append("input %s: %s" % (row.name, row.deprecation))
        elif values[row.alias_of] != values[row.name]:
            warnings.append("input %s is ignored: %s was given too" % (row.name, row.alias_of))
    return values, warnings


def _absolute(name: str, value: str) -> str:
    if value and not value.startswith("/"):
        raise InputError("input %s: %r is no absolute path" % (name, value), remedy="begin it with /")
    return value


def _words(text: str) -> Args:
    if not text:
        return ()
    import shlex  # few steps have such arguments

    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InputError("input apptainer-args: %r cannot be read: %s" % (text, error), remedy="quote as in a shell") from error


def _repositories(text: str) -> Tuple[str, ...]:
    found = []
    for word in text.replace(",", " ").split():
        name = word[len("/cvmfs/") :].rstrip("/") if word.startswith("/cvmfs/") else word
        if not name or "/" in name or name in (".", "..") or "." not in name:
            raise InputError("input cvmfs-repositories: %r is no repository" % word, remedy="for example sft.cern.ch, sw.hsf.org")
        found.append(name)
    return tuple(dict.fromkeys(found))


def _binds(text: str) -> Tuple[Mount, ...]:
    found = []
    for line in (one.strip() for one in text.split("\n")):
        if not line or line.startswith("#"):
            continue
        parts = line.split(":")
        if len(parts) > 3 or not parts[0].startswith("/"):
            raise InputError("input binds: %r is no bind" % line, remedy="write /source[:/target[:ro]], one a line")
        target = parts[1] if len(parts) > 1 and parts[1] else parts[0]
        if not target.startswith("/"):
            raise InputError("input binds: %r has no absolute target" % line, remedy="write /source[:/target[:ro]], one a line")
        if len(parts) == 3 and parts[2] not in ("ro", "rw"):
            raise InputError("input binds: %r: %r is not accepted" % (line, parts[2]), remedy="use ro or rw")
        found.append(Mount(source=parts[0].rstrip("/") or "/", target=target, read_only=parts[2:] == ["ro"]))
    return tuple(found)


def check_sources(mounts: Tuple[Mount, ...], exists: Callable[[str], bool], name: str = "binds") -> None:
    """InputError for the first bind whose source is not there; `name` is the input."""
    for one in mounts:
        if not exists(one.source):
            raise InputError(
                "input %s: %s does not exist on this machine" % (name, one.source), remedy="create it before, or correct the path"
            )
