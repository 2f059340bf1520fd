"""A hostile job: what its steps, images, options and files try, one number each. Cases 78 to 80 of the contract hold where these do."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hook_jobs import BUSYBOX, HookRunner, Played, job
from live_jobs import Called, LiveJob
from registries import PASSWORD, USER, Entry, Registry

BEGIN = "Initialize containers"
SECRET = "s3cr3t-of-the-runner"


@pytest.fixture
def live(hooks: HookRunner) -> Iterator[LiveJob]:
    with LiveJob(hooks, {}).prepared() as made:
        yield made


def owned(live: LiveJob, path: Path) -> Path:
    """Something that a step could have made, so it is the runner's user's."""
    os.chown(path, live.hooks.driver.uid, live.hooks.driver.uid, follow_symlinks=False)
    return path


# forged state and forged answers


@pytest.mark.case("hooks-attack-1", "hooks-8")
@pytest.mark.parametrize("identity", ["../../../etc", "/etc/passwd", "..", "a/b", "", "0" * 31, "G" * 32, "0" * 32 + "\n"])
def test_an_id_that_is_a_path(live: LiveJob, identity: str) -> None:
    done = live.script("echo never", {"id": identity})
    assert done.code == 125 and b"never" not in done.out and "state" in done.text, done


@pytest.mark.case("hooks-attack-2", "hooks-8", "hooks-78")
def test_the_id_of_another_job(hooks: HookRunner, live: LiveJob) -> None:
    with LiveJob(hooks, {"environmentVariables": {"TOKEN": SECRET}}).prepared() as victim:
        done = live.script("env", victim.state)
        step = live.step("env", entryPoint="/bin/env", state=victim.state)
        assert done.code == step.code == 125 and SECRET not in done.text + step.text
        assert live.cleanup(victim.state).code == 0
        assert victim.script("echo unharmed").out == b"unharmed\n"


@pytest.mark.case("hooks-attack-3")
@pytest.mark.parametrize("state", ['{"id":' * 5000 + "1" + "}" * 5000, '{"id": 1e999}', '{"id": NaN}', "[" * 100_000])
def test_a_state_that_is_meant_to_break_the_reader(live: LiveJob, state: str) -> None:
    args = json.dumps(live.script_args("echo never"))
    text = '{"command":"run_script_step","responseFile":"/x","args":%s,"state":%s}' % (args, state)
    child = live.send(text.encode())
    out, err = child.communicate(timeout=60)
    assert child.returncode == 125 and b"never" not in out and b"Traceback" not in out + err, out


@pytest.mark.case("hooks-attack-4", "hooks-78")
def test_the_records_cannot_be_seen_from_a_step(live: LiveJob) -> None:
    assert isinstance(live.state, dict)
    state = live.hooks.driver.state
    done = live.script("ls %s %s/jobs /tmp 2>&1; find / -name '%s*' 2>/dev/null" % (state, state, live.state["id"][:12]))
    assert "No such file" in done.text and live.state["id"][:12] not in done.text.replace(str(state), "")


@pytest.mark.case("hooks-attack-5")
@pytest.mark.parametrize("command", ["prepare_job"])
def test_a_response_file_that_leads_elsewhere(hooks: HookRunner, command: str) -> None:
    with LiveJob(hooks, {}) as live:
        precious = hooks.top / "precious"
        precious.write_text("keep")
        started = live.places.temp / "_runner_hook_responses" / "answer.json"
        started.unlink(missing_ok=True)
        started.symlink_to(precious)
        request = {"command": command, "responseFile": str(started), "args": {"container": live.wish({}, job=True)}, "state": None}
        child = live.send(json.dumps(request).encode())
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 125 and b"response file" in out, out
        assert precious.read_text() == "keep"


@pytest.mark.case("hooks-attack-6")
def test_a_response_file_with_a_second_name(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}) as live:
        precious = live.places.work / "precious"
        precious.write_text("keep")
        hooks.driver.own(live.places.work)
        place = live.places.temp / "_runner_hook_responses" / "answer.json"
        os.link(precious, place)
        request = {"command": "prepare_job", "responseFile": str(place), "args": {"container": live.wish({}, job=True)}, "state": None}
        child = live.send(json.dumps(request).encode())
        child.communicate(timeout=60)
        assert child.returncode == 125 and precious.read_text() == "keep"


@pytest.mark.case("hooks-attack-7")
def test_a_response_directory_that_leads_elsewhere(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}) as live:
        elsewhere = hooks.top / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        hooks.driver.own(elsewhere)
        place = live.places.temp / "_runner_hook_responses"
        shutil.move(place, place.with_name("moved"))
        place.symlink_to(elsewhere)
        request = {
            "command": "prepare_job",
            "responseFile": str(place / "a.json"),
            "args": {"container": live.wish({}, job=True)},
            "state": None,
        }
        child = live.send(json.dumps(request).encode())
        child.communicate(timeout=60)
        assert child.returncode == 125 and not list(elsewhere.iterdir())
        place.unlink()
        shutil.move(place.with_name("moved"), place)


@pytest.mark.case("hooks-attack-8")
def test_a_response_file_that_is_a_pipe(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}) as live:
        place = live.places.temp / "_runner_hook_responses" / "pipe.json"
        os.mkfifo(place)
        owned(live, place)
        request = {"command": "prepare_job", "responseFile": str(place), "args": {"container": live.wish({}, job=True)}, "state": None}
        child = live.send(json.dumps(request).encode())
        child.communicate(timeout=60)
        assert child.returncode == 125


@pytest.mark.case("hooks-attack-9")
def test_a_response_that_was_written_before_us(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}) as live:
        child, response = live.start("prepare_job", {"container": live.wish({}, job=True), "services": []})
        response.write_text('{"state":{"id":"%s"},"isAlpine":true} and much more than a hook would write %s' % ("f" * 32, "x" * 5000))
        done = live.finish((child, response))
        assert done.code == 0 and done.answer["state"]["id"] != "f" * 32 and "xxx" not in done.response
        live.state = done.answer["state"]


@pytest.mark.case("hooks-attack-10")
@pytest.mark.parametrize("what", ["link", "open", "other"])
def test_a_record_that_is_not_a_private_file_of_ours(live: LiveJob, what: str) -> None:
    """A bug elsewhere, or an administrator's slip, must not make a step run through a record that others could write."""
    assert isinstance(live.state, dict)
    path = live.hooks.driver.state / "jobs" / live.state["id"] / "step"
    data = path.read_bytes()
    if what == "link":
        path.rename(path.with_name("moved"))
        path.symlink_to("moved")
    elif what == "open":
        path.chmod(0o644)
    else:
        path.write_bytes(b"gha-apptainer job 0\0" + data)
    done = live.script("echo never")
    assert done.code == 125 and "record cannot be used" in done.text, done


@pytest.mark.case("hooks-attack-11")
def test_a_state_directory_that_others_may_write(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}).prepared() as live:
        hooks.driver.state.chmod(0o777)
        done = live.script("echo never")
        hooks.driver.state.chmod(0o700)
        assert done.code == 125 and "private directory" in done.text, done


# programs of the job's own, through GITHUB_PATH and GITHUB_ENV

PLANT = """
mkdir -p evil
for name in bash sh python3 apptainer env node squashfuse_ll fuse-overlayfs; do
    # on the host it leaves a trace; in the container it is whatever the step itself wanted
    printf '#!/bin/sh\\ntest -d "%s" && echo %s >> "%s"\\nexec /bin/%s "$@"\\n' "$HOOKS" $name "$HOST/traces" $name > evil/$name
    chmod 755 evil/$name
done
echo "$HOST/evil" >> $GITHUB_PATH
"""


def planted(hooks: HookRunner, *more: str) -> Played:
    if not hooks.node:
        pytest.skip("there is no node on this machine")
    workspace = hooks.work / "repository/repository"
    after = {"uses": "docker://" + BUSYBOX, "with": {"entrypoint": "/bin/echo", "args": "step"}}
    steps: list[Any] = [{"run": "\n".join((PLANT, *more)), "env": {"HOST": str(workspace), "HOOKS": str(hooks.hooks)}}, "echo later", after]
    done = hooks.play(job(*steps), kind="js")
    assert done.result == "success", done
    assert "later" in done.text("2")
    assert not (workspace / "traces").exists(), (workspace / "traces").read_text()
    return done


@pytest.mark.case("hooks-attack-12", "hooks-80")
def test_programs_in_front_of_the_runners_path(hooks: HookRunner) -> None:
    planted(hooks)


@pytest.mark.case("hooks-attack-13", "hooks-80")
@pytest.mark.parametrize(
    "line", ["BASH_ENV=$HOST/evil/bash", "LD_PRELOAD=$HOST/evil.so", "PYTHONPATH=$HOST/evil", "NODE_OPTIONS=--require=$HOST/evil.js"]
)
def test_variables_that_steer_interpreters(hooks: HookRunner, line: str) -> None:
    planted(hooks, 'echo "%s" >> $GITHUB_ENV' % line)


@pytest.mark.case("hooks-attack-14")
@pytest.mark.parametrize(
    "line", ["GHA_APPTAINER_STATE=/tmp", "GHA_APPTAINER=/bin/false", "APPTAINER_BIND=/:/host", "RUNNER_TRACKING_ID=other"]
)
def test_variables_that_steer_us(hooks: HookRunner, line: str) -> None:
    done = planted(hooks, "echo '%s' >> $GITHUB_ENV" % line)
    assert done.outcome("Stop containers") == "success"


# mounts, options, images


def refused(hooks: HookRunner, container: dict[str, object], *words: str, policy: dict[str, object] | None = None) -> None:
    """The job container is refused by a sentence with these words, nothing runs and nothing is left."""
    done = hooks.play(job("cat /x/passwd /x/etc/passwd; echo never", container={"image": BUSYBOX, **container}), policy=policy)
    assert done.outcome("1") == "skipped", done
    assert all(word in done.errors(BEGIN) for word in words), done
    assert hooks.left() == []


@pytest.mark.case("hooks-attack-15", "hooks-79", "hooks-70")
@pytest.mark.parametrize(
    "volume", ["/:/x", "/etc:/x", "/etc:/x:ro", "/root:/x", "/cvmfs/../etc:/x", "/cvmfs/../../../etc/:/x", "/proc/1/root:/x", "//etc:/x"]
)
def test_volumes_of_the_host(hooks: HookRunner, volume: str) -> None:
    refused(hooks, {"volumes": [volume]}, "not allowed", "policy")


@pytest.mark.case("hooks-attack-16", "hooks-79")
@pytest.mark.parametrize(
    "option", ["-v /:/x", "-v/etc:/x", "--volume=/etc:/x", "--mount type=bind,source=/etc,target=/x", "--mount type=bind,src=/,dst=/x,ro"]
)
def test_volumes_in_options(hooks: HookRunner, option: str) -> None:
    refused(hooks, {"options": option}, "not allowed", "policy")


@pytest.mark.case("hooks-attack-17", "hooks-79")
@pytest.mark.parametrize("way", ["workspace", "allowed"])
def test_a_link_that_leads_out(hooks: HookRunner, way: str) -> None:
    top = hooks.work if way == "workspace" else hooks.top / "allowed"
    top.mkdir(exist_ok=True)
    (top / "link").unlink(missing_ok=True)
    (top / "link").symlink_to("/etc")
    refused(hooks, {"volumes": ["%s/link:/x" % top]}, "leads to /etc", policy={"host_paths": [str(hooks.top / "allowed")]})


@pytest.mark.case("hooks-attack-18", "hooks-79")
@pytest.mark.parametrize("socket", ["/var/run/docker.sock", "/run/docker.sock", "/var/run/../run/docker.sock"])
def test_the_docker_socket(hooks: HookRunner, socket: str) -> None:
    refused(hooks, {"volumes": ["%s:/x" % socket]}, "docker.sock")


@pytest.mark.case("hooks-attack-19")
@pytest.mark.parametrize("target", ["/__e", "/__w", "/github/workflow", "/__w/../__e", "/github/home/"])
def test_a_volume_over_the_runners_own_places(hooks: HookRunner, target: str) -> None:
    refused(hooks, {"volumes": ["scratch:%s" % target]}, "")


@pytest.mark.case("hooks-attack-20", "hooks-79")
def test_a_file_of_variables_that_is_none(hooks: HookRunner) -> None:
    refused(hooks, {"options": "--env-file /etc/passwd"}, "not allowed")
    (hooks.work / "link").symlink_to("/etc/passwd")
    refused(hooks, {"options": "--env-file %s/link" % hooks.work}, "not allowed")


@pytest.mark.case("hooks-attack-21", "hooks-79")
@pytest.mark.parametrize("device", ["/dev/mem", "/dev/sda", "/dev/../etc/shadow", "/dev/kmsg:/dev/kmsg:rwm", "/dev/full:/etc/passwd"])
def test_devices(hooks: HookRunner, device: str) -> None:
    refused(hooks, {"options": "--device %s" % device}, device.split(":", maxsplit=1)[0])


@pytest.mark.case("hooks-attack-22", "hooks-65", "hooks-79")
@pytest.mark.parametrize(
    "option", ["--privileged", "--cap-add=ALL", "--security-opt apparmor=unconfined", "--sysctl net.ipv4.ip_forward=1", "--pid container:x"]
)
def test_rights(hooks: HookRunner, option: str) -> None:
    refused(hooks, {"options": option}, option.split("=", maxsplit=1)[0].split(" ", maxsplit=1)[0])


@pytest.mark.case("hooks-attack-23", "hooks-79")
def test_images_that_are_paths_of_the_host(hooks: HookRunner) -> None:
    for image in ("/etc", "/", "/usr"):
        refused(hooks, {"image": image}, image, "not allowed")
    (hooks.work / "image").symlink_to("/")
    refused(hooks, {"image": "%s/image" % hooks.work}, "not allowed")


@pytest.mark.case("hooks-attack-24", "hooks-79")
def test_images_that_are_not_on_the_list(hooks: HookRunner) -> None:
    hooks.add_image("owner/allowed:1", lambda _: None)
    policy: dict[str, object] = {"images": ["docker.io/owner/*"]}
    refused(hooks, {"image": BUSYBOX}, "busybox", "policy", policy=policy)
    done = hooks.play(job("echo in", {"uses": "docker://" + BUSYBOX}, container="owner/allowed:1"), policy=policy)
    assert done.text("1") == "in" and "not allowed" in done.errors("2"), done
    place = hooks.work / "_actions/a"
    place.mkdir(parents=True)
    (place / "Dockerfile").write_text("FROM %s\n" % BUSYBOX)
    built = hooks.play(job({"runs": {"using": "docker", "image": str(place / "Dockerfile")}}, container=None), policy=policy)
    assert "not allowed" in built.errors("1"), built


@pytest.mark.case("hooks-attack-25", "hooks-79")
@pytest.mark.parametrize("name", ["_temp", "_temp/_github_home", "_temp/_github_workflow", "_temp/_runner_file_commands", "r/r"])
def test_the_runners_directory_replaced_by_a_link(live: LiveJob, name: str) -> None:
    """By a step of the job itself, before a container step binds it."""
    args = live.step_args("-c", "'cat /github/*/passwd; echo never'", entryPoint="/bin/sh")
    (live.places.work / name).rename(live.places.work / "moved")
    (live.places.work / name).symlink_to("/etc")
    request = {"command": "run_container_step", "responseFile": "/none", "args": args, "state": live.state}
    child = live.send(json.dumps(request).encode())
    out, _ = child.communicate(timeout=60)
    (live.places.work / name).unlink()
    (live.places.work / "moved").rename(live.places.work / name)
    assert child.returncode == 125 and b"link leads elsewhere" in out and b"root:" not in out, out


@pytest.mark.case("hooks-attack-26", "hooks-79")
def test_a_link_that_an_earlier_job_left(hooks: HookRunner) -> None:
    (hooks.work / "_actions").symlink_to("/etc")
    done = hooks.play(job("cat /__w/_actions/passwd"))
    assert done.outcome("1") == "skipped" and "link leads elsewhere" in done.errors(BEGIN), done
    (hooks.work / "_actions").unlink()


# what a step may see


@pytest.mark.case("hooks-attack-27", "hooks-78")
def test_no_process_of_the_host_is_visible(hooks: HookRunner) -> None:
    script = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; ls /proc | grep -c '^[0-9]'"
    done = hooks.play(job(script), environ={"RUNNER_SECRET": SECRET, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": SECRET})
    assert SECRET not in str(done.raw)
    assert "python" not in done.text("1") and int(done.text("1").split("\n")[-1]) < 12, done


@pytest.mark.case("hooks-attack-28", "hooks-78")
def test_the_runners_home_is_not_visible(hooks: HookRunner) -> None:
    for path in (hooks.top / "credentials", hooks.driver.folder / "credentials", Path("/tmp") / ("credentials-%d" % os.getpid())):
        path.write_text(SECRET)
    done = hooks.play(
        job("set +e; find / -name 'credentials*' 2>/dev/null; ls -A /root /home; cat %s/credentials || echo none" % hooks.top)
    )
    assert SECRET not in done.text("1") and "credentials\n" not in done.text("1") and done.text("1").endswith("none"), done
    (Path("/tmp") / ("credentials-%d" % os.getpid())).unlink()


@pytest.mark.case("hooks-attack-29", "hooks-78")
def test_other_jobs_are_not_visible(hooks: HookRunner) -> None:
    work = hooks.top / "_work-of-another"
    work.mkdir(exist_ok=True)
    hooks.driver.own(work)
    with LiveJob(hooks, {}, work=work).prepared() as victim:
        (victim.places.workspace / "secret").write_text(SECRET)
        child, response = victim.start("run_script_step", victim.script_args("echo begun > begun; exec sleep 20.5"))
        limit = time.monotonic() + 60
        while not (victim.places.workspace / "begun").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        script = "find / -name secret 2>/dev/null; ps; ls %s 2>/dev/null || echo none" % work
        done = hooks.play(job("set +e; " + script))
        assert SECRET not in done.text("1") and "20.5" not in done.text("1") and "none" in done.text("1"), done
        child.terminate()
        victim.finish((child, response))


@pytest.mark.case("hooks-attack-30")
def test_tokens_of_the_runner_do_not_live_on_in_our_processes(hooks: HookRunner) -> None:
    names = ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_RUNTIME_TOKEN")
    with LiveJob(hooks, {"environmentVariables": {"PASSWORD": SECRET + "-of-the-job"}}, environ=dict.fromkeys(names, SECRET)).prepared():
        found = 0
        for pid in hooks.driver.processes():
            try:
                text = Path("/proc/%d/environ" % pid).read_bytes() + Path("/proc/%d/cmdline" % pid).read_bytes()
            except OSError:
                continue
            found += 1
            assert SECRET.encode() not in text, Path("/proc/%d/cmdline" % pid).read_bytes()
        assert found


@pytest.mark.case("hooks-attack-31", "hooks-18")
def test_a_password_is_in_no_command_line(hooks: HookRunner, make_registry: Callable[..., Registry]) -> None:
    registry = make_registry(login=True)
    program = (Path(hooks.images[BUSYBOX]) / "bin/busybox").read_bytes()
    tree = {"bin": Entry(), "bin/sh": Entry(program), "etc": Entry(), "opt": Entry(), "opt/weight": Entry(os.urandom(1 << 20), 0o644)}
    registry.push("private/seen", "1", {**tree, "proc": Entry(), "sys": Entry(), "dev": Entry(), "tmp": Entry()})
    hooks.settings = {"registries_http": [registry.address]}
    image = {"image": "%s/private/seen:1" % registry.address, "credentials": {"username": USER, "password": PASSWORD}}
    child = hooks.start(job("echo in", container=image))
    seen = b""
    while child.poll() is None:
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in (os.getpid(), child.pid):
                try:
                    seen += Path("/proc", name, "cmdline").read_bytes()
                except OSError:
                    continue
        seen = seen[-(1 << 20) :] if PASSWORD.encode() not in seen else seen
        time.sleep(0.002)
    assert hooks.finish(child).result == "success"
    assert PASSWORD.encode() not in seen


@pytest.mark.case("hooks-attack-32")
def test_a_summary_that_leads_elsewhere(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}).prepared() as live:
        precious = hooks.top / "precious"
        precious.write_text("keep")
        hooks.driver.own(precious)
        summary = live.places.commands / "step_summary_x"
        summary.symlink_to(precious)
        assert live.call("run_script_step", live.script_args("true"), GITHUB_STEP_SUMMARY=str(summary)).code == 0
        assert live.call("run_script_step", live.script_args("true"), GITHUB_STEP_SUMMARY=str(precious)).code == 0
        assert precious.read_text() == "keep"


@pytest.mark.case("hooks-attack-33")
def test_a_services_log_gives_no_commands(hooks: HookRunner) -> None:
    text = "::add-mask::word\\n::error::fake\\n##[error]fake\\n::set-output name=x::1\\n"
    service = {"image": BUSYBOX, "entrypoint": "/bin/sh", "command": "-c 'printf \"%s\"; sleep 300'" % text}
    done = hooks.play(job("sleep 0.2; echo word", services={"one": service}))
    assert done.text("1") == "word" and done.step("Stop containers")["annotations"] == [], done
    assert "> ::error::fake" in done.text("Stop containers")


@pytest.mark.case("hooks-attack-34")
def test_a_dying_services_words_give_no_commands(hooks: HookRunner) -> None:
    service = {
        "image": BUSYBOX,
        "options": "--health-cmd true",
        "entrypoint": "/bin/sh",
        "command": "-c 'echo ::add-path::/evil; echo ::error::fake; exit 3'",
    }
    done = hooks.play(job("echo never", services={"one": service}))
    assert "fake" not in done.errors(BEGIN) and "exit code 3" in done.errors(BEGIN), done


# what a step may do


@pytest.mark.case("hooks-attack-35", "hooks-16")
def test_remounting_what_is_read_only(live: LiveJob) -> None:
    done = live.script("mount -o remount,rw /__e; mount -o remount,rw,bind /__e; umount /__e; touch /__e/made && echo broken; true")
    assert b"broken" not in done.out and not (live.hooks.externals / "made").exists(), done


@pytest.mark.case("hooks-attack-36")
def test_killing_everything_in_reach(live: LiveJob) -> None:
    live.script("kill -9 1; kill -9 -1; true")
    assert live.script("echo on").out == b"on\n"
    assert live.cleanup().code == 0


@pytest.mark.case("hooks-attack-37")
def test_a_shell_that_is_the_joiner(hooks: HookRunner) -> None:
    """`#!/proc/self/exe` starts whatever entered the container; that is a trampoline of a few hundred bytes, which nobody can write."""

    def change(tree: Path) -> None:
        (tree / "bin/bash").write_text("#!/proc/self/exe\n")
        (tree / "bin/bash").chmod(0o755)

    before = os.stat(hooks.driver.python).st_mtime_ns
    done = hooks.play(
        job({"run": "echo never", "shell": "bash"}, {"run": "echo on", "if": "always"}, container=hooks.add_image("self:1", change))
    )
    assert "never" not in done.text("1") and done.text("2") == "on", done
    assert os.stat(hooks.driver.python).st_mtime_ns == before


@pytest.mark.case("hooks-attack-38")
def test_a_passwd_file_that_never_ends(hooks: HookRunner) -> None:
    def change(tree: Path) -> None:
        (tree / "etc/passwd").unlink(missing_ok=True)
        os.mkfifo(tree / "etc/passwd")
        (tree / "etc/os-release").unlink(missing_ok=True)
        (tree / "etc/os-release").symlink_to("/dev/zero")

    done = hooks.play(job("echo on", container=hooks.add_image("endless:1", change)))
    assert done.text("1") == "on", done


@pytest.mark.case("hooks-attack-39")
def test_deep_trees_and_odd_names_are_removed(live: LiveJob) -> None:
    script = "cd /; i=0; while [ $i -lt 190 ]; do mkdir deep-directory-name; cd deep-directory-name; i=$((i+1)); done\n"
    script += "touch -- '-rf' \"$(printf 'a\\nb')\"; chmod 0 ."
    assert live.script(script).code == 0
    assert live.cleanup().code == 0


@pytest.mark.case("hooks-attack-40")
def test_arguments_stay_arguments(hooks: HookRunner) -> None:
    with LiveJob(hooks, {}).prepared() as live:
        done: Called = live.call(
            "run_script_step", {**live.script_args(""), "entryPoint": "/bin/echo", "entryPointArgs": ["$(id)", "`id`", ";id", "|", "&&"]}
        )
        assert done.out == b"$(id) `id` ;id | &&\n"
        option = LiveJob(hooks, {"createOptions": "--hostname '$(touch /tmp/x)'"})
        with option:
            assert option.prepare().code == 125


@pytest.mark.case("hooks-attack-41")
def test_a_state_of_the_user_that_another_user_made(hooks: HookRunner) -> None:
    if os.getuid() or hooks.driver.uid == os.getuid():
        pytest.skip("only root can give files away")
    with LiveJob(hooks, {}).prepared() as live:
        assert isinstance(live.state, dict)
        path = hooks.driver.state / "jobs" / live.state["id"] / "step"
        os.chown(path, 1, 1)
        done = live.script("echo never")
        os.chown(path, hooks.driver.uid, hooks.driver.uid)
        assert done.code == 125 and b"never" not in done.out, done


SWAP = """
while true; do
    mv /__w/_temp/_github_home /__w/_temp/real; ln -s /etc /__w/_temp/_github_home
    rm /__w/_temp/_github_home; mv /__w/_temp/real /__w/_temp/_github_home
done
"""


@pytest.mark.case("hooks-attack-42", "hooks-79")
def test_a_directory_that_changes_while_it_is_mounted(live: LiveJob) -> None:
    """A process of the job's swaps a directory and a link; whatever moment a container step meets, it never sees where the link leads."""
    assert live.script("(%s) > /dev/null 2>&1 < /dev/null &" % SWAP).code == 0
    marker = "an-entry-of-the-host"
    outcomes = set()
    for _ in range(25):
        done = live.step("-c", "'cat /github/home/passwd 2>/dev/null; ls /github/home; echo %s'" % marker, entryPoint="/bin/sh")
        assert b"root:" not in done.out, done
        outcomes.add(done.code)
    assert outcomes <= {0, 125}
