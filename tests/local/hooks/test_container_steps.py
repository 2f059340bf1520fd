"""run_container_step: cases 43 to 51 of the hook contract."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hook_jobs import BUSYBOX, HookRunner, job
from live_jobs import LiveJob
from registries import Entry, Registry

PRINT = b'#!/bin/sh\necho entrypoint: "$@"\n'


def docker(args: str = "", entrypoint: str = "", **more: object) -> dict[str, object]:
    """A `docker://` step."""
    inputs = {name: value for name, value in (("args", args), ("entrypoint", entrypoint)) if value}
    return {"uses": "docker://" + BUSYBOX, "with": inputs, **more}


def action(hooks: HookRunner, name: str, **files: str) -> Path:
    """A Dockerfile action as the runner downloads it."""
    place = hooks.work / "_actions/OWNER" / name / "v1"
    place.mkdir(parents=True)
    for file, text in files.items():
        path = place / file.replace("_", ".")
        path.write_text(text)
        path.chmod(0o755)
    hooks.driver.own(hooks.work)
    return place


@pytest.mark.case("hooks-43")
def test_without_a_job_container_nothing_stays(all_hooks: HookRunner) -> None:
    done = all_hooks.play(job(docker("-c 'id -u; echo ran > made'", "/bin/sh"), container=None))
    assert done.result == "success", done
    made = all_hooks.work / "repository/repository/made"
    assert made.read_text() == "ran\n"
    assert made.stat().st_uid == all_hooks.driver.uid
    assert [one["name"] for one in done.raw["steps"]] == ["1"]  # no prepare_job, no cleanup_job
    assert all_hooks.left() == []


@pytest.mark.case("hooks-44")
def test_files_are_seen_by_later_steps(hooks: HookRunner) -> None:
    script = (
        "-c 'echo out=1 >> $GITHUB_OUTPUT; echo VAR=two >> $GITHUB_ENV; echo /opt/x >> $GITHUB_PATH; echo card >> $GITHUB_STEP_SUMMARY;"
        "test -r $GITHUB_EVENT_PATH; echo data > $GITHUB_WORKSPACE/data; touch $HOME/at-home $RUNNER_TEMP/at-temp'"
    )
    done = hooks.play(job({**docker(script, "/bin/sh"), "id": "first"}, "cat data; echo $VAR; echo $PATH; ls ~/at-home /__w/_temp/at-temp"))
    assert done.result == "success", done
    assert done.step("1")["outputs"] == {"out": "1"}
    assert "card" in done.step("1")["summary"]
    assert "data\ntwo\n/opt/x:" in done.text("2")


@pytest.mark.case("hooks-45")
def test_entrypoint_and_cmd(hooks: HookRunner, local_registry: Registry) -> None:
    program = (Path(hooks.images[BUSYBOX]) / "bin/busybox").read_bytes()
    entries = {name: Entry() for name in ("bin", "etc", "tmp", "proc", "sys", "dev")}
    entries.update(
        {
            "bin/sh": Entry(program),
            "bin/echo": Entry(program),
            "print": Entry(PRINT),
            "etc/passwd": Entry(b"root:x:0:0::/:/bin/sh\n", 0o644),
        }
    )
    local_registry.push("steps/both", "1", entries, {"Env": ["PATH=/bin"], "Entrypoint": ["/print", "fixed"], "Cmd": ["cmd a", "b"]})
    local_registry.push("steps/none", "1", entries, {"Env": ["PATH=/bin"]})
    hooks.settings = {"registries_http": [local_registry.address]}
    with LiveJob(hooks, None) as live:
        image = "%s/steps/both:1" % local_registry.address

        def said(*args: str, entry: str | None = None, name: str = image) -> str:
            done = live.step(*args, image=name, entryPoint=entry)
            assert done.code == 0, done
            return done.out.decode().splitlines()[-1]

        assert said() == "entrypoint: fixed cmd a b"
        assert said('"x', 'y"', "z") == "entrypoint: fixed x y z"
        assert said("x", entry="/bin/echo") == "x"
        assert said(entry="/bin/echo") == ""
        nothing = live.step(image="%s/steps/none:1" % local_registry.address)
        assert nothing.code == 125 and "no command" in nothing.text, nothing
        missing = live.step(image="%s/steps/none:1" % local_registry.address, entryPoint="/bin/nothing")
        assert missing.code == 127 and "/bin/nothing" in missing.text, missing


@pytest.mark.case("hooks-46")
def test_arguments_of_several_lines(hooks: HookRunner) -> None:
    text = '-c \'for one; do echo "[$one]"; done\' x "first\n  second   line" "tab\there"'
    done = hooks.play(job(docker(text, "/bin/sh"), container=None))
    assert done.result == "success", done
    assert done.text("1").endswith("[first\n  second   line]\n[tab\there]"), done


DOCKERFILE = """ARG base=busybox:1
FROM $base AS first
RUN echo from the first stage > /made

FROM busybox:1
ARG word=default
ENV WORD=$word
COPY --from=first /made /made
COPY entry.sh /
RUN test -s /made && echo built-here
ENTRYPOINT ["/entry.sh"]
CMD ["of", "the image"]
"""
ENTRY = '#!/bin/sh\ncat /made; echo "$WORD: $*"; echo ran >> $GITHUB_WORKSPACE/count\n'


@pytest.mark.case("hooks-47")
def test_a_dockerfile_is_built_once(all_hooks: HookRunner) -> None:
    place = action(all_hooks, "build", Dockerfile=DOCKERFILE, entry_sh=ENTRY)
    step = {"runs": {"using": "docker", "image": str(place / "Dockerfile")}}
    done = all_hooks.play(job(step, {**step, "runs": {**step["runs"], "args": ["given  twice", '"x"']}}, container=None))
    assert done.result == "success", done
    assert "from the first stage\ndefault: of the image" in done.text("1")
    assert 'default: given twice "x"' in done.text("2")  # a run of spaces is lost in the runner, before any hook
    assert "\nbuilt-here\n" in done.text("1") and "\nbuilt-here\n" not in done.text("2")
    wrong = all_hooks.play(job({"runs": {"using": "docker", "image": str(place / "missing" / "Dockerfile")}}, container=None))
    assert "Dockerfile is not there" in wrong.errors("1"), wrong


@pytest.mark.case("hooks-48")
def test_pre_and_post_entrypoints(hooks: HookRunner) -> None:
    files = {name + "_sh": '#!/bin/sh\necho %s: "$@"\n' % name for name in ("pre", "main", "post")}
    text = 'FROM busybox:1\nCOPY *.sh /\nENTRYPOINT ["/main.sh"]\n'
    place = action(hooks, "stages", Dockerfile=text, **files)
    runs = {
        "using": "docker",
        "image": str(place / "Dockerfile"),
        "pre-entrypoint": "/pre.sh",
        "post-entrypoint": "/post.sh",
        "args": ["a b", "c"],
    }
    done = hooks.play(job({"name": "act", "runs": runs}, "echo between"))
    assert done.result == "success", done
    assert [one["name"] for one in done.raw["steps"]] == ["Initialize containers", "Pre act", "act", "2", "Post act", "Stop containers"]
    for name, word in (("Pre act", "pre"), ("act", "main"), ("Post act", "post")):
        assert "%s: a b c" % word in done.text(name), done


@pytest.mark.case("hooks-50")
def test_a_user_of_the_image_writes_into_the_workspace(hooks: HookRunner) -> None:
    text = "FROM busybox:1\nRUN echo worker:x:1700:1700::/opt:/bin/sh >> /etc/passwd\nUSER worker\n"
    place = action(hooks, "user", Dockerfile=text)
    runs = {
        "using": "docker",
        "image": str(place / "Dockerfile"),
        "entrypoint": "/bin/sh",
        "args": ["-c", "id -u; touch mine; ls -ln mine"],
    }
    done = hooks.play(job({"runs": runs}, "rm mine"))
    assert done.result == "success", done
    assert "1700" in done.text("1")
    if os.getuid() != hooks.driver.uid:
        assert hooks.driver.single


@pytest.mark.case("hooks-51")
def test_a_working_directory_is_made(hooks: HookRunner) -> None:
    with LiveJob(hooks, None) as live:
        done = live.step("-c", "pwd", entryPoint="/bin/sh", workingDirectory="/not/there/yet")
        assert done.code == 0 and done.out.endswith(b"/not/there/yet\n"), done
