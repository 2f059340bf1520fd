"""Docker's command line, read with its own rules: `argv` -> what was asked for.

Rules (https://pkg.go.dev/github.com/spf13/pflag#hdr-Command_line_flag_syntax): `--name value`, `--name=value`, `-n value`, `-nvalue`,
`-n=value`, and switches in one word (`-it`); the last of a repeated single option wins; `--` ends the options. For run, create and exec
the first word that is no option ends them too, so that what follows belongs to the command inside. Files of variables come before `-e`,
in whatever order they were written.
"""

from __future__ import annotations

from gha_apptainer.domain.asked import Asked
from gha_apptainer.domain.containers import Args
from gha_apptainer.domain.docker_table import (
    APPROXIMATE,
    CREATE,
    EXEC,
    MAKING,
    NO_WAY_OUT,
    OPTIONS,
    REFUSED,
    RUN,
    VERBS,
    Draft,
    Option,
    options_of,
)
from gha_apptainer.domain.docker_values import boolean
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.images import Health
from gha_apptainer.domain.values import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Optional, Tuple

    from gha_apptainer.domain.docker_values import Reader


@dataclass(frozen=True)
class ParsedOptions:
    """A parsed command line.

    `asked` has the container's part (for run and create with image and command). `positional` are the words after the options. `given`
    are the verb's own options, "--long" -> values in order. `help` tells that `--help` was among them: then nothing else counts.
    """

    asked: Asked
    positional: Args
    warnings: Tuple[str, ...] = ()
    given: Mapping[str, Args] = field(default_factory=dict)
    help: bool = False

    def has(self, long: str) -> bool:
        """Whether a switch of the verb is on."""
        return self.last(long, "false") == "true"

    def last(self, long: str, default: str = "") -> str:
        """The value of an option of the verb."""
        return self.given.get("--" + long, (default,))[-1]


def _no_file(path: str) -> bytes:
    raise FileNotFoundError(2, "files cannot be read here", path)


def parse_options(
    argv: Args, verb: str, *, environ: Optional[Mapping[str, str]] = None, read: Reader = _no_file, cwd: str = "/"
) -> ParsedOptions:
    """Read the arguments of a docker-like verb.

    `environ` gives the values of bare `-e NAME`, `read` the bytes of --env-file and --label-file, `cwd` is what `./` in a volume means.
    Raises InputError for what is wrong, with the nearest known names, and Refused for a flag of Docker's that cannot be honoured, with the
    reason.
    """
    draft = Draft(environ or {}, read, cwd)
    words, wants_help = _walk(argv, verb, draft)
    if wants_help:
        return ParsedOptions(Asked(), (), help=True)
    asked = dict(draft.asked)
    if verb in (RUN, CREATE, EXEC, OPTIONS):
        asked.update(_environment(draft))
        asked["labels"] = tuple(dict(draft.file_labels + draft.labels).items())
        asked["mounts"] = tuple(draft.mounts) + ((draft.shm,) if draft.shm else ())
        asked["add_hosts"] = tuple(draft.hosts)
        asked.update(_network(draft))
    if verb in MAKING and words:
        asked["image"] = words[0]
        asked["command"] = words[1:] or None
    given = {name: tuple(found) for name, found in draft.given.items()}
    return ParsedOptions(Asked(**asked), words, tuple(draft.warnings), given)


def _environment(draft: Draft) -> Dict[str, object]:
    """A name stands once, at its first place, with its last value; without one it is dropped from the image's."""
    final: Dict[str, Optional[str]] = dict(draft.file_env + draft.env)
    env = tuple((name, value) for name, value in final.items() if value is not None)
    return {"env": env, "unset_env": tuple(name for name, value in final.items() if value is None)}


def _network(draft: Draft) -> Dict[str, object]:
    """What the options said of ports, names and health, where they said anything."""
    found: Dict[str, object] = {name: tuple(words) for name, words in draft.lists.items()}
    for name, listed in (("publish", draft.publish), ("expose", draft.expose), ("aliases", draft.aliases)):
        if listed:
            found[name] = tuple(listed)
    if ("publish" in found or draft.asked.get("publish_all")) and not draft.asked.get("network"):
        draft.warn("ports are published from a private network: " + NO_WAY_OUT)
    if draft.health:
        health = dict(draft.health)
        off = health.pop("off", False)
        if off and health:
            raise InputError("--no-healthcheck conflicts with --health-* options", remedy="leave one of them out")
        found["health"] = Health(("NONE",)) if off else Health(**{"test": (), **health})
    return found


class _Names:
    """The rows of a verb by spelling."""

    def __init__(self, verb: str) -> None:
        self.long: Dict[str, Option] = {}
        self.short: Dict[str, Option] = {}
        for row in options_of(verb):
            for name in (row.long, *row.aliases):
                self.long[name] = row
            if row.short:
                self.short[row.short] = row


def _walk(argv: Args, verb: str, draft: Draft) -> Tuple[Args, bool]:
    if verb not in VERBS and verb != OPTIONS:
        raise AssertionError("no docker-like verb: %s" % verb)
    names = _Names(verb)
    ends_at_word = verb in (RUN, CREATE, EXEC)
    words: List[str] = []
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word == "--":
            words += argv[at:]
            break
        if word == "--help":
            return (), True
        if word == "-" or not word.startswith("-"):
            words.append(word)
            if ends_at_word:
                words += argv[at:]
                break
            continue
        rest = argv[at:]
        used = _long(word, rest, verb, names, draft) if word.startswith("--") else _short(word, rest, verb, names, draft)
        at += used
    return tuple(words), False


def _long(word: str, rest: Args, verb: str, names: _Names, draft: Draft) -> int:
    name, equals, value = word[2:].partition("=")
    row = names.long.get(name)
    if row is None:
        raise _unknown("--" + name, verb, names)
    if equals:
        _use(row, "--" + name, value, draft)
        return 0
    if not row.value:
        _use(row, "--" + name, "true", draft)
        return 0
    return _use_next(row, "--" + name, rest, draft)


def _short(word: str, rest: Args, verb: str, names: _Names, draft: Draft) -> int:
    letters = word[1:]
    for at, letter in enumerate(letters):
        row = names.short.get(letter)
        flag = "-" + letter
        if row is None:
            raise _unknown(flag if len(letters) == 1 else "%s in %s" % (flag, word), verb, names)
        tail = letters[at + 1 :]
        if tail.startswith("="):
            _use(row, flag, tail[1:], draft)
            return 0
        if row.value:
            if tail:
                _use(row, flag, tail, draft)
                return 0
            return _use_next(row, flag, rest, draft)
        _use(row, flag, "true", draft)
    return 0


def _use_next(row: Option, flag: str, rest: Args, draft: Draft) -> int:
    if row.treatment != REFUSED and not rest:
        raise InputError("%s needs a value: %s" % (flag, row.value))
    _use(row, flag, rest[0] if rest else "", draft)
    return 1


def _use(row: Option, flag: str, value: str, draft: Draft) -> None:
    if not row.value:
        value = "true" if boolean(flag, value) else "false"
        if row.treatment == REFUSED and value == "false":
            return  # switched off, as it is anyway
    if row.treatment == REFUSED:
        shown = flag if flag == row.flag else "%s (%s)" % (row.flag, flag)
        raise Refused("%s cannot be honoured: %s" % (shown, row.note), remedy="leave it out")
    if row.treatment == APPROXIMATE:
        draft.warn("%s: %s" % (row.flag, row.note))
    if row.apply is not None:
        row.apply(draft, flag, value)
    else:
        draft.given.setdefault(row.flag, []).append(value)


def _unknown(flag: str, verb: str, names: _Names) -> InputError:
    import difflib  # only on the way to an error

    known = ["--" + name for name in names.long]
    near = difflib.get_close_matches(flag, known, 3, 0.6) if flag.startswith("--") else []
    remedy = "gha-apptainer %s --help lists the options" % verb
    if verb == OPTIONS:
        remedy = "the options of `docker create` are known, each honoured, approximated or refused"
    if near:
        remedy = "did you mean %s?" % " or ".join(near)
    return InputError("unknown option %s" % flag, remedy=remedy)
