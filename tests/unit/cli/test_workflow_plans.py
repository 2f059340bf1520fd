"""What is refused, what is warned of, and the act command."""

from __future__ import annotations

from pathlib import Path

import pytest

from gha_apptainer.cli.workflows import commands, options, plans
from gha_apptainer.cli.workflows.documents import read_workflow
from gha_apptainer.domain.errors import GhaError, InputError, Refused

STEPS = "steps: [{run: echo}]"


def make(tmp_path: Path, text: str, *words: str, have: bool = True) -> plans.RunPlan:
    path = tmp_path / "w.yml"
    path.write_text(text, encoding="utf-8")
    asked = options.parse(words, {"KEY": "swordfish"})
    return plans.plan(read_workflow(path), tmp_path, asked, lambda name: name if have else None)


def one_job(body: str) -> str:
    return "name: w\non: push\njobs:\n  j:\n    runs-on: x\n    " + body + "\n"


def action(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "action.yml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param("services: {db: {image: postgres}}\n    " + STEPS, "`services:` (db)", id="workflow-10-services"),
        pytest.param("container: debian\n    " + STEPS, "`container:`", id="workflow-11-container"),
        pytest.param("container: {image: debian}\n    " + STEPS, "`container:`", id="workflow-11-container-mapping"),
        pytest.param("steps: [{name: A, uses: 'docker://alpine:3'}]", "step 1 'A': docker://alpine:3", id="workflow-12-docker-url"),
        pytest.param("steps: [{uses: ./docker}]", "./docker is a Docker action", id="workflow-13-dockerfile-action"),
        pytest.param("steps: [{uses: ./bare}]", "./bare is a Docker action", id="workflow-13-dockerfile-alone"),
        pytest.param("steps: [{uses: ./outer}]", "step 1 './outer', its step 1 'docker://a'", id="workflow-14-nested"),
        pytest.param("steps: [{uses: nonsense}]", "'nonsense' is no action", id="workflow-15-no-action"),
        pytest.param("steps: [{uses: ./round}]", "levels deep", id="workflow-16-endless"),
    ],
)
def test_refused_with_workflow_job_and_step(tmp_path: Path, body: str, says: str) -> None:
    action(tmp_path, "docker", "runs: {using: docker, image: Dockerfile}")
    action(tmp_path, "outer", "runs: {using: composite, steps: [{uses: 'docker://a'}]}")
    action(tmp_path, "round", "runs: {using: composite, steps: [{uses: ./round}]}")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/Dockerfile").touch()
    with pytest.raises(Refused) as caught:
        make(tmp_path, one_job(body))
    assert "workflow 'w', job 'j'" in caught.value.what
    assert says in caught.value.what
    assert len(caught.value.what.splitlines()) == 2, "one sentence each"


@pytest.mark.case("workflow-17")
def test_a_remote_reusable_workflow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"o/r/\.github/workflows/x\.yml@v1 lies in another repository"):
        make(tmp_path, "on: push\njobs: {j: {uses: o/r/.github/workflows/x.yml@v1}}")


@pytest.mark.case("workflow-3")
def test_an_unknown_label_is_refused_unless_mapped(tmp_path: Path) -> None:
    text = "on: push\njobs: {j: {runs-on: '${{ vars.R }}', " + STEPS + "}}"
    with pytest.raises(Refused, match="map it yourself: -- -P LABEL=-self-hosted"):
        make(tmp_path, text)
    assert make(tmp_path, text, "-P", "mine=-self-hosted").labels == ("mine",)


def test_every_reason_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        make(tmp_path, one_job("container: a\n    services: {b: {image: c}}\n    steps: [{uses: 'docker://d'}]"))
    assert "(3 reasons)" in caught.value.what


@pytest.mark.case("workflow-18")
def test_a_called_workflow_is_read_too(tmp_path: Path) -> None:
    called = "on: workflow_call\njobs: {in: {runs-on: inner, %s}}"
    (tmp_path / "called.yml").write_text(called % ("container: c, " + STEPS), encoding="utf-8")
    with pytest.raises(Refused, match="job 'in': `container:`"):
        make(tmp_path, "on: push\njobs: {j: {uses: ./called.yml}}")
    (tmp_path / "called.yml").write_text(called % STEPS, encoding="utf-8")
    found = make(tmp_path, "on: push\njobs: {j: {uses: ./called.yml, if: always()}}")
    assert found.labels == ("inner",)
    assert [(one.key, one.id, one.conditional) for one in found.expected] == [("j/in", "in", True)]


@pytest.mark.case("workflow-18")
def test_labels_that_a_caller_gives_are_known(tmp_path: Path) -> None:
    called = "on: {workflow_call: {inputs: {on: {default: x}}}}\njobs: {in: {runs-on: '${{ inputs.on }}', %s}}" % STEPS
    (tmp_path / "called.yml").write_text(called, encoding="utf-8")
    caller = "on: push\njobs: {j: {strategy: {matrix: {l: [a, b]}}, uses: ./called.yml, with: {on: 'el-${{ matrix.l }}'}}}"
    found = make(tmp_path, caller)
    assert found.labels == ("el-a", "el-b")
    assert [(one.key, one.count) for one in found.expected] == [("j/in", 2)]


@pytest.mark.case("workflow-19")
def test_missing_programs_are_warned_of_not_refused(tmp_path: Path) -> None:
    action(tmp_path, "js", "runs: {using: node20, main: a.js}")
    body = "steps: [{uses: ./js}, {shell: python, run: a}, {uses: actions/cache@v4}, {uses: o/r@v1}]"
    found = make(tmp_path, one_job(body), have=False)
    assert {warning.rpartition("no ")[2].split(" ")[0] for warning in found.warnings} == {"node", "program", "zstd", "git"}
    assert make(tmp_path, one_job(body)).warnings == ()
    assert make(tmp_path, one_job("steps: [{uses: actions/checkout@v5}]"), have=False).warnings == (), "act copies the tree itself"


@pytest.mark.case("workflow-20")
def test_the_action_path_of_any_owner_means_this_checkout(tmp_path: Path) -> None:
    body = "steps: [{uses: a/apptainer-gha-runner/container@v1}, {uses: b/Apptainer-GHA-Runner@main}, {uses: c/other@v1}]"
    found = make(tmp_path, one_job(body))
    assert found.repositories == ("a/apptainer-gha-runner@v1", "b/Apptainer-GHA-Runner@main")
    assert len(found.containers) == 2


@pytest.mark.parametrize(
    ("on", "asked", "wanted"),
    [("push", "", "push"), ("[pull_request, push]", "", "push"), ("[pull_request]", "", "pull_request"), ("{a: {}, b: {}}", "b", "b")],
)
def test_the_event(tmp_path: Path, on: str, asked: str, wanted: str) -> None:
    words = (asked,) if asked else ()
    assert make(tmp_path, f"on: {on}\njobs: {{j: {{runs-on: x, {STEPS}}}}}", *words).event == wanted


def test_events_that_cannot_be_played(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not run on 'push'"):
        make(tmp_path, f"on: release\njobs: {{j: {{runs-on: x, {STEPS}}}}}", "push")
    with pytest.raises(Refused, match="only called by other workflows"):
        make(tmp_path, f"on: workflow_call\njobs: {{j: {{runs-on: x, {STEPS}}}}}")


def test_one_job_is_expected_with_what_it_needs(tmp_path: Path) -> None:
    text = f"on: push\njobs: {{a: {{runs-on: x, {STEPS}}}, b: {{runs-on: y, needs: a, {STEPS}}}, c: {{runs-on: z, {STEPS}}}}}"
    found = make(tmp_path, text, "-j", "b")
    assert [one.key for one in found.expected] == ["a", "b"]
    assert found.labels == ("x", "y")
    with pytest.raises(InputError, match="has no job 'd'"):
        make(tmp_path, text, "--job=d")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(("--bind",), "--bind is not taken", id="workflow-21-bind"),
        pytest.param(("-b",), "--bind is not taken", id="workflow-21-b"),
        pytest.param(("-P", "x=node:20"), "asks for a Docker image", id="workflow-21-image"),
        pytest.param(("--container-options=--gpus all",), "needs a container daemon", id="workflow-21-container-options"),
        pytest.param(("--dryrun",), "nothing would run", id="workflow-21-dryrun"),
        pytest.param(("-s", "A=b", "--secret-file", "f"), "do not go together", id="workflow-21-two-secrets"),
        pytest.param(("--frobnicate",), "no option '--frobnicate'", id="workflow-22-unknown"),
        pytest.param(("--job",), "needs a value", id="workflow-22-no-value"),
        pytest.param(("-s", "MISSING"), "no such variable", id="workflow-22-no-variable"),
        pytest.param(("push", "word"), "no option 'word'", id="workflow-22-word"),
        pytest.param(("-P", "x"), "is NAME=VALUE", id="workflow-22-pair"),
    ],
)
def test_options_of_act_that_are_refused_by_name(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(GhaError) as caught:
        options.parse(words, {})
    assert says in caught.value.what


def test_options_of_act_that_pass() -> None:
    words = ("pull_request", "-e", "event.json", "--input", "a=b", "-v", "--env", "A=1", "--env", "KEY", "-s", "S=x=y")
    found = options.parse(words, {"KEY": "k"})
    assert found.event == "pull_request"
    assert found.passed == ("--eventpath=event.json", "--input=a=b", "--verbose")
    assert found.env == (("A", "1"), ("KEY", "k"))
    assert found.secrets == (("S", "x=y"),)


def command(tmp_path: Path, text: str, *words: str) -> tuple[str, ...]:
    found = make(tmp_path, text, *words)
    return commands.act_command("act", found, options.parse(words, {"KEY": "swordfish"}), commands.Scratch(Path("/s")), actor="me", port=4)


@pytest.mark.case("workflow-30")
def test_the_whole_command(tmp_path: Path) -> None:
    found = command(tmp_path, one_job("steps: [{uses: o/apptainer-gha-runner/container@v1}]"))
    assert found == (
        "act", "push", "--json", "--rm", "--directory", str(tmp_path), "--workflows", str(tmp_path / "w.yml"), "--no-recurse",
        "--action-cache-path", "/s/act", "--use-new-action-cache", "--pull=false", "--container-daemon-socket", "-",
        "--artifact-server-addr", "127.0.0.1", "--cache-server-addr", "127.0.0.1", "--no-cache-server",
        "--env-file", "/dev/null", "--var-file", "/dev/null", "--input-file", "/dev/null", "--secret-file", "/dev/null",
        "--platform", "x=-self-hosted", "--local-repository", "o/apptainer-gha-runner@v1=/s/checkout", "--actor", "me",
    )  # fmt: skip


@pytest.mark.case("workflow-31")
def test_servers_only_where_they_are_used(tmp_path: Path) -> None:
    plain = command(tmp_path, one_job(STEPS))
    assert "--artifact-server-path" not in plain
    assert "--no-cache-server" in plain
    both = command(tmp_path, one_job("steps: [{uses: actions/upload-artifact@v4}, {uses: actions/cache@v4}]"))
    assert both[both.index("--artifact-server-path") + 1] == "/s/artifacts"
    assert both[both.index("--artifact-server-port") + 1] == "4"
    assert "--no-cache-server" not in both
    own = command(tmp_path, one_job(STEPS), "--artifact-server-path", "here")
    assert "--artifact-server-path=here" in own
    assert "--artifact-server-path" not in own


@pytest.mark.case("workflow-32")
def test_secrets_go_by_file_never_by_argument(tmp_path: Path) -> None:
    found = command(tmp_path, one_job(STEPS), "-s", "KEY")
    assert "swordfish" not in " ".join(found)
    assert found[found.index("--secret-file") + 1] == "/s/secrets.yaml"
    text = commands.secrets_text(options.parse(("-s", 'KEY=a\n"b": \\'), {}))
    assert text == '"KEY": "a\\n\\"b\\": \\\\"\n'


@pytest.mark.case("workflow-33")
def test_the_environment_is_clean() -> None:
    environ = {
        "PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "GHA_APPTAINER": "/a", "https_proxy": "p", "CUDA_VISIBLE_DEVICES": "1",
        "DOCKER_HOST": "d", "GITHUB_TOKEN": "t", "LD_PRELOAD": "l", "SLURM_JOB_ID": "1", "APPTAINER_BIND": "b", "XDG_CONFIG_HOME": "/c",
    }  # fmt: skip
    found = commands.act_environment(environ, options.parse(("--env", "MINE=1"), {}), commands.Scratch(Path("/s")), Path("/s/node.json"))
    assert found == {
        "PATH": "/bin", "HOME": "/s/home", "XDG_CONFIG_HOME": "/s/home/.config", "XDG_CACHE_HOME": "/h/.cache", "LC_ALL": "C",
        "GHA_APPTAINER": "/a", "https_proxy": "p", "CUDA_VISIBLE_DEVICES": "1", "GHA_APPTAINER_RESULTS": "/s/results",
        "GHA_APPTAINER_SETTINGS": "/s/node.json", "MINE": "1",
    }  # fmt: skip


def test_the_root_is_git_s_else_above_github_else_the_folder(tmp_path: Path) -> None:
    path = tmp_path / ".github/workflows/a.yml"
    path.parent.mkdir(parents=True)
    assert plans.repository_root(path, "/top") == Path("/top")
    assert plans.repository_root(path, "") == tmp_path
    bare = tmp_path.parent / "elsewhere-without" / "a.yml"
    assert plans.repository_root(bare, "") == bare.parent
