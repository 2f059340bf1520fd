"""One call of a container hook, as the runner makes it: launch, one JSON line, output, response file, signals, the runner's own words."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from gha_apptainer.testing.runner.output import Output

GENERIC = "Executing the custom container implementation failed. Please contact your self hosted runner administrator."
NAMES = {
    "prepare_job": "PrepareJob",
    "run_script_step": "RunScriptStep",
    "run_container_step": "RunContainerStep",
    "cleanup_job": "CleanupJob",
}
PIPES_S = 5.0
"""How long the runner waits for pipes that descendants of a hook keep open."""


class HookError(Exception):
    """The hook failed, as a step of the job fails; `exit_code` where there was one."""

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass
class Cancel:
    """A cancel in the runner's way: SIGINT, SIGTERM, SIGKILL to the hook's pid only. `steps` are (signal, seconds after the one before)."""

    steps: tuple[tuple[int, float], ...] = ((signal.SIGINT, 0.0), (signal.SIGTERM, 7.5), (signal.SIGKILL, 2.5))
    asked: threading.Event = field(default_factory=threading.Event)
    sent: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Caller:
    """What does not change between the calls of one job. `node` is the node with which the runner starts a `.js` hook."""

    hook: Path
    work: Path
    externals: Path
    ignore_interrupt: bool = False
    node: str = "node20"

    def command(self, path: str) -> list[str]:
        """The command line for the hook's extension; an interpreter for `.sh` is looked up in `path`, the job's own entries first."""
        if not self.hook.is_file():
            raise HookError("File not found at '%s'. Set ACTIONS_RUNNER_CONTAINER_HOOKS to the path of an existing file." % self.hook)
        if self.hook.suffix == ".js":
            return [str(self.externals / self.node / "bin" / "node"), str(self.hook)]
        if self.hook.suffix == ".sh":
            bash = shutil.which("bash", path=path)
            return [bash, "-e", str(self.hook)] if bash else [str(shutil.which("sh", path=path)), "-e", str(self.hook)]
        if self.hook.suffix == ".ps1":
            return [str(shutil.which("pwsh", path=path)), "-command", ". '%s'" % self.hook]
        raise HookError(
            "Invalid file extension at '%s'. ACTIONS_RUNNER_CONTAINER_HOOKS must be a path to a file with one of the following "
            "extensions: .js, .sh, .ps1" % self.hook
        )


@dataclass
class Answer:
    """A response: `given` has lower-case names at its first level, as the runner compares them without case."""

    given: dict[str, Any]
    seconds: float


def call(
    caller: Caller,
    command: str,
    args: Mapping[str, Any],
    state: object,
    environ: Mapping[str, str],
    cwd: Path,
    output: Output,
    cancel: Cancel,
) -> Answer:
    """Call the hook and give its answer. Raises HookError with what the step would show."""
    folder = caller.work / "_temp" / "_runner_hook_responses"
    folder.mkdir(parents=True, exist_ok=True)
    response = folder / ("%s.json" % uuid.uuid4())
    response.touch()
    request = {"command": command, "responseFile": str(response), "args": args, "state": state}
    line = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
    began = time.monotonic()
    try:
        argv = caller.command(environ.get("PATH", ""))
        code = _run(argv, line, environ, cwd, output, cancel, ignore=caller.ignore_interrupt)
        output.end()
        if code:
            output.error("Process completed with exit code %d." % code)
            raise HookError(GENERIC, code)
        return Answer(_read(response, caller.hook, command, args), time.monotonic() - began)
    except HookError as error:
        output.end()
        output.error(GENERIC)
        if str(error) != GENERIC:
            output.say(str(error))
        raise
    finally:
        response.unlink(missing_ok=True)


def run_on_host(argv: list[str], environ: Mapping[str, str], cwd: Path, output: Output, cancel: Cancel) -> None:
    """A step without a container: a process of the runner's. Raises HookError where it fails."""
    code = _run(argv, b"", environ, cwd, output, cancel, ignore=False)
    output.end()
    if code:
        output.error("Process completed with exit code %d." % code)
        raise HookError("", code)


def _run(argv: list[str], line: bytes, environ: Mapping[str, str], cwd: Path, output: Output, cancel: Cancel, *, ignore: bool) -> int:
    if not cwd.is_dir():
        raise HookError("An error occurred trying to start process '%s' with working directory '%s'." % (argv[0], cwd))

    if ignore:  # as a command that a shell without job control put into the background
        argv = ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *argv]
    pipe = subprocess.PIPE
    child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environ), cwd=cwd)
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    readers = [
        threading.Thread(target=_pump, args=(name, stream, output), daemon=True)
        for name, stream in (("stdout", child.stdout), ("stderr", child.stderr))
    ]
    for one in readers:
        one.start()
    try:
        child.stdin.write(line)
        child.stdin.close()
    except BrokenPipeError:
        pass
    code = _wait(child, cancel)
    deadline = time.monotonic() + PIPES_S
    for one in readers:
        one.join(max(0.0, deadline - time.monotonic()))
    return code if code >= 0 else 128 - code


def _pump(name: str, stream: IO[bytes], output: Output) -> None:
    while True:
        data = os.read(stream.fileno(), 1 << 16)
        if not data:
            stream.close()
            return
        output.feed(name, data)


def _wait(child: subprocess.Popen[bytes], cancel: Cancel) -> int:
    while not cancel.asked.is_set():
        try:
            return child.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    for number, pause in cancel.steps:
        try:
            return child.wait(pause)
        except subprocess.TimeoutExpired:
            cancel.sent.append(number)
            child.send_signal(number)
    return child.wait(60.0)


def _read(response: Path, hook: Path, command: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The response by the runner's rules: needed for a job container, names without case, one object."""
    needed = command == "prepare_job" and args.get("container") is not None
    running = "for the hook script at '%s' running command '%s'" % (hook, NAMES[command])
    if not response.exists():
        if needed:
            raise HookError("Response file is required but not found %s" % running)
        return {}
    text = response.read_text(encoding="utf-8")
    if not text.strip():
        if needed:
            raise HookError("Response file could not be read at '%s' running command '%s'" % (hook, NAMES[command]))
        if command == "prepare_job":
            raise HookError("Object reference not set to an instance of an object.")
        return {}
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise HookError("the response is no JSON: %s" % error) from error
    if not isinstance(raw, dict):
        raise HookError("the response is no object")
    given = {name.lower(): value for name, value in raw.items()}
    if needed and not isinstance(given.get("isalpine"), bool):
        raise HookError("The property 'isAlpine' is required but was not found in the response file.")
    if command == "prepare_job":
        _check_context(given, args)
    return given


def _check_context(given: dict[str, Any], args: Mapping[str, Any]) -> None:
    """What would make the real runner stumble: a container that was not asked for, more services than asked for, ports that are none."""
    context = given.get("context") or {}
    services = context.get("services")
    if context.get("container") is not None and args.get("container") is None:
        raise HookError("Object reference not set to an instance of an object.")
    if "services" in context and services is None:
        raise HookError("Object reference not set to an instance of an object.")
    if len(services or ()) > len(args.get("services") or ()):
        raise HookError("Index was out of range. Must be non-negative and less than the size of the collection.")
    for one in services or ():
        ports = one.get("ports")
        if not isinstance(ports, dict) or not all(isinstance(value, str) for value in ports.values()):
            raise HookError("Object reference not set to an instance of an object.")
