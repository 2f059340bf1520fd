"""From the lines of a Dockerfile to its stages: every instruction read and checked, the stages that a target needs. Pure.

Everything that can be wrong without knowing the base images is told here, with file and line, before any work begins.
"""

from __future__ import annotations

import difflib
import json
import posixpath
from typing import Dict, List, Mapping, Optional, Tuple

from gha_apptainer.domain.docker_table import REFUSED
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.values import dataclass, field
from gha_apptainer.node.dockerfile.lines import Heredoc, Line, Source, read_lines, refused, wrong
from gha_apptainer.node.dockerfile.table import INSTRUCTIONS, NOT_TRIGGERS, ONE, OTHER, PAIRS, SHELL_OR_EXEC, WORDS, flag_of
from gha_apptainer.node.dockerfile.words import BadWord, expand, split_words

SCRATCH = "scratch"
Flags = Tuple[Tuple[str, str], ...]
_TRUE = ("", "true", "1", "t", "True", "TRUE", "T")
_FALSE = ("false", "0", "f", "False", "FALSE", "F")


@dataclass(frozen=True)
class Step:
    """One instruction, read. `exec_form` is that `words` came as a JSON array; `text` is the rest of the line as it was written.

    `pairs` are names and values of ENV, LABEL and ARG (None: an ARG without a value), not expanded yet. `file` and `escape` are those of
    the file that it is from, which for a trigger (ONBUILD) is another one.
    """

    file: str
    line: int
    keyword: str
    text: str
    flags: Flags = ()
    words: Tuple[str, ...] = ()
    pairs: Tuple[Tuple[str, Optional[str]], ...] = ()
    exec_form: bool = False
    heredocs: Tuple[Heredoc, ...] = ()
    escape: str = "\\"

    def flag(self, name: str) -> str:
        """The last value of a flag; empty where it is not given."""
        return next((value for key, value in reversed(self.flags) if key == name), "")

    def flags_of(self, name: str) -> Tuple[str, ...]:
        """All values of a flag that may stand more than once."""
        return tuple(value for key, value in self.flags if key == name)

    def switch(self, name: str) -> bool:
        """Whether a flag that is on or off is on."""
        if all(key != name for key, _ in self.flags):
            return False
        value = self.flag(name)
        if value not in (*_TRUE, *_FALSE):
            raise self.wrong("--%s=%s is neither true nor false" % (name, value))
        return value in _TRUE

    def wrong(self, why: str, remedy: str = "") -> InputError:
        """The error for something wrong in this instruction."""
        return wrong(self.file, self.line, "%s: %s" % (self.keyword, why), remedy)

    def refused(self, why: str, remedy: str = "") -> Refused:
        """The error for something right in this instruction that is not done here."""
        return refused(self.file, self.line, "%s: %s" % (self.keyword, why), remedy)

    def __str__(self) -> str:
        """The instruction on one line, for people."""
        flags = "".join(" --%s%s" % (key, "=" + value if value else "") for key, value in self.flags)
        return "%s%s %s" % (self.keyword, flags, " ".join(self.text.split()))


@dataclass(frozen=True)
class Stage:
    """One stage. `base` is an image's name, `scratch`, or the number of an earlier stage where `parent` is 0 or more."""

    number: int
    name: str
    base: str
    platform: str
    parent: int
    start: Step
    steps: Tuple[Step, ...]

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.name or "stage-%d" % self.number


@dataclass(frozen=True)
class Dockerfile:
    """A whole file. `meta` are the ARGs before the first FROM with the values that they have."""

    name: str
    stages: Tuple[Stage, ...]
    meta: Mapping[str, str] = field(default_factory=dict)
    declared: Tuple[str, ...] = ()

    def find(self, name: str) -> Optional[Stage]:
        """The stage of that name or number. Names are compared without regard to case."""
        for stage in self.stages:
            if stage.name and stage.name == name.lower():
                return stage
        if name.isdigit() and int(name) < len(self.stages):
            return self.stages[int(name)]
        return None

    def target(self, name: str) -> Stage:
        """The stage that is wanted; the last one where no name is given. Raises InputError naming the stages."""
        found = self.find(name) if name else self.stages[-1]
        if found is None:
            known = ", ".join(stage.title for stage in self.stages)
            raise InputError("%s: there is no stage %r" % (self.name, name), remedy="stages: " + known)
        return found

    def needed(self, target: Stage) -> Tuple[Stage, ...]:
        """The stages that the target leans on and itself, in their order: no other one is built."""
        wanted = {target.number}
        for stage in reversed(self.stages[: target.number + 1]):
            if stage.number not in wanted:
                continue
            if stage.parent >= 0:
                wanted.add(stage.parent)
            for step in stage.steps:
                wanted.update(found.number for found in self.sources(stage, step))
        return tuple(stage for stage in self.stages if stage.number in wanted)

    def sources(self, stage: Stage, step: Step) -> Tuple[Stage, ...]:
        """The stages whose files a step takes."""
        names = [step.flag("from")] if step.keyword == "COPY" else []
        for text in step.flags_of("mount") if step.keyword == "RUN" else ():
            names += [part[5:] for part in text.split(",") if part.startswith("from=")]
        found = [self.find(name) for name in names if name]
        return tuple(one for one in found if one is not None and one.number < stage.number)


def read_dockerfile(text: str, name: str, args: Mapping[str, str], globals: Mapping[str, str]) -> Dockerfile:
    """The stages of a file. `args` are the build arguments that were given, `globals` the platform's variables.

    Raises InputError or Refused naming file and line.
    """
    source = read_lines(text, name)
    steps = tuple(read_step(line, source.name, source.escape) for line in source.lines)
    meta: Dict[str, str] = dict(globals)
    declared: List[str] = [key for step in steps if step.keyword == "ARG" for key, _ in step.pairs]
    stages: List[Stage] = []
    body: List[Step] = []
    head: Optional[Step] = None
    for step in steps:
        if step.keyword == "FROM":
            if head is not None:
                stages.append(_stage(head, tuple(body), stages, meta))
            head, body = step, []
        elif head is not None:
            body.append(step)
        elif step.keyword == "ARG":
            for key, value in step.pairs:
                if key in args:
                    meta[key] = args[key]
                elif value is not None:
                    meta[key] = expanded(step, value, meta)
        else:
            raise step.wrong("an instruction before the first FROM", "only ARG may stand there")
    if head is None:
        raise InputError("%s: there is no FROM in it" % name, remedy="begin with FROM IMAGE")
    stages.append(_stage(head, tuple(body), stages, meta))
    return Dockerfile(name, tuple(stages), meta, tuple(declared))


def _stage(head: Step, steps: Tuple[Step, ...], before: List[Stage], meta: Mapping[str, str]) -> Stage:
    words = head.words
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        raise head.wrong("it takes an image, and AS with a name", "FROM IMAGE [AS NAME]")
    name = words[2].lower() if len(words) == 3 else ""
    if name and not (name[0].isalpha() and all(mark.isalnum() or mark in "-_." for mark in name)):
        raise head.wrong("%r is no name for a stage" % words[2], "letters, digits, - _ . and a letter first")
    if name and name == SCRATCH:
        raise head.wrong("a stage cannot be named %s" % SCRATCH)
    if name and any(stage.name == name for stage in before):
        raise head.wrong("two stages are named %s" % name)
    base = expanded(head, words[0], meta)
    if not base:
        raise head.wrong("the image %s is empty text" % words[0], "give its ARG a value: --build-arg, or a default before the first FROM")
    parent = next((stage.number for stage in before if stage.name and stage.name == base.lower()), -1)
    return Stage(len(before), name, base, expanded(head, head.flag("platform"), meta), parent, head, steps)


def expanded(step: Step, text: str, env: Mapping[str, str]) -> str:
    """The text with its variables replaced. Raises InputError naming file and line."""
    try:
        return expand(text, env, step.escape)
    except BadWord as error:
        raise step.wrong("%s in %s" % (error, text)) from error


def inside(path: str, cwd: str) -> str:
    """A path of the image, absolute and tidy: relative ones start at the working directory."""
    return posixpath.normpath("/" + posixpath.join(cwd or "/", path).lstrip("/"))


def read_step(line: Line, file: str, escape: str) -> Step:
    """One instruction, checked as far as it can be without its surroundings."""
    row = INSTRUCTIONS.get(line.keyword)
    if row is None:
        near = difflib.get_close_matches(line.keyword, INSTRUCTIONS, 1, 0.6)
        raise wrong(file, line.number, "unknown instruction %s" % line.keyword, "did you mean %s?" % near[0] if near else "")
    step = Step(file, line.number, line.keyword, line.rest, _flags(line, file), heredocs=line.heredocs, escape=escape)
    if not line.rest and not (line.keyword == "HEALTHCHECK"):
        raise step.wrong("it has no arguments")
    if row.form == PAIRS:
        return _with(step, pairs=_pairs(step))
    if line.keyword == "ONBUILD":
        _check_trigger(step)
        return step
    if row.form == SHELL_OR_EXEC:
        found = array_of(step, step.text)
        if line.keyword == "SHELL" and not found:
            raise step.wrong("it takes a JSON array", 'SHELL ["/bin/bash", "-c"]')
        return _with(step, words=found or (), exec_form=found is not None)
    if row.form == WORDS:
        found = array_of(step, step.text)
        words = found if found is not None else tuple(line.rest.split())
        if line.keyword in ("COPY", "ADD") and len(words) < 2:
            raise step.wrong("it takes at least one source and a target", "%s SOURCE… TARGET" % line.keyword)
        _check_copy(step)
        return _with(step, words=words, exec_form=found is not None)
    if row.form == ONE and line.keyword == "FROM":
        return _with(step, words=tuple(line.rest.split()))
    if row.form == ONE:
        return _with(step, words=(line.rest,))
    return _with(step, words=tuple(line.rest.split(None, 1))) if row.form == OTHER else step


def _with(step: Step, **more: object) -> Step:
    return Step(**{**step.__dict__, **more})


def _flags(line: Line, file: str) -> Flags:
    found: List[Tuple[str, str]] = []
    for word in line.flags:
        name, _, value = word[2:].partition("=")
        told = value
        if name == "mount":
            told = "type=" + next((part[5:] for part in value.split(",") if part.startswith("type=")), "bind")
        rows = flag_of(line.keyword, name, told)
        if not rows:
            known = sorted({row.name.partition("=")[0] for row in INSTRUCTIONS[line.keyword].flags}) if line.keyword in INSTRUCTIONS else []
            kinds = [row.name.partition("=")[2] for row in INSTRUCTIONS[line.keyword].flags if row.name.startswith(name + "=")]
            remedy = "known: " + ", ".join(kinds or ["--" + one for one in known]) if kinds or known else "it has no flags"
            raise wrong(file, line.number, "%s: unknown flag %s" % (line.keyword, word), remedy)
        if rows[0].treatment == REFUSED:
            raise refused(file, line.number, "%s --%s is refused: %s" % (line.keyword, rows[0].name, rows[0].note))
        if name not in ("mount", "exclude") and any(key == name for key, _ in found):
            raise wrong(file, line.number, "%s: --%s is given twice" % (line.keyword, name))
        found.append((name, value))
    return tuple(found)


def array_of(step: Step, text: str) -> Optional[Tuple[str, ...]]:
    """The words of the exec form; None where the text is no JSON array. Raises InputError for an array of other things than texts."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, list):
        return None
    if not all(isinstance(one, str) for one in found):
        raise step.wrong("an array of other things than texts", "quote every element: %s" % json.dumps([str(one) for one in found]))
    return tuple(found)


def _pairs(step: Step) -> Tuple[Tuple[str, Optional[str]], ...]:
    words = split_words(step.text, step.escape)
    if step.keyword != "ARG" and words and "=" not in words[0]:
        parts = step.text.split(None, 1)  # the old form, one name and the rest of the line
        if len(parts) < 2:
            raise step.wrong("it takes a name and a value", "%s NAME=VALUE" % step.keyword)
        return ((parts[0], parts[1]),)
    found: List[Tuple[str, Optional[str]]] = []
    for word in words:
        name, sign, value = word.partition("=")
        if not name:
            raise step.wrong("%r has no name" % word)
        if not sign and step.keyword != "ARG":
            raise step.wrong("%r is not NAME=VALUE" % word, "quote a value with blanks")
        found.append((name, value if sign else None))
    return tuple(found)


def _check_trigger(step: Step) -> None:
    inner = step.text.split(None, 1)[0].upper()
    if inner in NOT_TRIGGERS:
        raise step.wrong("%s cannot be a trigger" % inner)
    for one in triggered((trigger_text(step),), step.file, step.line, step.escape):
        _check_copy(one)


def _check_copy(step: Step) -> None:
    if "$" in step.flag("from"):
        raise step.wrong("--from=%s: variables are not replaced there" % step.flag("from"), "name a stage: FROM ${IMAGE} AS name")
    if (
        step.keyword == "ADD"
        and step.flag("checksum")
        and not step.flag("checksum").startswith("sha256:")
        and "$" not in step.flag("checksum")
    ):
        raise step.wrong("--checksum=%s is no sha256 digest" % step.flag("checksum"))


def trigger_text(step: Step) -> str:
    """The instruction of an ONBUILD with its here-documents, as an image's configuration keeps it."""
    return step.text + "".join("\n%s%s" % (one.content, one.name) for one in step.heredocs)


def triggered(texts: Tuple[str, ...], file: str, line: int, escape: str = "\\") -> Tuple[Step, ...]:
    """The instructions of a base image's triggers; `file` and `line` are those of the FROM that runs them."""
    found: List[Step] = []
    for text in texts:
        source: Source = read_lines(("# escape=%s\n" % escape if escape != "\\" else "") + text, file)
        for one in source.lines:
            if one.keyword in NOT_TRIGGERS:
                raise wrong(file, line, "ONBUILD %s of the base image is no instruction for a trigger" % one.keyword)
            found.append(read_step(Line(line, one.keyword, one.flags, one.rest, one.heredocs), file, escape))
    return tuple(found)
