"""What act says, one JSON object a line, as values; and those as lines for a person.

Only `msg` is ever shown: act masks secrets there and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

SKIPPED_PLATFORM = "Skipping unsupported platform"
_NOISE = (
    "LocalRepositoryCache ", "Cleaning up ", "unable to get git ", "Couldn't get a valid docker connection", "Reevaluate condition",
    "Result condition ", "Not creating job container",
)  # fmt: skip
_EXIT_STATUS = "exit status "  # told of a step in an action, and again of the action
_NO_GIT = "not located inside a git repository"
_COMMAND = re.compile(r"::[a-z-]+(?: [^:]*)?::(?P<text>.*)$", re.DOTALL)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07")
_START = re.compile(r"^\s*\u2b50 Run (?:Pre|Main|Post) (?P<title>.*)$", re.DOTALL)
_END = re.compile(r"^\s*\S+\s+\S+ - (?:Pre|Main|Post) (?P<title>.*?)(?: \[[^\]\n]*\])?$", re.DOTALL)
_ESCAPES = (("%0A", "\n"), ("%0D", "\r"), ("%3A", ":"), ("%2C", ","), ("%25", "%"))


@dataclass(frozen=True)
class Event:
    """One line of act's. `job` is its display name, `steps` the ids from the job's step inwards, `seconds` how long a step took.

    `title` is the step's, in the lines that begin or end one. It comes from the masked message: the field `step` is written
    after expressions are filled in and shows secrets.
    """

    job: str = ""
    job_id: str = ""
    title: str = ""
    starts: bool = False
    steps: tuple[str, ...] = ()
    stage: str = ""
    level: str = ""
    text: str = ""
    raw: bool = False
    command: str = ""
    properties: Mapping[str, str] | None = None
    step_result: str = ""
    job_result: str = ""
    seconds: float | None = None

    @property
    def noise(self) -> bool:
        """Whether it tells a user of the launcher nothing."""
        return self.text.strip().startswith(_NOISE) or self.text.rstrip().endswith(_NO_GIT)


def parse(line: str) -> Event:
    """The event of one line. A line that is not act's JSON is an event with nothing but its text."""
    try:
        raw = json.loads(line)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        return Event(text=line.rstrip("\n"))
    ids = raw.get("stepID")
    properties = raw.get("kvPairs")
    text = str(raw.get("msg", ""))
    raw_output = raw.get("raw_output") is True
    start = None if raw_output else _START.match(text)
    end = _END.match(text) if raw.get("stepResult") else None
    titled = start or end
    nanoseconds = raw.get("executionTime")
    return Event(
        job=str(raw.get("job", "")).strip(),
        job_id=str(raw.get("jobID", "")),
        title=titled["title"].strip().split("\n")[0] if titled else "",
        starts=start is not None,
        steps=tuple(map(str, ids)) if isinstance(ids, list) else (),
        stage=str(raw.get("stage", "")),
        level=str(raw.get("level", "")),
        text=text,
        raw=raw_output,
        command=str(raw.get("command", "")),
        properties={str(key): str(value) for key, value in properties.items()} if isinstance(properties, dict) else None,
        step_result=str(raw.get("stepResult", "")),
        job_result=str(raw.get("jobResult", "")),
        seconds=nanoseconds / 1e9 if isinstance(nanoseconds, (int, float)) else None,
    )


def plain(text: str) -> str:
    """Without a terminal's colours and cursor movements; of a line drawn over and over, what remained."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in _ANSI.sub("", text).split("\n"))


def render(event: Event, *, many: bool, colours: bool) -> list[str]:
    """The lines of the log for one event; none for what is no news. `many`: several jobs run, so each line names its own."""
    lines = _lines(event, colours)
    return [f"[{event.job}] {line}" if many and event.job else line for line in lines]


def _lines(event: Event, colours: bool) -> list[str]:
    if event.noise:
        return []
    title = event.title
    if event.job_result:
        return [f"== job '{event.job}': {event.job_result}"]
    if event.step_result:
        if not event.stage or len(event.steps) != 1 or (event.stage != "Main" and event.step_result == "success"):
            return []
        took = "" if event.seconds is None else f" ({event.seconds:.1f} s)"
        return [f"<- {event.step_result}: {title}{took}"]
    if event.raw:
        text = event.text.rstrip("\n")
        return ["   " + line for line in (text if colours else plain(text)).split("\n")]
    if event.command:
        return _command(event)
    if event.starts:
        return [f"-> {title}"] if event.stage == "Main" and len(event.steps) == 1 else []
    if len(event.steps) > 1 and event.text.startswith(_EXIT_STATUS):
        return []
    if event.level in ("error", "fatal", "warning") or not event.job or SKIPPED_PLATFORM in event.text:
        return ["   " + line for line in plain(event.text).strip().split("\n") if line.strip()]
    return []


def _command(event: Event) -> list[str]:
    match = _COMMAND.search(event.text.rstrip("\n"))
    text = match["text"] if match else ""
    for code, char in _ESCAPES:
        text = text.replace(code, char)
    if event.command == "group":
        return [f"   > {text}"]
    if event.command in ("error", "warning", "notice"):
        title = (event.properties or {}).get("title", "")
        first, *rest = f"{title}: {text}".split("\n") if title else text.split("\n")
        return [f"   {event.command}: {first}", *("     " + line for line in rest)]
    if event.command == "summary" and len(event.steps) == 1:
        content = event.text.partition(" - ")[2].rstrip("\n")
        return ["   | " + line for line in content.split("\n")] if content else []
    return []
