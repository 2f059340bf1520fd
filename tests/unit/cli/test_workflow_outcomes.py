"""What act 0.2.89 really wrote, as a log and as a verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from gha_apptainer.cli.workflows import events, outcomes, plans
from gha_apptainer.cli.workflows.documents import Workflow
from gha_apptainer.cli.workflows.plans import Expected

LINES = Path(__file__).parent / "act_lines"
WORKFLOW = Workflow(Path("/w.yml"), "w", ("push",), (), {})


def expected(id: str, *needs: str, count: int | None = 1, conditional: bool = False) -> Expected:
    return Expected(id, id, count, conditional, needs)


def plan(*jobs: Expected) -> plans.RunPlan:
    return plans.RunPlan(WORKFLOW, Path("/"), "push", "", (), (), jobs, False, False, (), ())


def tally(name: str, *drop: str) -> outcomes.Tally:
    """The recorded run `name`, without the lines that hold any of `drop`."""
    found = outcomes.Tally()
    for line in (LINES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        if not any(word in line for word in drop):
            found.add(events.parse(line))
    return found


def log(name: str, *, many: bool = False) -> list[str]:
    lines = (LINES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [shown for line in lines for shown in events.render(events.parse(line), many=many, colours=False)]


def judge(run: plans.RunPlan, seen: outcomes.Tally, code: int | None) -> outcomes.Summary:
    return outcomes.judge(run, seen, code, (), name="w.yml", stopped=False)


@pytest.mark.case("workflow-40")
def test_a_green_run_is_a_success() -> None:
    found = judge(plan(expected("maybe", conditional=True), expected("sure")), tally("conditional"), 0)
    assert (found.result, found.reasons) == ("success", ())
    assert [(job.id, job.result) for job in found.jobs] == [("sure", "success"), ("maybe", "skipped")]
    assert found.line() == "w.yml: no container step: success"


@pytest.mark.case("workflow-41")
def test_a_label_that_is_not_mapped_is_a_failure_though_act_ends_with_0() -> None:
    found = judge(plan(expected("lost")), tally("unmapped"), 0)
    assert found.result == "failure"
    assert "job 'unmapped.yml/lost' was skipped: its label is not mapped" in found.reasons
    assert "job 'lost' has no result" in found.reasons


@pytest.mark.case("workflow-42")
def test_a_run_in_which_nothing_ran_is_a_failure() -> None:
    found = judge(plan(expected("maybe")), tally("onlyif"), 0)
    assert found.result == "failure"
    assert found.reasons == ("nothing ran: no step of any job was executed",)
    skipped = judge(plan(expected("maybe", conditional=True)), outcomes.Tally(), 0)
    assert skipped.result == "failure"


@pytest.mark.case("workflow-43")
def test_a_missing_job_result_is_a_failure() -> None:
    found = judge(plan(expected("maybe", conditional=True), expected("sure")), tally("conditional", "jobResult"), 0)
    assert found.result == "failure"
    assert "job 'sure' has no result" in found.reasons
    one_short = judge(plan(expected("maybe", conditional=True), expected("sure", count=2)), tally("conditional"), 0)
    assert one_short.reasons == ("job 'sure' has no result",)


@pytest.mark.case("workflow-44")
def test_a_red_job_names_its_step_and_what_needs_it_is_skipped() -> None:
    found = judge(plan(expected("good"), expected("bad"), expected("after", "bad")), tally("mixed"), 1)
    assert found.result == "failure"
    assert found.reasons == ("job 'mixed/bad' ended with failure, step 'Break'",)
    assert {job.id: job.result for job in found.jobs} == {"good": "success", "bad": "failure", "after": "skipped"}


@pytest.mark.case("workflow-44")
def test_a_failure_counts_even_if_act_says_0() -> None:
    assert judge(plan(expected("good"), expected("bad"), expected("after", "bad")), tally("mixed"), 0).result == "failure"


@pytest.mark.case("workflow-45")
@pytest.mark.parametrize(
    ("code", "says"), [(None, "how act ended is unknown"), (-9, "act was killed by signal 9"), (1, "act ended with exit code 1")]
)
def test_green_jobs_do_not_hide_how_act_ended(code: int | None, says: str) -> None:
    found = judge(plan(expected("maybe", conditional=True), expected("sure")), tally("conditional"), code)
    assert (found.result, found.reasons) == ("failure", (says,))


@pytest.mark.case("workflow-46")
def test_the_combination_that_failed_is_named_not_its_siblings() -> None:
    found = judge(plan(expected("many", count=2)), tally("matrix"), 1)
    assert len(found.reasons) == 1
    assert "'matrix.yml/many-2' ended with failure, step 'Count'" in found.reasons[0]
    assert len(found.jobs) == 2


@pytest.mark.case("workflow-47")
def test_steps_inside_an_action_are_the_action_s() -> None:
    found = judge(plan(expected("one")), tally("composite"), 1)
    assert found.reasons == ("job 'composite.yml/one' ended with failure, step 'Composite'",)
    assert [step.title for step in found.jobs[0].steps] == ["actions/checkout@v5", "Composite"]


def test_a_cancelled_run_is_no_success() -> None:
    run = plan(expected("maybe", conditional=True), expected("sure"))
    assert outcomes.judge(run, tally("conditional"), 0, (), name="w", stopped=True).result == "cancelled"


def test_a_job_is_not_excused_by_a_need_that_succeeded() -> None:
    found = judge(plan(expected("sure"), expected("next", "sure")), tally("conditional"), 0)
    assert "job 'next' has no result" in found.reasons


def test_a_called_workflow_excuses_what_needs_it() -> None:
    inner = Expected("call/bad", "bad", 1, False, ())
    found = judge(plan(inner, expected("good"), expected("after", "call")), tally("mixed"), 1)
    assert found.reasons == ("job 'mixed/bad' ended with failure, step 'Break'",)


@pytest.mark.case("workflow-50")
def test_the_log_of_a_run() -> None:
    shown = log("mixed", many=True)
    for line in (
        "[mixed/A good one] -> Speak", "[mixed/A good one]    > a phase", "[mixed/A good one]    inside",
        "[mixed/A good one]    error: Bad: first", "[mixed/A good one]      second", "[mixed/A good one]    notice: seen",
        "[mixed/A good one]    | # Title", "[mixed/A good one] == job 'mixed/A good one': success",
        "[mixed/bad]    exit status 4", "[mixed/bad] == job 'mixed/bad': failure",
    ):  # fmt: skip
        assert line in shown
    assert any(line.startswith("[mixed/bad] <- failure: Break (") for line in shown)


@pytest.mark.case("workflow-51")
def test_no_secret_of_a_title_a_line_or_a_command_is_shown() -> None:
    everything = "\n".join(log("mixed")) + str(judge(plan(expected("good")), tally("mixed"), 1))
    assert "swordfish" in (LINES / "mixed.jsonl").read_text(encoding="utf-8"), "act writes it into fields that are not for showing"
    assert "swordfish" not in everything
    assert "hidden" not in "\n".join(log("mixed")).replace("echo hidden", "")
    assert "A secret *** in a title" in everything


def test_a_folder_without_git_is_no_news() -> None:
    assert "not located inside a git repository" in (LINES / "no-git.jsonl").read_text(encoding="utf-8")
    assert not [line for line in log("no-git") if "git" in line]
    assert tally("no-git").errors == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("\x1b[31mred\x1b[0m", "red"), (" 10%\r100%", "100%"), ("end\r", "end"), ("\x1b]0;title\x07a", "a"), ("a\r\nb", "a\nb")],
)
def test_colours_and_redrawn_lines_are_for_terminals(text: str, wanted: str) -> None:
    assert events.plain(text) == wanted


@pytest.mark.parametrize("line", ["", "{", "[]", "plain text", "null", '{"stepID": 3, "executionTime": "x", "msg": 4}'])
def test_any_line_is_an_event(line: str) -> None:
    events.render(events.parse(line), many=True, colours=False)


def test_the_last_line_names_each_image_and_route_once() -> None:
    one = outcomes.ContainerResult("a", "docker://docker.io/library/ubuntu:latest", "sha256:1", "alias", 0)
    found = outcomes.Summary("w.yml", "success", (), (), (one, one, outcomes.ContainerResult("b", "x", "", "", None)))
    assert found.line() == "w.yml: image docker://docker.io/library/ubuntu:latest route alias sha256:1; image x route unknown: success"
    assert outcomes.as_document(found)["containers"]


def test_an_exit_status_is_told_once() -> None:
    assert [line for line in log("composite") if "exit status" in line] == ["   exit status 3"]


@pytest.mark.case("workflow-48")
@pytest.mark.parametrize(("code", "says"), [(None, "without an exit code"), (7, "container step 'a' ended with exit code 7")])
def test_a_container_s_own_record_is_believed_over_act(code: int | None, says: str) -> None:
    run = plan(expected("maybe", conditional=True), expected("sure"))
    record = outcomes.ContainerResult("a", "image", "", "store", code)
    found = outcomes.judge(run, tally("conditional"), 0, (record,), name="w", stopped=False)
    assert found.result == "failure"
    assert says in found.reasons[0]


def test_a_container_that_was_allowed_to_fail_is_no_contradiction() -> None:
    run = plan(expected("good"))
    record = outcomes.ContainerResult("a", "image", "", "store", 3)
    seen = tally("mixed", '"jobID":"bad"')
    assert outcomes.judge(run, seen, 0, (record,), name="w", stopped=False).reasons == ()
