"""What follows `--`: act's own options, each passed on, translated, or refused by name with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gha_apptainer.domain.errors import InputError, Refused

_OURS = "the launcher sets it for every run"
_DOCKER = "it needs a container daemon, and none is used here"
_REFUSED = {
    "--bind": "with steps on the host it leaves the workspace empty",
    "--privileged": _DOCKER,
    "--container-options": _DOCKER,
    "--container-cap-add": _DOCKER,
    "--container-cap-drop": _DOCKER,
    "--container-architecture": _DOCKER,
    "--container-daemon-socket": _DOCKER,
    "--network": _DOCKER,
    "--userns": _DOCKER,
    "--rebuild": _DOCKER,
    "--pull": _DOCKER,
    "--reuse": "every run starts from an empty scratch directory",
    "--rm": _OURS,
    "--json": "use `gha-apptainer workflow --json`; act's own form is read by the launcher",
    "--action-cache-path": _OURS,
    "--use-new-action-cache": _OURS,
    "--artifact-server-addr": "the server listens on the loopback address only",
    "--artifact-server-port": _OURS,
    "--cache-server-addr": "the server listens on the loopback address only",
    "--cache-server-external-url": "the server listens on the loopback address only",
    "--cache-server-path": _OURS,
    "--cache-server-port": _OURS,
    "--no-cache-server": "it is started only where the workflow uses actions/cache",
    "--directory": "the directory is the repository that holds the workflow file",
    "--workflows": "give the workflow file as the argument",
    "--no-recurse": "one workflow file is run",
    "--watch": "a run ends with one result",
    "--dryrun": "nothing would run; use `gha-apptainer explain WORKFLOW.yml`",
    "--graph": "nothing would run; use `gha-apptainer workflow --list WORKFLOW.yml`",
    "--list": "nothing would run; use `gha-apptainer workflow --list WORKFLOW.yml`",
    "--validate": "nothing would run; use `gha-apptainer workflow --list WORKFLOW.yml`",
    "--insecure-secrets": "secrets stay masked in the log",
    "--log-prefix-job-id": _OURS,
    "--quiet": "the log is what a run is looked at for",
    "--bug-report": "nothing would run; start act itself for it",
    "--list-options": "nothing would run; start act itself for it",
    "--man-page": "nothing would run; start act itself for it",
    "--version": "nothing would run; start act itself for it",
    "--help": "nothing would run; start act itself for it",
}
_WITH_VALUE = frozenset({
    "--actor", "--artifact-server-path", "--concurrent-jobs", "--defaultbranch", "--env-file", "--eventpath", "--github-instance",
    "--input", "--input-file", "--matrix", "--remote-name", "--replace-ghe-action-token-with-github-com",
    "--replace-ghe-action-with-github-com", "--secret-file", "--var", "--var-file",
})  # fmt: skip
_FLAGS = frozenset({"--action-offline-mode", "--detect-event", "--no-skip-checkout", "--strict", "--use-gitignore", "--verbose"})
_TRANSLATED = frozenset({"--env", "--job", "--local-repository", "--platform", "--secret"})
_SHORT = {
    "-P": "--platform", "-s": "--secret", "-j": "--job", "-e": "--eventpath", "-a": "--actor", "-b": "--bind", "-C": "--directory",
    "-W": "--workflows", "-n": "--dryrun", "-l": "--list", "-g": "--graph", "-p": "--pull", "-q": "--quiet", "-r": "--reuse",
    "-v": "--verbose", "-w": "--watch", "-h": "--help",
}  # fmt: skip


@dataclass(frozen=True)
class ActOptions:
    """`passed` goes to act as it is; `given` are the names in it. `secrets` never reach an argument list."""

    event: str = ""
    job: str = ""
    passed: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    repositories: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()

    def given(self, name: str) -> bool:
        """Whether an option that is passed on was given."""
        return any(one == name or one.startswith(name + "=") for one in self.passed)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> ActOptions:
    """What act is asked for. `environ` gives the values of `--env NAME` and `--secret NAME`.

    Raises Refused for what cannot be honoured and InputError for what act does not know.
    """
    left = list(argv)
    event = left.pop(0) if left and not left[0].startswith("-") else ""
    kept: dict[str, list[tuple[str, str]]] = {name: [] for name in _TRANSLATED}
    passed: list[str] = []
    while left:
        name, value, has_value = _split(left.pop(0))
        if name in _REFUSED:
            raise Refused(f"act's option {name} is not taken here: {_REFUSED[name]}")
        if name in _FLAGS:
            passed.append(f"{name}={value}" if has_value else name)
            continue
        if name not in _WITH_VALUE and name not in _TRANSLATED:
            raise InputError(f"act has no option {name!r} that the launcher knows", remedy="`act --help` lists them")
        if not has_value:
            if not left:
                raise InputError(f"act's option {name} needs a value")
            value = left.pop(0)
        if name in _TRANSLATED:
            kept[name].append(_pair(name, value))
        else:
            passed.append(f"{name}={value}")
    secrets = _from_environment("--secret", kept["--secret"], environ)
    if secrets and any(one.startswith("--secret-file=") for one in passed):
        raise Refused("act's options --secret and --secret-file do not go together here", remedy="put all secrets into the file")
    return ActOptions(
        event=event,
        job=kept["--job"][-1][0] if kept["--job"] else "",
        passed=tuple(passed),
        labels=tuple(_platform(label, image) for label, image in kept["--platform"]),
        repositories=tuple(kept["--local-repository"]),
        env=_from_environment("--env", kept["--env"], environ),
        secrets=secrets,
    )


def _split(word: str) -> tuple[str, str, bool]:
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, value, bool(equals)
    short = word[:2]
    if not word.startswith("-") or short not in _SHORT:
        return word, "", False
    value = word[2:].removeprefix("=")
    return _SHORT[short], value, bool(value)


def _pair(option: str, text: str) -> tuple[str, str]:
    """NAME=VALUE apart. A local repository's reference holds no `=`, so the first one divides. Without one the second part is a NUL."""
    name, equals, value = text.partition("=")
    if not name or (option in ("--platform", "--local-repository") and not equals):
        raise InputError(f"act's option {option} is NAME=VALUE, not {text!r}")
    return name, value if equals else "\0"


def _from_environment(option: str, pairs: Sequence[tuple[str, str]], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    found = []
    for name, value in pairs:
        if value == "\0" and name not in environ:
            raise InputError(f"{option} {name}: no such variable here", remedy=f"export {name}, or give {option} {name}=VALUE")
        found.append((name, environ[name] if value == "\0" else value))
    return tuple(found)


def _platform(label: str, image: str) -> str:
    if image != "-self-hosted":
        raise Refused(
            f"act's option -P {label}={image} asks for a Docker image, and none is used here",
            remedy=f"-P {label}=-self-hosted runs the job's steps on this machine; its containers are those of the container action",
        )
    return label
