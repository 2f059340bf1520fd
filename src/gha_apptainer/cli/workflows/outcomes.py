"""How a run ended: act's own exit code is not enough, so every job of the plan must have a result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gha_apptainer.cli.workflows.events import SKIPPED_PLATFORM, Event
from gha_apptainer.cli.workflows.plans import Expected, RunPlan

SUCCESS, FAILURE, CANCELLED, SKIPPED = "success", "failure", "cancelled", "skipped"


@dataclass(frozen=True)
class StepResult:
    """One step of a job that ended; `seconds` is None where act gave no time."""

    title: str
    result: str
    seconds: float | None


@dataclass(frozen=True)
class JobResult:
    """One job, or one combination of its matrix. `result` is success, failure or skipped."""

    id: str
    title: str
    result: str
    steps: tuple[StepResult, ...] = ()


@dataclass(frozen=True)
class ContainerResult:
    """What a container step's own record says of it."""

    step: str
    image: str
    digest: str
    route: str
    exit_code: int | None


@dataclass(frozen=True)
class Summary:
    """The whole run. `reasons` say why it is not a success; `result` is success, failure or cancelled."""

    workflow: str
    result: str
    reasons: tuple[str, ...]
    jobs: tuple[JobResult, ...]
    containers: tuple[ContainerResult, ...]
    version: int = 1

    def line(self) -> str:
        """The one line that a run ends with."""
        kinds = sorted({f"image {one.image} route {one.route or 'unknown'} {one.digest}".rstrip() for one in self.containers})
        return f"{self.workflow}: {'; '.join(kinds) or 'no container step'}: {self.result}"


@dataclass
class Tally:
    """What was seen so far. Feed it every event, then `judge`."""

    steps: dict[str, list[StepResult]] = field(default_factory=dict)
    jobs: dict[str, tuple[str, str]] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Take one event in."""
        if event.job_result:
            self.jobs[event.job] = (event.job_id, event.job_result)
        elif event.step_result and event.stage and len(event.steps) == 1:
            if event.stage == "Main" or event.step_result != SUCCESS:
                self.steps.setdefault(event.job, []).append(StepResult(event.title, event.step_result, event.seconds))
        elif SKIPPED_PLATFORM in event.text and not event.raw:
            self.unsupported.append(event.job)
        elif event.text and not event.job and not event.noise and (not event.level or event.level in ("error", "fatal")):
            self.errors.append(event.text.strip())

    def results(self) -> tuple[JobResult, ...]:
        """The jobs that ended, in the order in which they did."""
        return tuple(JobResult(key, name, result, tuple(self.steps.get(name, ()))) for name, (key, result) in self.jobs.items())


def judge(plan: RunPlan, tally: Tally, code: int | None, containers: Sequence[ContainerResult], *, name: str, stopped: bool) -> Summary:
    """The truth about a run. `code` is act's exit code, negative for a signal, None if it is unknown."""
    jobs = tally.results()
    reasons = [f"job '{one}' was skipped: its label is not mapped" for one in tally.unsupported]
    missing, skipped = _missing(plan.expected, jobs)
    reasons += [f"job '{one}' has no result" for one in missing]
    culprits = {job.id for job in jobs if any(step.result == FAILURE for step in job.steps)}
    for job in jobs:
        failed = [step.title for step in job.steps if step.result == FAILURE]
        # act calls every combination of a matrix failed once one has; name the one that did
        if job.result != SUCCESS and (failed or job.id not in culprits):
            reasons.append(f"job '{job.title}' ended with {job.result}" + (f", step '{failed[-1]}'" if failed else ""))
    if not any(step.result in (SUCCESS, FAILURE) for job in jobs for step in job.steps):
        reasons.append("nothing ran: no step of any job was executed")
    if code is None:
        reasons.append("how act ended is unknown")
    elif code < 0:
        reasons.append(f"act was killed by signal {-code}")
    elif code and not any(one.result != SUCCESS for one in jobs):
        reasons.append(f"act ended with exit code {code}" + (": " + tally.errors[-1] if tally.errors else ""))
    reasons += _contradictions(jobs, containers)
    result = CANCELLED if stopped else FAILURE if reasons else SUCCESS
    left_out = tuple(JobResult(one, one, SKIPPED) for one in skipped)
    return Summary(name, result, tuple(dict.fromkeys(reasons)), jobs + left_out, tuple(containers))


def _contradictions(jobs: Sequence[JobResult], containers: Sequence[ContainerResult]) -> Iterator[str]:
    """What the container steps' own records say against act."""
    if any(one.exit_code is None for one in containers):
        yield "a container step left a record without an exit code"
    failed = any(step.result == FAILURE for job in jobs for step in job.steps)
    for one in containers:
        if one.exit_code and not failed:
            yield f"container step '{one.step}' ended with exit code {one.exit_code}, and act calls no step failed"


def _missing(expected: Iterable[Expected], jobs: Sequence[JobResult]) -> tuple[list[str], list[str]]:
    """Jobs without the results they must have, and jobs that may well have been skipped: by `if`, or by what they need.

    act says nothing at all of a skipped job, so a skip is believed only where the workflow allows one.
    """
    expected = tuple(expected)
    found: dict[str, list[str]] = {}
    for job in jobs:
        found.setdefault(job.id, []).append(job.result)
    not_green = {one.key for one in expected if not found.get(one.id) or any(result != SUCCESS for result in found[one.id])}
    missing: list[str] = []
    skipped: list[str] = []
    for name in dict.fromkeys(one.id for one in expected):
        alike = [one for one in expected if one.id == name]  # several where reusable workflows name their jobs alike
        excused = [one for one in alike if one.conditional or _needs_not_green(one, expected, not_green)]
        have, wanted = len(found.get(name, ())), sum(one.count or 1 for one in alike)
        required = wanted - sum(one.count or 1 for one in excused)
        if have >= wanted:
            continue
        if have < required or (len(alike) == 1 and have):
            missing += [one.key for one in alike]
        elif not have:
            skipped += [one.key for one in excused]
    return missing, skipped


def _needs_not_green(one: Expected, expected: Sequence[Expected], not_green: set[str]) -> bool:
    """Whether something it needs did not succeed; a need may be a reusable workflow, whose jobs' keys start with its own."""
    return any(other.key in not_green for other in expected for need in one.needs if other.key == need or other.key.startswith(need + "/"))


def as_document(summary: Summary) -> Mapping[str, object]:
    """The summary as JSON's own types."""
    return {
        "version": summary.version,
        "workflow": summary.workflow,
        "result": summary.result,
        "reasons": list(summary.reasons),
        "jobs": [
            {
                "id": job.id,
                "title": job.title,
                "result": job.result,
                "steps": [{"title": step.title, "result": step.result, "seconds": step.seconds} for step in job.steps],
            }
            for job in summary.jobs
        ],
        "containers": [
            {"step": one.step, "image": one.image, "digest": one.digest, "route": one.route, "exit_code": one.exit_code}
            for one in summary.containers
        ],
    }
