"""A container step as a value: what would run, decided from texts alone, for the action and for `explain`."""

from __future__ import annotations

import os

from gha_apptainer.domain import lcg_views, shells
from gha_apptainer.domain.action_inputs import DEFAULT_IMAGE, ENV_CONTEXT, INPUTS, ActionInputs
from gha_apptainer.domain.action_inputs import check_sources as check_binds
from gha_apptainer.domain.apptainer_args import ApptainerArgs, parse_apptainer_args
from gha_apptainer.domain.asked import Asked
from gha_apptainer.domain.containers import Args, Env, Mount
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import PATH, parse
from gha_apptainer.domain.lcg_views import View, repository_of
from gha_apptainer.domain.shells import Script
from gha_apptainer.domain.step_environments import added_paths, env_context, given_by_runner, step_environment
from gha_apptainer.domain.values import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, FrozenSet, List, Mapping, Optional, Tuple

FILE_COMMANDS = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY", "GITHUB_STATE", "GITHUB_EVENT_PATH")
"""Files through which a step talks to later steps, and the event; they are at their own paths inside."""
CVMFS = "/cvmfs"
OWN_NAMES: FrozenSet[str] = frozenset(["INPUT_" + row.name.upper() for row in INPUTS])
"""Names under which some runners put the action's inputs into the env context."""


@dataclass(frozen=True)
class StepPlan:
    """One container step, complete but for what only its image can tell (environment, user, entrypoint).

    `script` and `view` say what is run (`script` None: the image's own command), `folder` is where its files will lie; `paths` are
    directories for the front of PATH; `env_context` and `env_input` are kept apart because PATH needs them so. `repositories` are
    CVMFS's that must answer first. `notes` are for the log.
    """

    asked: Asked
    script: Optional[Script]
    view: Optional[View]
    setup_script: str
    folder: str
    paths: Tuple[str, ...]
    env_context: Env
    env_input: Env
    repositories: Tuple[str, ...]
    login: Optional[Login]
    workspace: str
    cache_dir: str
    scratch: str
    setup: str
    image_from: str
    notes: Tuple[str, ...]

    @property
    def script_path(self) -> str:
        """Where the step's lines will lie, inside and outside."""
        return os.path.join(self.folder, "step" + (self.script.extension if self.script else ""))

    @property
    def setup_path(self) -> str:
        """Where the script lies that sources the setup script."""
        return os.path.join(self.folder, "setup.bash")

    @property
    def files(self) -> Tuple[Tuple[str, str], ...]:
        """The files of the step: path and text."""
        if self.script is None:
            return ()
        found = ((self.script_path, self.script.text if self.script.text.endswith("\n") else self.script.text + "\n"),)
        return (*found, (self.setup_path, shells.SETUP_TEXT)) if self.setup_script else found


def plan_step(
    inputs: ActionInputs,
    environ: Mapping[str, str],
    *,
    machine: str,
    folder: str,
    exists: Callable[[str], bool],
    runner: Optional[Mapping[str, str]] = None,
) -> StepPlan:
    """Decide the whole step. `environ` is the action's environment, `runner` the runner's own where it can be read.

    `exists` asks for paths, `folder` is where files of the step will lie. Raises InputError or Refused, before anything was done.
    """
    workspace = environ.get("GITHUB_WORKSPACE", "")
    if not workspace.startswith("/"):
        raise InputError("GITHUB_WORKSPACE is not set", remedy="run this as a step of a workflow, or use gha-apptainer run")
    extra = parse_apptainer_args(inputs.apptainer_args)
    binds = _normal_on_cvmfs(inputs.binds + extra.mounts)
    for name, wanted in (("binds", inputs.binds), ("apptainer-args", extra.mounts)):
        # what lies on CVMFS is looked at later, by a child and with a time limit
        check_binds(wanted, lambda path: bool(repository_of(_plain(path))) or exists(path), name)
    view = _view(inputs, machine)
    image, image_from = _image(inputs, view)
    script = shells.script(inputs.shell, inputs.run) if inputs.run else None
    cwd = _plain(os.path.join(workspace, inputs.working_directory or extra.workdir))
    setup = os.path.normpath(os.path.join(workspace, inputs.setup_script)) if inputs.setup_script else ""
    if view is not None:
        setup = view.setup
    mixed = (runner or {}) if environ.get("ACT") == "true" else None
    context = env_context(environ.get(ENV_CONTEXT, ""), mixed, OWN_NAMES)
    own = _own_environment(inputs, extra)
    mounts = _mounts(binds, environ, workspace, folder if script else "", exists)
    touched = (setup, cwd, _path_of_image(image, workspace), *(one.source for one in binds))
    plan = StepPlan(
        asked=Asked(
            image=image,
            env=step_environment(given_by_runner(environ), context, own),
            workdir=cwd,
            user=inputs.user,
            mounts=mounts,
            gpu=extra.gpu or inputs.gpu,
            read_only=not inputs.writable,
            remove=True,
            pull=inputs.pull,
        ),
        script=script,
        view=view,
        setup_script=setup,
        folder=folder,
        paths=added_paths(environ.get("PATH", ""), runner.get("PATH") if runner else None, tuple(one.target for one in mounts)),
        env_context=context,
        env_input=own,
        repositories=_repositories(inputs, view, touched),
        login=Login(inputs.username, inputs.password) if inputs.username else None,
        workspace=workspace,
        cache_dir=inputs.cache_dir,
        scratch=inputs.scratch,
        setup=inputs.setup,
        image_from=image_from,
        notes=inputs.warnings,
    )
    return _with_command(plan)


def _with_command(plan: StepPlan) -> StepPlan:
    """The plan with its command line filled in; without a script it is the image's own."""
    if plan.script is None:
        return plan
    argv: Args = plan.script.command(plan.script_path)
    env = plan.asked.env
    if plan.setup_script:  # its wrapper needs bash, so there is no question which shell there is
        plan = replace(plan, script=replace(plan.script, fallback=()))
        argv = shells.view_script(argv, plan.setup_script, plan.setup_path)
    if plan.view is not None and "LC_ALL" not in dict(plan.env_context + plan.env_input):
        env = (*env, ("LC_ALL", "C"))
    return replace(plan, asked=replace(plan.asked, entrypoint=argv[:1], command=argv[1:], env=env))


def _view(inputs: ActionInputs, machine: str) -> Optional[View]:
    if not (inputs.view_path or inputs.release_platform or inputs.release or inputs.platform):
        return None
    return lcg_views.view(
        release_platform=inputs.release_platform,
        release=inputs.release,
        platform=inputs.platform,
        view_path=inputs.view_path,
        setup_script=inputs.setup_script,
        machine=machine,
    )


def _image(inputs: ActionInputs, view: Optional[View]) -> Tuple[str, str]:
    """The image, and where its name comes from."""
    if inputs.image:
        return inputs.image, "input image"
    if view is None:
        return DEFAULT_IMAGE, "the default"
    if not view.image:
        raise InputError(
            "input image is missing: view-path %s does not say which operating system it is for" % view.path,
            remedy="give image, or platform (for example x86_64-el9-gcc13-opt)",
        )
    return view.image, "the view's operating system"


def _own_environment(inputs: ActionInputs, extra: ApptainerArgs) -> Env:
    """What the step itself asks for: the arguments for Apptainer, then the input `env`, which wins."""
    return tuple({**dict(extra.env), **dict(inputs.env)}.items())


def _plain(path: str) -> str:
    """An absolute path without dots and doubled slashes."""
    return "/" + os.path.normpath(path).lstrip("/")


def _normal_on_cvmfs(binds: Tuple[Mount, ...]) -> Tuple[Mount, ...]:
    """Binds whose sources on CVMFS are spelled so that their repository can be read off; others may mean links by their dots."""
    return tuple(replace(one, source=_plain(one.source)) if repository_of(_plain(one.source)) else one for one in binds)


def _path_of_image(image: str, workspace: str) -> str:
    """Where the image lies, if its reference is a path; "" where it is none, or not even a reference (an expression, for `explain`)."""
    try:
        found = parse(image, workspace)
    except InputError:
        return ""
    return found.path if found.transport == PATH else ""


def _repositories(inputs: ActionInputs, view: Optional[View], touched: Tuple[str, ...]) -> Tuple[str, ...]:
    """The named ones, the view's, and those in which any path lies that the step touches: each of them can hang."""
    found = [*inputs.cvmfs_repositories, view.repository if view is not None else ""]
    found += [repository_of(_plain(path)) for path in touched if path]
    return tuple(dict.fromkeys(name for name in found if name))


def _mounts(
    binds: Tuple[Mount, ...], environ: Mapping[str, str], workspace: str, folder: str, exists: Callable[[str], bool]
) -> Tuple[Mount, ...]:
    """Workspace, RUNNER_TEMP, tool cache, file commands and /cvmfs at their own paths, then the asked binds, which win."""
    asked = {_plain(one.target) for one in binds}
    found: List[Mount] = []
    places = [workspace, environ.get("RUNNER_TEMP", ""), environ.get("RUNNER_TOOL_CACHE", "")]
    for place in (os.path.normpath(one) for one in places if one.startswith("/")):
        if place not in asked and not _covered(place, found) and (place == workspace or exists(place)):
            found.append(Mount(source=place, target=place))
    for name in FILE_COMMANDS:
        path = os.path.normpath(environ.get(name) or ".")
        if path.startswith("/") and path not in asked and not _covered(path, found) and exists(path):
            found.append(Mount(source=path, target=path))
    if folder and not _covered(folder, found):
        found.append(Mount(source=folder, target=folder))
    if CVMFS not in asked and exists(CVMFS):
        found.append(Mount(source=CVMFS, target=CVMFS, read_only=True))
    return (*found, *binds)


def _covered(path: str, mounts: List[Mount]) -> bool:
    return any(path == one.target or path.startswith(one.target + "/") for one in mounts)
