"""How a container step ended: the record, its verdict, and the card that shows it."""

from __future__ import annotations

import signal

from gha_apptainer.domain.containers import ExitStatus
from gha_apptainer.domain.errors import DOCKER_FAILURE, DOCKER_NOT_EXECUTABLE, DOCKER_NOT_FOUND
from gha_apptainer.domain.values import dataclass, field
from gha_apptainer.domain.verdicts import Verdict, Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Mapping, Tuple


@dataclass(frozen=True)
class StepRecord:
    """What one container step did, written by the process that waited for it.

    `step` is GITHUB_ACTION; `word` a verdict's; `exit_code` the step's, 125 where the failure is ours. Times in UTC seconds, memory in
    bytes. `where` is the root filesystem's path, `cvmfs` maps repositories to revisions.
    """

    DOCUMENT_VERSION: ClassVar[int] = 1
    version: int = 1
    step: str = ""
    image: str = ""
    digest: str = ""
    route: str = ""
    where: str = ""
    node: str = ""
    cpu: str = ""
    cpus: int = 0
    gpu: str = ""
    gpu_use: str = ""
    cvmfs: Mapping[str, str] = field(default_factory=dict)
    word: str = Word.UNKNOWN.name
    exit_code: int = DOCKER_FAILURE
    cause: str = ""
    started: float = 0.0
    finished: float = 0.0
    peak_memory: int = 0
    cpu_seconds: float = 0.0
    command: str = ""


CANCELLED = "cancelled "
"""How the reason of a status begins whose command was asked to stop."""


def cancelled(number: int) -> Verdict:
    """The verdict of a step that was asked to stop by a signal before its command ran."""
    return Verdict(Word.CANCELLED, 128 + number, CANCELLED + "by " + _name(number) + " before the command ran")


def verdict(status: ExitStatus) -> Verdict:
    """The word, the exit code and the reason for a command that ended. Only an ordinary end with exit code 0 is success."""
    code = status.exit_code
    if status.reason.startswith(CANCELLED):
        return Verdict(Word.CANCELLED, code or DOCKER_FAILURE, "the step was " + status.reason)
    if status.oom:
        return Verdict(
            Word.OOM,
            code or DOCKER_FAILURE,
            "the command ran out of memory and was killed by the kernel",
            "ask for more memory, or let fewer processes run at once (make -j2)",
            {"peak_memory": status.peak_memory},
        )
    if status.reason:
        word = Word.UNKNOWN if status.reason.startswith("unknown") else Word.FAILED
        return Verdict(word, code or DOCKER_FAILURE, status.reason, _remedy_for(code or DOCKER_FAILURE))
    if code == 0:
        return Verdict(Word.SUCCEEDED, 0)
    if code == DOCKER_NOT_FOUND:
        return Verdict(Word.FAILED, code, "a command was not found in the container (exit code 127)", _remedy_for(code))
    if code == DOCKER_NOT_EXECUTABLE:
        return Verdict(Word.FAILED, code, "a command could not be executed in the container (exit code 126)", _remedy_for(code))
    number = status.signal or (code - 128 if 128 < code < 193 else 0)
    if number:
        remedy = ""
        if number == signal.SIGKILL:
            remedy = "probably the memory limit of the job or of the machine: ask for more memory, or let fewer processes run at once"
        elif number in (signal.SIGILL,):
            remedy = "the program was built for another kind of processor than this node has"
        return Verdict(Word.KILLED, code, "the command was ended by %s (exit code %d)" % (_name(number), code), remedy)
    return Verdict(Word.FAILED, code, "the command ended with exit code %d" % code)


def _remedy_for(code: int) -> str:
    if code == DOCKER_NOT_FOUND:
        return "install it in the image, correct PATH, or choose an image that has it"
    if code == DOCKER_NOT_EXECUTABLE:
        return "check its mode (chmod +x), its interpreter and the machine that it was built for"
    return ""


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def card_rows(record: StepRecord) -> Tuple[Tuple[str, str], ...]:
    """The summary card's rows."""
    seconds = max(record.finished - record.started, 0.0)
    efficiency = ""
    if record.cpu_seconds and seconds > 0 and record.cpus:
        efficiency = "%.0f %% of %d" % (100 * record.cpu_seconds / seconds / record.cpus, record.cpus)
    return (
        ("Result", "%s, exit code %d" % (record.word.lower(), record.exit_code)),
        ("Cause", record.cause),
        ("Image", record.image),
        ("Digest", record.digest),
        ("Route", record.route),
        ("Node", record.node),
        ("CPU", "%d × %s" % (record.cpus, record.cpu) if record.cpus and record.cpu else record.cpu),
        ("GPU", record.gpu),
        ("CVMFS", ", ".join("%s revision %s" % (name, revision or "unknown") for name, revision in record.cvmfs.items())),
        ("Peak memory", "%.0f MB (largest process)" % (record.peak_memory / 1e6) if record.peak_memory else ""),
        ("CPU efficiency", efficiency),
        ("GPU use", record.gpu_use),
        ("Time", "%.1f s" % seconds if record.finished else ""),
    )
