"""`hooks install` and `hooks check` as a person types them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from driving import SRC
from hook_jobs import LIMIT, HookRunner


def run(hooks: HookRunner, *words: str, **environ: str) -> tuple[int, str, str]:
    argv = hooks.driver.argv(str(SRC), "hooks", *words)
    done = subprocess.run(argv, env=hooks.driver.environ(**environ), cwd="/", capture_output=True, text=True, timeout=LIMIT, check=False)
    return done.returncode, done.stdout, done.stderr


def statuses(hooks: HookRunner, *words: str, **environ: str) -> tuple[int, dict[str, Any]]:
    code, out, err = run(hooks, "check", "--json", *words, **environ)
    assert out, err
    report = json.loads(out)
    return code, {one["id"]: one["status"] for one in report["findings"]}


@pytest.mark.case("hooks-3", "hooks-43", "hooks-76")
def test_check_plays_a_job_on_this_machine(all_hooks: HookRunner) -> None:
    code, found = statuses(all_hooks)
    wanted = ("prepare_job", "run_script_step", "run_script_step again", "run_container_step", "cleanup_job", "workspace")
    assert code == 0 and all(found[name] == "ok" for name in wanted), found
    assert found["ownership"] == "skip"
    assert all_hooks.left() == []


def test_check_of_installed_hooks_says_who_could_change_them(hooks: HookRunner) -> None:
    place = str(hooks.install({"privileged": "ignore"}))
    code, found = statuses(hooks, place)
    assert found["javascript"] == ("ok" if hooks.node else "skip"), found
    assert (code, found["installed"], found["ownership"]) == (1, "ok", "fail"), found  # they are the runner's user's own
    code, found = statuses(hooks, place, ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER="true")
    assert (code, found["ownership"]) == (0, "warn"), found
    known = str(hooks.install({"host_steps": "acknowledged"}))
    code, found = statuses(hooks, known)
    assert (code, found["ownership"]) == (0, "warn"), found


def test_hooks_that_are_not_there_or_do_not_work(hooks: HookRunner) -> None:
    code, out, _ = run(hooks, "check", str(hooks.top / "nothing"))
    assert code == 1 and "no hooks are installed there" in out
    code, found = statuses(hooks, "--image", "/nowhere/image.sif")
    assert code == 1 and found["prepare_job"] == "fail", found


def test_what_install_says(hooks: HookRunner) -> None:
    place = hooks.top / "installed-by-hand"
    code, out, err = run(hooks, "install", str(place))
    assert (code, out.split("\n")[:2]) == (
        0,
        ["ACTIONS_RUNNER_CONTAINER_HOOKS=%s/gha-apptainer-hooks.js" % place, "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER=true"],
    )
    assert "GITHUB_PATH" in (place / "gha-apptainer-hooks.sh").read_text() and "bash" in err
    code, out, _ = run(hooks, "--help")
    assert code == 0 and out.startswith("Example: ")
    for words in (("install",), ("install", "/tmp/with space"), ("install", str(place), "--policy", "/nowhere.json"), ("remove",)):
        code, _, err = run(hooks, *words)
        assert code == 71 and "remedy" in err, err
    assert isinstance(place, Path)
