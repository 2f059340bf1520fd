"""What an instruction makes of an image's configuration, and what it asks to be done to its files. Pure.

`evaluate` walks one instruction at a time: configuration and variables in, configuration, variables and at most one action out. The actions
are values: the cache hashes them, the executor does them.
"""

from __future__ import annotations

import re
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from gha_apptainer.domain.container_specs import DEFAULT_PATH
from gha_apptainer.domain.containers import Env
from gha_apptainer.domain.docker_values import duration, signal_name
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.images import Health, OciConfig
from gha_apptainer.domain.values import dataclass, field, replace
from gha_apptainer.node.dockerfile.actions import Action, Copy, MakeDirectory, Run
from gha_apptainer.node.dockerfile.run_mounts import read_mount
from gha_apptainer.node.dockerfile.stages import Step, array_of, expanded, inside, trigger_text
from gha_apptainer.node.dockerfile.table import PROXIES
from gha_apptainer.node.dockerfile.words import BadWord, expand_content

_GIT = r"git@|git://|ssh://|https?://[^#?]*\.git(#|$)"
SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)


@dataclass(frozen=True)
class Given:
    """What was given to the build: arguments, the values of the ARGs before the first FROM, and proxies for RUN."""

    args: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """A stage so far. `args` are its ARGs with their values; `own_cmd` tells that CMD was set in this file."""

    config: OciConfig
    args: Env = ()
    own_cmd: bool = False
    given: Given = field(default_factory=Given)

    @property
    def variables(self) -> Dict[str, str]:
        """What the file's own variables mean here: an ENV always wins over an ARG."""
        return {**dict(self.args), **dict(self.config.env)}


def evaluate(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    """The state after one instruction, and what is to be done for it. Raises InputError naming file and line."""
    return _RULES[step.keyword](step, state)


def _configured(state: State, **more: object) -> Tuple[State, Optional[Action]]:
    return replace(state, config=OciConfig(**{**state.config.__dict__, **more})), None


def _arg(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    found = dict(state.args)
    for name, default in step.pairs:
        value: Optional[str]
        if name in state.given.args:
            value = state.given.args[name]
        elif default is not None:
            value = expanded(step, default, {**found, **dict(state.config.env)})
        else:
            value = state.given.meta.get(name, found.get(name))
        if value is not None:
            found[name] = value
    return replace(state, args=tuple(found.items())), None


def _env(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return _configured(state, env=_merged(step, state, state.config.env))


def _label(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return _configured(state, labels=_merged(step, state, state.config.labels))


def _merged(step: Step, state: State, before: Env) -> Env:
    """All values of one line see the variables as they were before it."""
    variables = state.variables
    found = dict(before)
    for name, value in step.pairs:
        key = expanded(step, name, variables)
        if not key or "=" in key or "\0" in key:
            raise step.wrong("%r is no name" % name)
        found[key] = expanded(step, value or "", variables)
    return tuple(found.items())


def _maintainer(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return _configured(state, labels=tuple({**dict(state.config.labels), "maintainer": step.text}.items()))


def _command(step: Step, state: State) -> Tuple[str, ...]:
    return step.words if step.exec_form else (*(state.config.shell or SHELL), step.text)


def _cmd(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return replace(state, own_cmd=True, config=replace(state.config, cmd=_command(step, state))), None


def _entrypoint(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return _configured(state, entrypoint=_command(step, state), cmd=state.config.cmd if state.own_cmd else ())


def _shell(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return _configured(state, shell=step.words)


def _one(step: Step, state: State) -> str:
    found = expanded(step, step.words[0], state.variables)
    if not found:
        raise step.wrong("%s is empty text" % step.words[0])
    return found


def _user(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return _configured(state, user=_one(step, state))


def _workdir(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    path = inside(_one(step, state), state.config.workdir)
    return replace(state, config=replace(state.config, workdir=path)), MakeDirectory(path)


def _words(step: Step, state: State) -> Tuple[str, ...]:
    return tuple(expanded(step, word, state.variables) for word in step.words)


def _volume(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    found = dict.fromkeys((*state.config.volumes, *_words(step, state)))
    if "" in found:
        raise step.wrong("a volume without a path")
    return _configured(state, volumes=tuple(found))


def _expose(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    found = dict.fromkeys(state.config.ports)
    for word in [part for text in _words(step, state) for part in text.split()]:
        match = _PORT.fullmatch(word)
        first, last = (int(match.group(1)), int(match.group(2) or match.group(1))) if match else (0, 0)
        if match is None or not 0 < first <= last < 65536:
            raise step.wrong("%r is no port" % word, "PORT[-PORT][/tcp|/udp]")
        protocol = (match.group(3) or "tcp").lower()
        found.update(dict.fromkeys("%d/%s" % (port, protocol) for port in range(first, last + 1)))
    return _configured(state, ports=tuple(sorted(found, key=lambda one: (int(one.partition("/")[0]), one))))


def _stopsignal(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return _configured(state, stop_signal=_told(step, lambda: signal_name(_one(step, state), "STOPSIGNAL")))


def _told(step: Step, read: Callable[[], str]) -> str:
    try:
        return read()
    except GhaError as error:
        raise step.wrong(error.what, error.remedy) from error


def _onbuild(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    return _configured(state, onbuild=(*state.config.onbuild, trigger_text(step)))


def _healthcheck(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    kind = step.words[0].upper() if step.words else ""
    if kind == "NONE" and len(step.words) == 1 and not step.flags:
        return _configured(state, healthcheck=Health(("NONE",)))
    if kind != "CMD" or len(step.words) != 2:
        raise step.wrong("it is NONE, or CMD with a command", "HEALTHCHECK [--interval=30s …] CMD COMMAND")
    inner = array_of(step, step.words[1])
    test = ("CMD", *inner) if inner is not None else ("CMD-SHELL", step.words[1])
    if len(test) < 2:
        raise step.wrong("CMD without a command")
    retries = step.flag("retries")
    if retries and not retries.isdigit():
        raise step.wrong("--retries=%s is no number" % retries)
    health = Health(
        test, _seconds(step, "interval"), _seconds(step, "timeout"), _seconds(step, "start-period"), int(retries) if retries else 0
    )
    return _configured(state, healthcheck=health)


def _seconds(step: Step, name: str) -> float:
    text = step.flag(name)
    try:
        return duration("--" + name, text) if text else 0.0
    except GhaError as error:
        raise step.wrong(error.what, error.remedy) from error


# what touches files


def _run(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    env = {"PATH": DEFAULT_PATH, **state.variables}
    unseen = {name: value for name, value in state.given.args.items() if name in PROXIES and name not in env}
    script = ""
    argv = _command(step, state)
    if step.exec_form and not argv:
        raise step.wrong("an empty array")
    if step.heredocs:
        if len(step.heredocs) == 1 and step.text.strip() == step.heredocs[0].text:
            script = step.heredocs[0].content if step.heredocs[0].content.startswith("#!") else ""
            argv = () if script else (*(state.config.shell or SHELL), step.heredocs[0].content)
        else:
            argv = (*(state.config.shell or SHELL), step.text + "\n" + "".join(one.content + one.name + "\n" for one in step.heredocs))
    action = Run(
        argv=argv,
        env=tuple(env.items()),
        cwd=state.config.workdir or "/",
        user=state.config.user,
        network=step.flag("network") or "default",
        mounts=tuple(read_mount(step, text, state.variables, state.config.workdir) for text in step.flags_of("mount")),
        script=script,
        unseen=tuple(unseen.items()),
    )
    targets = [one.target for one in action.mounts if one.target]
    if len(set(targets)) != len(targets):
        raise step.wrong("two mounts at the same place")
    return state, action


def _copy(step: Step, state: State) -> Tuple[State, Optional[Action]]:
    variables = state.variables
    *names, target = step.words
    announced = {one.text: one for one in step.heredocs}
    files: List[Tuple[str, str]] = []
    sources: List[str] = []
    for name in names:
        one = announced.get(name)
        if one is not None:
            files.append((one.name, _content(step, one.content, variables) if one.expand else one.content))
            continue
        text = expanded(step, name, variables)
        if not text:
            raise step.wrong("the source %s is empty text" % name)
        if step.keyword == "ADD" and re.match(_GIT, text):
            raise step.refused("%s is a git repository, which is not fetched" % text, "check it out into the context before")
        sources.append(text)
    told = expanded(step, target, variables)
    if not told:
        raise step.wrong("the target %s is empty text" % target)
    where = inside(told, state.config.workdir)
    if told.endswith(("/", "/.")) or told == ".":
        where = where.rstrip("/") + "/"
    if len(sources) + len(files) > 1 and not where.endswith("/"):
        raise step.wrong("several sources need a target that is a directory", "end it with /: %s/" % told)
    mode = expanded(step, step.flag("chmod"), variables)
    if mode and not re.fullmatch(r"[0-7]{1,4}|([ugoa]*[-+=][rwxXst]*)(,[ugoa]*[-+=][rwxXst]*)*", mode):
        raise step.wrong("--chmod=%s is neither octal nor symbolic" % mode)
    checksum = expanded(step, step.flag("checksum"), variables)
    if checksum and not re.fullmatch("sha256:[0-9a-f]{64}", checksum):
        raise step.wrong("--checksum=%s is no sha256 digest" % checksum)
    if checksum and (len(sources) != 1 or not is_address(sources[0])):
        raise step.wrong("--checksum is for one source that is an address")
    return state, Copy(
        sources=tuple(sources),
        target=where,
        origin=step.flag("from"),
        owner=expanded(step, step.flag("chown"), variables),
        mode=mode,
        parents=step.switch("parents"),
        exclude=tuple(expanded(step, one, variables) for one in step.flags_of("exclude")),
        files=tuple(files),
        add=step.keyword == "ADD",
        checksum=checksum,
        unpack=step.switch("unpack") if step.flags_of("unpack") else None,
    )


def _content(step: Step, text: str, variables: Mapping[str, str]) -> str:
    try:
        return expand_content(text, variables)
    except BadWord as error:
        raise step.wrong("%s in the here-document" % error) from error


def is_address(text: str) -> bool:
    """Whether a source of ADD is fetched."""
    return text.startswith(("http://", "https://"))


_RULES: Dict[str, Callable[[Step, State], Tuple[State, Optional[Action]]]] = {
    "ARG": _arg,
    "ENV": _env,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "RUN": _run,
    "COPY": _copy,
    "ADD": _copy,
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "SHELL": _shell,
    "USER": _user,
    "WORKDIR": _workdir,
    "VOLUME": _volume,
    "EXPOSE": _expose,
    "STOPSIGNAL": _stopsignal,
    "ONBUILD": _onbuild,
    "HEALTHCHECK": _healthcheck,
}
