"""run_script_step: a `run:` or JavaScript step, one join into the job container. The shortest path of all; imports what the joiner imports.

What a step starts with: the image's variables and the container's (in the container's own record), then the step's; PATH is the
container's with the step's own directories before it; CI and GITHUB_ACTIONS are set, as on every runner.
"""

from __future__ import annotations

import os
import resource

from gha_apptainer.domain import hook_arguments
from gha_apptainer.node.engine import enter, join
from gha_apptainer.node.engine import flat as engine_flat
from gha_apptainer.node.hooks import cancelling, flat, telling

FAILED = 125
_NODE = "/__e/node"


class Unusable(Exception):
    """The request or the job's record cannot be used; `lines` are for people."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[0])
        self.lines = lines


class Step:
    """One step: what to run, with which further variables, where."""

    __slots__ = ("args", "entry", "env", "prepend", "workdir")

    def __init__(self, raw: object) -> None:
        if not isinstance(raw, dict):
            raise Unusable("run_script_step: args is no object")
        self.entry: str = _text(raw, "entryPoint")
        self.args: tuple[str, ...] = tuple(_texts(raw, "entryPointArgs"))
        prepend = raw.get("prependPath")
        self.prepend: list[str] = [prepend] if isinstance(prepend, str) and prepend else [] if prepend == "" else _texts(raw, "prependPath")
        self.workdir: str = _text(raw, "workingDirectory")
        env = raw.get("environmentVariables") or {}
        if not isinstance(env, dict):
            raise Unusable("run_script_step: environmentVariables is no object")
        self.env: dict[str, str] = {}
        for name, value in env.items():
            if value is not None and not isinstance(value, str):
                raise Unusable("run_script_step: the value of %s is no text" % name)
            if name and "=" not in name and "\0" not in name and "\0" not in (value or ""):
                self.env[name] = value or ""
        if not self.entry:
            raise Unusable("run_script_step: no entryPoint")


def _text(raw: dict[str, object], key: str) -> str:
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise Unusable("run_script_step: %s is no text" % key)
    return value


def _texts(raw: dict[str, object], key: str) -> list[str]:
    value = raw.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Unusable("run_script_step: %s is no list" % key)
    found = []
    for one in value:
        if not isinstance(one, str) or "\0" in one:
            raise Unusable("run_script_step: %s is no list of texts" % key)
        found.append(one)
    return found


def state_directory() -> str:
    """Where records lie. Raises Unusable where it is not a private directory of this user."""
    state = os.environ.get("GHA_APPTAINER_STATE") or "/tmp/gha-apptainer-%d" % os.geteuid()
    if not enter.trusted(state):
        raise Unusable("%s is not there, or not a private directory of this user" % state, "the job container cannot be found without it")
    return state


def find_job(state: object, top: str, environ: os._Environ[str] | dict[str, str]) -> tuple[str, flat.FlatJob]:
    """The job that a state names: its directory and record. Raises Unusable for a state that is not this job's."""
    if state is None:
        raise Unusable(
            "this job has no job container",
            "prepare_job did not succeed, so there is nothing in which a step could run",
        )
    identity = state.get("id") if isinstance(state, dict) else None
    if not isinstance(identity, str) or len(identity) != 32 or not frozenset("0123456789abcdef").issuperset(identity):
        raise Unusable("the state that came back is not what prepare_job answered", "a step may have written into the runner's files")
    place = "%s/jobs/%s" % (top, identity)
    try:
        job = flat.read(place + "/step")
    except FileNotFoundError:
        raise Unusable(
            "the job's record is gone: %s" % identity, "its job container was removed, or the state is not this runner's"
        ) from None
    except (OSError, ValueError) as error:
        raise Unusable("the job's record cannot be used: %s" % error) from None
    if job.scope != flat.scope_of(environ):
        raise Unusable("the state that came back belongs to another job", "a step may have written into the runner's files")
    return place, job


def environment(base: tuple[tuple[str, str], ...], step: Step) -> tuple[tuple[str, str], ...]:
    """The step's whole environment: the container's, then the step's own; PATH with the step's directories first."""
    env = dict(base)
    env.update(step.env)
    env.setdefault("CI", "true")
    env["GITHUB_ACTIONS"] = "true"
    env["PATH"] = ":".join([*step.prepend, env.get("PATH") or join.DEFAULT_PATH])
    return tuple(env.items())


def run(raw: dict[str, object], watch: cancelling.Watch) -> int:
    """Run the step of a request and give its exit code. Everything that went wrong has been said then."""
    try:
        step = Step(raw.get("args"))
        top = state_directory()
        place, job = find_job(raw.get("state"), top, os.environ)
        if not job.container:
            raise Unusable("this job has no job container", "it was prepared with services only")
        _deliver_card(place, job)
        return _enter(step, job, "%s/containers/%s" % (top, job.container), watch)
    except Unusable as error:
        telling.error("step not started", "\n".join(error.lines))
        return FAILED


def _enter(step: Step, job: flat.FlatJob, base: str, watch: cancelling.Watch) -> int:
    try:
        record = engine_flat.read(base + "/join")
        settings = engine_flat.read_settings(base + "/exec")
    except (OSError, ValueError) as error:
        raise Unusable("the job container does not run any more: %s" % error, *_ending(base)) from None
    if job.node and step.entry.startswith(_NODE):
        raise Unusable(*job.node.split("\n"))
    _limit(job)
    argv = (step.entry, *hook_arguments.rejoined(step.args))
    command = join.Command(argv, environment(settings.env, step), step.workdir or settings.cwd or "/", settings.user, -1, 1, 2)
    telling.debug("exec in container %s, %s: %d arguments, %d variables" % (job.container[:12], command.cwd, len(argv), len(command.env)))
    watch.starting()
    try:
        pid = join.spawn(record, command)
    except join.JoinFailed as failed:
        if failed.code == join.OURS and _is_gone(record):
            raise Unusable("the job container does not run any more", *_ending(base)) from None
        telling.error("step not started", _not_started(failed, step, job))
        return failed.code
    except UnicodeEncodeError:
        raise Unusable("a variable or an argument holds characters that no process can be given (lone surrogates)") from None
    watch.command(pid)
    code = watch.finish(join.exit_code(os.waitpid(pid, 0)[1]))
    if not code and root_lost(job.helpers):
        telling.error("root file system lost", "what serves the container's root file system ended: the step may have read nonsense")
        return FAILED
    if code and not watch.number:
        _explain(code, record, job)
    return code


def root_lost(helpers: str) -> bool:
    """Whether a process that serves the container's root has ended: what a command read since then counts for nothing."""
    for one in helpers.split(",") if helpers else ():
        pid, _, began = one.partition(":")
        if cancelling.started(int(pid)) != int(began):
            return True
    return False


def _is_gone(record: engine_flat.JoinRecord) -> bool:
    """Whether the container's first process has ended."""
    return cancelling.started(record.init) != record.started


def _ending(base: str) -> tuple[str, ...]:
    told = "it was ended from outside, or by a lack of memory"
    return ("%s; its record says how: gha-apptainer inspect %s" % (told, base[-64:][:12]) if os.path.exists(base + "/exit.json") else told,)


def _limit(job: flat.FlatJob) -> None:
    """The processors and limits of `options:`, ours and so the command's. What cannot be set was warned of when the job was prepared."""
    if job.cpus:
        try:
            os.sched_setaffinity(0, [int(one) for one in job.cpus.split(",")])
        except OSError:
            pass
    for one in job.limits.split(",") if job.limits else ():
        number, _, hard = one.partition("=")
        try:
            resource.setrlimit(int(number), (int(hard), int(hard)))
        except (OSError, ValueError):
            pass


def _not_started(failed: join.JoinFailed, step: Step, job: flat.FlatJob) -> str:
    if failed.code == join.NOT_FOUND:
        return "%s\nthe image %s has no %r in its PATH: choose a `shell:` that it has, install it, or use another image" % (
            failed.text,
            job.image,
            step.entry,
        )
    if "working directory" in failed.text:
        return "%s\na `working-directory:` must exist in the container; a checkout makes that of the repository" % failed.text
    return "%s\nimage %s" % (failed.text, job.image)


def _explain(code: int, record: engine_flat.JoinRecord, job: flat.FlatJob) -> None:
    """One line before the runner's generic ones, which name the administrator whatever went wrong."""
    if _is_gone(record):
        telling.error("job container ended", "the job container ended while the step ran: out of memory, or killed from outside")
    elif code == 137:
        telling.error("step killed", "the step's command was ended by SIGKILL (exit code 137)\n%s" % _memory(job))
    elif 128 < code < 193:
        try:
            known = cancelling.name(code - 128)
        except ValueError:
            known = "signal %d" % (code - 128)
        telling.error("step killed", "the step's command was ended by %s (exit code %d)" % (known, code))
    else:
        telling.write(
            "\ngha-apptainer: the step's own command ended with exit code %d; the runner's words about its container implementation "
            "that follow stand there for every failed step\n" % code
        )


def _memory(job: flat.FlatJob) -> str:
    """What is known of a lack of memory after a SIGKILL: the kernel's own count where it can be read, else a guess that says so."""
    from gha_apptainer.node.engine import cgroups  # only after a failure

    remedy = "ask for more memory, or let fewer processes run at once"
    if 0 <= int(job.ooms) < cgroups.oom_kills():
        return "out of memory: the kernel has killed a process of this job for it: " + remedy
    return "probably the memory limit of the job or of the machine: " + remedy


def _deliver_card(place: str, job: flat.FlatJob) -> None:
    """The job's card goes into the summary of the first step that has one."""
    path = os.environ.get("GITHUB_STEP_SUMMARY", "")
    if not path or not os.path.exists(place + "/card.md"):
        return
    from gha_apptainer.node.hooks import cards  # once a job

    cards.deliver(place, path, job.work)
