"""`hooks check`: all four commands played on this machine as a runner would, and a look at who may change the hooks.

It is to be run as the runner's user, on a machine like those where jobs run.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import uuid
from typing import Dict, List, Mapping, Tuple

from gha_apptainer.domain.errors import GhaError, InputError
from gha_apptainer.domain.findings import FAIL, OK, SKIP, WARN, Finding
from gha_apptainer.domain.hook_policy import ACKNOWLEDGED
from gha_apptainer.domain.hook_requests import CLEANUP, CONTAINER, PREPARE, SCRIPT
from gha_apptainer.node import files, process
from gha_apptainer.node.hooks import install, shims
from gha_apptainer.node.hooks.surroundings import read_policy

_LIMIT = 300.0
_REQUIRE = "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER"
_TRUE = ("true", "1")


def check(directory: str, image: str, environ: Mapping[str, str]) -> List[Finding]:
    """A finding for each command, for what is left afterwards, and for who may write what. Nothing is raised for what does not work."""
    found: List[Finding] = []
    policy = ""
    if directory:
        directory = os.path.abspath(directory)
        try:
            policy = policy_of(os.path.join(directory, shims.SH))
            read_policy(policy)
        except GhaError as error:
            found.append(Finding("installed", FAIL, error.what, error.remedy or "gha-apptainer hooks install %s" % directory))
            return found
        found.append(Finding("installed", OK, "hooks in %s, policy %s" % (directory, policy or "none: the defaults hold")))
    with tempfile.TemporaryDirectory(prefix="gha-hooks-check-") as folder:
        try:
            found += _Trial(folder, directory, image, environ).run()
        except (GhaError, OSError) as error:
            found.append(Finding("trial", FAIL, "the hooks cannot be tried: %s" % error, getattr(error, "remedy", "")))
    return found + ownership(directory, policy, environ)


def policy_of(shell_shim: str) -> str:
    """The policy with which hooks were installed. Raises InputError where there are none of ours."""
    try:
        text = files.decode(files.read_whole(shell_shim, limit=1 << 20))
    except OSError as error:
        raise InputError("no hooks are installed there: %s: %s" % (shell_shim, error.strerror)) from error
    if shims.MARK not in text:
        raise InputError("%s was not written by `hooks install`" % shell_shim)
    import shlex

    words = shlex.split(text.rpartition("\nexec ")[2])
    return words[words.index("--policy") + 1] if "--policy" in words else ""


class _Trial:
    """One played job: a job container with two steps, a container step, and the end."""

    def __init__(self, folder: str, directory: str, image: str, environ: Mapping[str, str]) -> None:
        self._folder, self._environ = folder, environ
        self._work = os.path.join(folder, "work")
        self._directory = directory
        self._image = image
        self._state: object = None

    def run(self) -> List[Finding]:
        for name in ("_temp/_runner_hook_responses", "_temp/_runner_file_commands", "_temp/_github_home", "_temp/_github_workflow", "r/r"):
            os.makedirs(os.path.join(self._work, name))
        os.mkdir(os.path.join(self._folder, "externals"))
        image = self._image or small_image(os.path.join(self._work, "image"))
        found = [self._one(PREPARE, self._prepare_args(image))]
        if found[0].status == OK:
            found.append(self._one(SCRIPT, self._script_args("echo kept > /kept-over-steps")))
            found.append(
                self._one(SCRIPT, self._script_args("read word < /kept-over-steps; test $word = kept; echo done > result"), "again")
            )
        found.append(self._one(CONTAINER, self._container_args(image)))
        found.append(self._one(CLEANUP, {}))
        if self._directory:
            found.append(self._through_node())
        if all(one.status in (OK, SKIP) for one in found):
            missing = [name for name in ("result", "container-result") if not os.path.exists(os.path.join(self._work, "r/r", name))]
            if missing:
                found.append(Finding("workspace", FAIL, "what steps wrote into the workspace is not there: %s" % ", ".join(missing)))
            else:
                found.append(Finding("workspace", OK, "what steps wrote is there, owned by the runner's user"))
        return found

    def _one(self, command: str, args: Dict[str, object], more: str = "") -> Finding:
        response = os.path.join(self._work, "_temp/_runner_hook_responses", "%s.json" % uuid.uuid4())
        files.write_whole(response, b"")
        request = json.dumps({"command": command, "responseFile": response, "args": args, "state": self._state}) + "\n"
        done = process.run(self._argv(), env=self._env(), timeout=_LIMIT, input=request.encode(), cwd="/")
        name = command + (" " + more if more else "")
        if done.code:
            said = (done.stdout + done.stderr).decode("utf-8", "replace").replace("%0A", "; ").strip().splitlines()
            told = [line for line in said if line.strip()][-1:] or ["it said nothing"]
            return Finding(name, FAIL, "exit code %d: %s" % (done.code, told[0]), "gha-apptainer doctor names what this machine lacks")
        if command == PREPARE:
            answer = json.loads(files.read_whole(response).decode())
            self._state = answer["state"]
            if not isinstance(answer.get("isAlpine"), bool):
                return Finding(name, FAIL, "the answer has no isAlpine")
        return Finding(name, OK, "works")

    def _through_node(self) -> Finding:
        """The file that runners start, where this machine has a node of its own; the runner brings another."""
        node = shutil.which("node", path=self._environ.get("PATH") or None)
        if not node:
            return Finding("javascript", SKIP, "no node in PATH to try %s with; the runner brings its own" % shims.JS)
        request = json.dumps({"command": CLEANUP, "responseFile": "", "args": {}, "state": None}) + "\n"
        argv = (node, os.path.join(self._directory, shims.JS))
        done = process.run(argv, env=self._env(), timeout=_LIMIT, input=request.encode(), cwd="/")
        if done.code:
            told = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[-200:]
            return Finding("javascript", FAIL, "%s ended with %d: %s" % (shims.JS, done.code, told))
        return Finding("javascript", OK, "%s works with %s" % (shims.JS, node))

    def _argv(self) -> Tuple[str, ...]:
        if self._directory:
            return ("/bin/bash", "-e", os.path.join(self._directory, shims.SH))
        settings = shims.Settings(install.interpreter(), install.source())
        return (settings.python, *shims.arguments(settings), "--owner", str(os.getpid()))

    def _env(self) -> Tuple[Tuple[str, str], ...]:
        found = {name: value for name, value in self._environ.items() if not name.startswith(("GITHUB_", "RUNNER_"))}
        found.update({"GITHUB_ACTIONS": "true", "GITHUB_JOB": "hooks-check", "GITHUB_WORKSPACE": os.path.join(self._work, "r/r")})
        found.update({"RUNNER_TEMP": os.path.join(self._work, "_temp"), "RUNNER_NAME": "hooks-check", "RUNNER_TRACKING_ID": self._folder})
        return tuple(found.items())

    def _prepare_args(self, image: str) -> Dict[str, object]:
        mounts = [
            _mount(self._work, "/__w"),
            _mount(os.path.join(self._folder, "externals"), "/__e", read_only=True),
            _mount(os.path.join(self._work, "_temp"), "/__w/_temp"),
            _mount(os.path.join(self._work, "_temp/_github_home"), "/github/home"),
        ]
        container = {"image": image, "workingDirectory": "/__w/r/r", "environmentVariables": {"HOME": "/github/home"}}
        return {"container": {**container, "systemMountVolumes": mounts, "userMountVolumes": []}, "services": []}

    def _script_args(self, text: str) -> Dict[str, object]:
        name = "%s.sh" % uuid.uuid4()
        files.write_whole(os.path.join(self._work, "_temp", name), files.encode(text + "\n"))
        return {
            "entryPoint": "sh",
            "entryPointArgs": ["-e", "/__w/_temp/" + name],
            "environmentVariables": {"GITHUB_WORKSPACE": "/__w/r/r"},
            "prependPath": [],
            "workingDirectory": "/__w/r/r",
        }

    def _container_args(self, image: str) -> Dict[str, object]:
        return {
            "image": image,
            "entryPoint": "/bin/sh",
            "entryPointArgs": ["-c", '"echo', "done", ">", 'container-result"'],
            "workingDirectory": "/github/workspace",
            "environmentVariables": {},
            "systemMountVolumes": [
                _mount(os.path.join(self._work, "r/r"), "/github/workspace"),
                _mount(os.path.join(self._work, "_temp"), "/github/runner_temp"),
            ],
        }


def _mount(source: str, target: str, *, read_only: bool = False) -> Dict[str, object]:
    return {"userProvidedValue": None, "sourceVolumePath": source, "targetVolumePath": target, "readOnly": read_only}


def small_image(folder: str) -> str:
    """A root filesystem with this machine's own `sh` and what that loads, and nothing else."""
    program = os.path.realpath("/bin/sh")
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc", "root", "var/tmp"):
        os.makedirs(os.path.join(folder, name))
    listed = process.run(("/usr/bin/ldd", program), timeout=30.0)
    wanted = [word for line in listed.stdout.decode().splitlines() for word in line.split() if word.startswith("/")]
    for path in wanted:
        target = folder + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        files.write_whole(target, files.read_whole(os.path.realpath(path)), mode=0o755)
    files.write_whole(os.path.join(folder, "bin/sh"), files.read_whole(program), mode=0o755)
    files.write_whole(os.path.join(folder, "etc/passwd"), b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
    return folder


def ownership(directory: str, policy: str, environ: Mapping[str, str]) -> List[Finding]:
    """Whether steps that run on the runner itself could change what every later job runs through."""
    if not directory:
        return [Finding("ownership", SKIP, "no directory of hooks was named")]
    parts = [os.path.join(directory, shims.JS), os.path.join(directory, shims.SH), install.source(), install.interpreter()]
    writable = [path for path in [*parts, *([policy] if policy else [])] if may_change(path)]
    if not writable:
        return [Finding("ownership", OK, "this user can change neither the hooks nor the policy")]
    told = "this user can change %s" % ", ".join(writable)
    if environ.get(_REQUIRE, "").lower() in _TRUE:
        return [Finding("ownership", WARN, told + "; every job names a container, so no step runs as this user outside of one")]
    try:
        acknowledged = read_policy(policy).host_steps == ACKNOWLEDGED
    except GhaError:
        acknowledged = False
    if acknowledged:
        return [Finding("ownership", WARN, told + ", and so can steps that run without a container; the policy acknowledges it")]
    return [
        Finding(
            "ownership",
            FAIL,
            told + ", and so can steps that run without a container: they could change what later jobs run through",
            "give the files to another user, or set %s=true, or acknowledge it in the policy (host_steps: acknowledged)" % _REQUIRE,
        )
    ]


def may_change(path: str) -> bool:
    """Whether we could write a file or a directory, or put another in its place, or in that of a directory above it."""
    if _writable(path):
        return True
    above = os.path.dirname(os.path.realpath(path))
    while True:
        if _writable(above) and not _protected(above):
            return True
        if above == "/":
            return False
        above = os.path.dirname(above)


def _writable(path: str) -> bool:
    try:
        return os.lstat(path).st_uid == os.geteuid() or os.access(path, os.W_OK)
    except OSError:
        return False


def _protected(directory: str) -> bool:
    """Whether a directory that all may write keeps what belongs to others, as /tmp does."""
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return bool(found.st_mode & stat.S_ISVTX) and found.st_uid != os.geteuid()
