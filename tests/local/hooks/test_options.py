"""`options:` of a job container, on a real machine: cases 59 to 73 of the hook contract. What is pure is in tests/unit."""

from __future__ import annotations

import os
import re
import resource

import pytest
from hook_jobs import BUSYBOX, HookRunner, Played, job


def with_options(hooks: HookRunner, options: str, *steps: str, policy: dict[str, object] | None = None, **more: object) -> Played:
    return hooks.play(job(*steps, container={"image": BUSYBOX, "options": options, **more}), policy=policy)


BEGIN = "Initialize containers"


@pytest.mark.case("hooks-59")
def test_processors(hooks: HookRunner) -> None:
    done = with_options(hooks, "--cpus 1 --cpuset-cpus 0-4095", "nproc")
    assert done.text("1") == "1", done
    assert "--cpus=1" in done.warnings(BEGIN)
    many = with_options(hooks, "--cpus=4000.5", "nproc")
    assert int(many.text("1")) == len(os.sched_getaffinity(0)), many
    assert "this job has" in many.warnings(BEGIN)


@pytest.mark.case("hooks-60")
def test_memory_limits_are_not_enforced_and_say_so(hooks: HookRunner) -> None:
    done = with_options(
        hooks, "--memory 1g --memory-swap 2g --pids-limit 5", "echo runs; for i in 1 2 3 4 5 6 7 8; do sleep 0.3 & done; wait"
    )
    assert done.result == "success", done
    assert all("%s" % flag in done.warnings(BEGIN) for flag in ("--memory=1g", "--memory-swap", "--pids-limit"))
    fine = with_options(hooks, "--memory 100000g", "echo runs")
    assert fine.warnings(BEGIN) == ""


@pytest.mark.refused("hooks-61")
def test_a_gpu_that_is_not_there_is_an_error(hooks: HookRunner) -> None:
    if os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/kfd"):
        pytest.skip("this machine has a GPU")
    done = with_options(hooks, "--gpus all", "echo never")
    assert done.outcome("1") == "skipped"
    assert "a GPU was asked for" in done.errors(BEGIN)


@pytest.mark.case("hooks-62")
def test_shared_memory(hooks: HookRunner) -> None:
    done = with_options(hooks, "--shm-size 12m", "df -k /dev/shm | tail -1; touch /dev/shm/x")
    assert re.search(r"\s12288\s", done.text("1")), done


@pytest.mark.case("hooks-64")
@pytest.mark.parametrize("user, want", [("0", "0:0"), ("root", "0:0"), ("1700", "1700:0"), ("1700:1701", "1700:1701")])
def test_users(hooks: HookRunner, user: str, want: str) -> None:
    done = with_options(hooks, "--user " + user, "echo $(id -u):$(id -g); touch by")
    assert done.text("1") == want, done
    assert (hooks.work / "repository/repository/by").stat().st_uid == hooks.driver.uid


@pytest.mark.case("hooks-64")
def test_a_user_that_the_image_does_not_know(hooks: HookRunner) -> None:
    done = with_options(hooks, "--user nobody-here", "echo never")
    assert done.outcome("1") == "failure" and "nobody-here" in done.text("1"), done


@pytest.mark.case("hooks-66")
def test_networks(hooks: HookRunner) -> None:
    count = "ls /sys/class/net | wc -l"
    host = with_options(hooks, "--network host", "cat /proc/net/dev | wc -l")
    plain = with_options(hooks, "", "cat /proc/net/dev | wc -l")
    none = with_options(hooks, "--network none", "cat /proc/net/dev | wc -l")
    assert host.text("1") == plain.text("1") and int(none.text("1")) == 3, (host, none, count)
    custom = with_options(hooks, "--network my-bridge", "echo runs")
    assert custom.result == "success" and "one network a job" in custom.warnings(BEGIN)
    other = with_options(hooks, "--network container:x", "echo never")
    assert "container:x" in other.errors(BEGIN)
    policy = with_options(hooks, "--network host", "echo never", policy={"networks": ["private"]})
    assert "not allowed" in policy.errors(BEGIN)


@pytest.mark.case("hooks-67")
def test_names(hooks: HookRunner) -> None:
    options = "--hostname build.example.org --add-host db:10.0.0.7 --dns 192.0.2.53 --dns-search example.org"
    done = with_options(hooks, options, "hostname; grep -w db /etc/hosts; cat /etc/resolv.conf")
    text = done.text("1")
    assert text.startswith("build.example.org\n"), done
    assert re.search(r"10\.0\.0\.7\s+db", text) and "nameserver 192.0.2.53" in text and "search example.org" in text, done


@pytest.mark.case("hooks-68", "hooks-69")
def test_directory_and_entrypoint_of_a_job_container(hooks: HookRunner) -> None:
    done = hooks.play(job("pwd", container={"image": BUSYBOX, "options": "--workdir /opt --entrypoint /bin/false"}, debug=True))
    assert done.text("1").split("\n")[-1] == "/__w/repository/repository", done  # every step says where it runs
    assert "--entrypoint is ignored" in done.text(BEGIN)


@pytest.mark.case("hooks-70")
def test_volumes(hooks: HookRunner) -> None:
    site = hooks.top / "data"
    (site / "inner").mkdir(parents=True, exist_ok=True)
    (site / "inner/file").write_text("of the site\n")
    hooks.driver.own(site)
    policy: dict[str, object] = {"host_paths": ["%s" % site]}
    volumes = ["%s/inner:/inner" % site, "%s:/ro:ro" % site, "named:/named", "/scratch", "%s/new:/new:z,cached" % site]
    script = "cat /inner/file; touch /inner/made /new/made /named/made /scratch/made; touch /ro/x 2>/dev/null && exit 9; true"
    done = with_options(
        hooks,
        "-v %s/inner:/by-option:ro -v more:/more" % site,
        script,
        "ls /named/made; cat /by-option/file",
        policy=policy,
        volumes=volumes,
    )
    assert done.result == "success", done
    assert (site / "inner/made").exists() and (site / "new/made").exists()
    refused = with_options(hooks, "", "echo never", volumes=["/etc:/etc-of-host"])
    assert "/etc is not allowed" in refused.errors(BEGIN).replace("the path ", ""), refused
    kept = hooks.play(job("touch /k/x", container={"image": BUSYBOX, "volumes": ["keep:/k"]}), policy={"volumes": "runner"})
    again = hooks.play(job("ls /k/x", container={"image": BUSYBOX, "volumes": ["keep:/k"]}), policy={"volumes": "runner"})
    assert kept.result == again.result == "success", again
    for name in os.listdir(hooks.driver.state / "volumes"):
        hooks.driver.run(
            "from gha_apptainer.node import files\nfiles.remove_tree(%r)\nanswer(1)" % str(hooks.driver.state / "volumes" / name)
        )


@pytest.mark.case("hooks-71")
def test_tmpfs(hooks: HookRunner) -> None:
    done = with_options(hooks, "--tmpfs /fast:size=8m,mode=1777", "df -k /fast | tail -1; touch /fast/x")
    assert re.search(r"\s8192\s", done.text("1")), done


@pytest.mark.case("hooks-72")
def test_variables(hooks: HookRunner) -> None:
    file = hooks.work / "vars"
    file.write_text("FROM_FILE=a b\nBOTH=file\n# note\n")
    hooks.driver.own(hooks.work)
    options = "-e ONE='a b' -e BOTH=option -e WORKFLOW -e SECRET_OF_HOST --env-file %s -e EMPTY=" % file
    done = hooks.play(
        job("env", container={"image": BUSYBOX, "options": options, "env": {"WORKFLOW": "w", "BOTH": "yaml"}}),
        environ={"SECRET_OF_HOST": "no"},
    )
    log = done.text("1").split("\n")
    assert {"ONE=a b", "BOTH=yaml", "WORKFLOW=w", "FROM_FILE=a b", "EMPTY="} <= set(log), done
    assert not [line for line in log if "SECRET_OF_HOST" in line]


@pytest.mark.case("hooks-73")
def test_flags_that_change_nothing_and_some_that_do(hooks: HookRunner) -> None:
    quiet = "--init --rm --name build --label a=b --restart no --log-driver json-file --log-opt max-size=1m -d -it --pull missing"
    done = with_options(hooks, quiet, "test ! -t 0; test ! -t 1; echo runs")
    assert done.text("1") == "runs" and done.warnings(BEGIN) == "", done
    told = with_options(hooks, "--restart always --ipc host --pid=host", "echo runs")
    assert all(flag in told.warnings(BEGIN) for flag in ("--restart", "--ipc", "--pid")), told
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limited = with_options(hooks, "--ulimit nofile=100:200 --ulimit core=0", "ulimit -n; ulimit -c")
    assert limited.text("1") == "200\n0", (limited, hard)
    device = with_options(hooks, "--device /dev/full", "echo x > /dev/full || echo full", policy={"devices": ["/dev/fu*"]})
    assert "full" in device.text("1"), device
    for options, words in (
        ("--device /dev/full", "not allowed"),
        ("--device /dev/nothing-here", "not allowed"),
        ("--platform linux/s390x", "this machine is"),
        ("--ulimit nonsense=1", "nonsense"),
    ):
        refused = with_options(hooks, options, "echo never")
        assert words in refused.errors(BEGIN) and refused.outcome("1") == "skipped", refused
    fixed = with_options(hooks, "--read-only", "touch /usr/x 2>/dev/null && exit 9; touch /__w/x; echo right")
    assert fixed.text("1") == "right", fixed
