from __future__ import annotations

import pytest

from gha_apptainer.domain.containers import ExitStatus
from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.reproduce import inline, line, variable_options
from gha_apptainer.domain.shells import script
from gha_apptainer.domain.step_records import StepRecord, cancelled, card_rows, verdict
from gha_apptainer.domain.verdicts import Word


@pytest.mark.parametrize(
    "status, word, code, says",
    [
        (ExitStatus(0), Word.SUCCEEDED, 0, ""),
        (ExitStatus(3), Word.FAILED, 3, "exit code 3"),
        (ExitStatus(127), Word.FAILED, 127, "not found"),
        (ExitStatus(126), Word.FAILED, 126, "executed"),
        (ExitStatus(137, 9), Word.KILLED, 137, "SIGKILL"),
        (ExitStatus(139), Word.KILLED, 139, "SIGSEGV"),
        (ExitStatus(132, 4), Word.KILLED, 132, "SIGILL"),
        (ExitStatus(137, 9, oom=True), Word.OOM, 137, "memory"),
        (ExitStatus(125, reason="unknown: its monitor was killed"), Word.UNKNOWN, 125, "unknown"),
        (ExitStatus(0, reason="root file system lost"), Word.FAILED, 125, "root file system lost"),
        (ExitStatus(0, oom=True), Word.OOM, 125, "memory"),
        (ExitStatus(130, 2, reason="cancelled by SIGINT"), Word.CANCELLED, 130, "cancelled"),
        (ExitStatus(255), Word.FAILED, 255, "exit code 255"),
    ],
)
def test_verdicts(status: ExitStatus, word: Word, code: int, says: str) -> None:
    found = verdict(status)
    assert (found.word, found.exit_code) == (word, code)
    assert says in found.cause


def test_a_step_that_was_cancelled_before_it_ran() -> None:
    assert (cancelled(15).word, cancelled(15).exit_code) == (Word.CANCELLED, 143)


def test_the_record_is_a_document() -> None:
    record = StepRecord(step="s", image="i", cvmfs={"a.b": "7"}, exit_code=3, word=Word.FAILED.name, peak_memory=5, cpu_seconds=1.5)
    assert from_json(StepRecord, to_json(record)) == record
    assert StepRecord().exit_code != 0


def test_card() -> None:
    record = StepRecord(
        image="i", digest="sha256:1", route="cvmfs", node="n", cpu="EPYC", cpus=4, gpu="A100", gpu_use="80 % busy", cvmfs={"a.b": "7"},
        word="SUCCEEDED", exit_code=0, started=10.0, finished=20.0, peak_memory=2_000_000, cpu_seconds=20.0,
    )  # fmt: skip
    assert dict(card_rows(record)) == {
        "Result": "succeeded, exit code 0", "Cause": "", "Image": "i", "Digest": "sha256:1", "Route": "cvmfs", "Node": "n",
        "CPU": "4 × EPYC", "GPU": "A100", "CVMFS": "a.b revision 7", "Peak memory": "2 MB (largest process)",
        "CPU efficiency": "50 % of 4", "GPU use": "80 % busy", "Time": "10.0 s",
    }  # fmt: skip


def test_the_line_to_reproduce_holds_no_value_and_is_one_line() -> None:
    options = variable_options((("TOKEN", "hunter2"), ("DASH-NAME", "x")))
    text = line(("apptainer", "exec", "image", *inline(script("bash", "echo 'a'\nexit \\3"), "/v/setup.sh")), options, 2)
    assert "hunter2" not in text
    assert "\n" not in text
    assert '--env TOKEN="$TOKEN" image bash -c' in text
    assert text.endswith("/v/setup.sh bash --noprofile --norc -eo pipefail -c $'echo \\'a\\'\\nexit \\\\3'")
