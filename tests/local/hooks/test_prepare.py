"""prepare_job: cases 14 to 25 of the hook contract."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hook_jobs import BUSYBOX, HookRunner, job
from live_jobs import LiveJob
from registries import PASSWORD, USER, Entry, Registry


def shell_tree(hooks: HookRunner, **more: Entry) -> dict[str, Entry]:
    """The entries of an image with a shell, and nothing else but what is given."""
    program = (Path(hooks.images[BUSYBOX]) / "bin/busybox").read_bytes()
    found = {name: Entry() for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "opt", "data")}
    found.update(
        {
            "bin/sh": Entry(program),
            "bin/busybox": Entry(program),
            "etc/passwd": Entry(b"root:x:0:0::/root:/bin/sh\nbuilder:x:1500:1500::/opt:/bin/sh\n", 0o644),
        }
    )
    found.update(more)
    return found


@pytest.mark.case("hooks-14")
def test_sources_that_are_not_there(hooks: HookRunner) -> None:
    assert not (hooks.work / "_actions").exists()
    done = hooks.play(job("test ! -e /var/run/docker.sock; ls -d /__w/_actions"))
    assert done.result == "success", done


@pytest.mark.case("hooks-15")
def test_mounts_in_odd_order(hooks: HookRunner) -> None:
    live = LiveJob(hooks, {})
    mounts = list(reversed(live.places.job_mounts()))
    live.container = {"systemMountVolumes": mounts}
    (live.places.work / "_tool/marker").write_text("x")
    with live.prepared():
        done = live.script(
            "ls /__w/_tool/marker /__w/_temp/_runner_hook_responses /github/home /github/workflow /__e/node20 && touch /__w/_temp/made"
        )
        assert done.code == 0, done
    assert (live.places.temp / "made").exists()


@pytest.mark.case("hooks-16")
def test_externals_are_read_only(hooks: HookRunner) -> None:
    done = hooks.play(
        job("touch /__w/made; touch /__e/made 2>/dev/null && exit 9; touch /__e/node20/made 2>/dev/null && exit 9; echo right")
    )
    assert "right" in done.text("1"), done
    assert (hooks.work / "made").exists() and not (hooks.externals / "made").exists()


@pytest.mark.case("hooks-17")
def test_what_an_image_says_of_itself(all_hooks: HookRunner, local_registry: Registry) -> None:
    """Steps run as the image's USER, as `docker exec` does; a container that is only held open runs no ENTRYPOINT."""
    config = {
        "Env": ["PATH=/opt/bin:/bin", "FROM_IMAGE=a b", "BOTH=image"],
        "WorkingDir": "/opt",
        "User": "builder",
        "Entrypoint": ["/bin/sh", "-c", "touch /__w/ran"],
    }
    local_registry.push("jobs/config", "1", shell_tree(all_hooks), config)
    all_hooks.settings = {"registries_http": [local_registry.address]}
    image = {"image": "%s/jobs/config:1" % local_registry.address, "env": {"BOTH": "workflow"}}
    script = 'echo "$FROM_IMAGE|$BOTH|$PATH"; /bin/busybox id -un'
    done = all_hooks.play(job(script, container=image))
    assert done.result == "success", done
    assert "a b|workflow|/opt/bin:/bin\nbuilder" in done.text("1")
    assert not (all_hooks.work / "ran").exists()
    root = all_hooks.play(job("/bin/busybox id -u", container={**image, "options": "--user root"}))
    assert root.text("1") == "0", root


@pytest.mark.case("hooks-18")
def test_logins_are_used_and_shown_nowhere(hooks: HookRunner, make_registry: Callable[..., Registry]) -> None:
    registry = make_registry(login=True)
    registry.push("private/image", "1", shell_tree(hooks))
    hooks.settings = {"registries_http": [registry.address]}
    image = {"image": "%s/private/image:1" % registry.address}
    done = hooks.play(job("echo in", container={**image, "credentials": {"username": USER, "password": PASSWORD}}))
    assert done.result == "success", done
    assert PASSWORD not in "\n".join(line for one in done.raw["steps"] for line in one["log"])
    kept = [path for top, _, names in os.walk(hooks.driver.state) for path in (Path(top, name) for name in names) if path.is_file()]
    assert not [path for path in kept if PASSWORD.encode() in path.read_bytes()]
    wrong = hooks.play(
        job(
            "echo in",
            container={"image": "%s/private/other:1" % registry.address, "credentials": {"username": USER, "password": "wrong-one"}},
        )
    )
    assert "private/other" in wrong.errors("Initialize containers")
    open_one = make_registry()
    open_one.push("open/image", "1", shell_tree(hooks))
    open_one.answer = lambda _path, headers: (401, {}, b"") if "authorization" in headers else None
    hooks.settings = {"registries_http": [open_one.address]}
    again = hooks.play(
        job("echo in", container={"image": "%s/open/image:1" % open_one.address, "credentials": {"username": "x", "password": "job-token"}})
    )
    assert again.result == "success", again


@pytest.mark.case("hooks-19")
def test_pull_failures_name_image_and_reason(hooks: HookRunner, local_registry: Registry) -> None:
    """What may pass is tried three times, with pauses; a registry's clear no is told at once."""
    hooks.settings = {"registries_http": [local_registry.address]}
    image = "%s/nobody/nothing:1" % local_registry.address
    missing = hooks.play(job("echo never", container=image))
    assert "nobody/nothing" in missing.errors("Initialize containers"), missing
    assert missing.outcome("1") == "skipped" and missing.outcome("Stop containers") == "success"
    local_registry.answer = lambda _path, _headers: (429, {}, b"slow down")
    before = len(local_registry.requests)
    limited = hooks.play(job("echo never", container=image))
    assert len(local_registry.requests) - before == 3
    assert "429" in limited.text("Initialize containers") and "nobody/nothing" in limited.errors("Initialize containers"), limited


def marked(name: str, text: str, *, shell: bool = True) -> Callable[[Path], None]:
    def change(tree: Path) -> None:
        (tree / "etc/os-release").write_text(text)
        if name == "musl":
            (tree / "lib").mkdir(exist_ok=True)
            (tree / ("lib/ld-musl-%s.so.1" % os.uname().machine)).write_text("")
        if name == "glibc":
            (tree / "lib64").mkdir(exist_ok=True)
            (tree / "lib64/libc.so.6").write_bytes(b"\0GNU C Library (Ubuntu GLIBC 2.39-0) stable release version 2.39.\n")
        if not shell:
            for one in (tree / "bin").iterdir():
                one.unlink()

    return change


@pytest.mark.case("hooks-20")
@pytest.mark.parametrize(
    "name, libc, text, shell, alpine",
    [
        ("alpine", "musl", 'NAME="Alpine Linux"\nID=alpine\n', True, True),
        ("ubuntu", "glibc", "ID=ubuntu\n", True, False),
        ("void", "musl", 'ID="void"\n', True, os.uname().machine == "x86_64"),
        ("distroless", "glibc", "ID=debian\n", False, False),
        ("distroless-musl", "musl", "ID=wolfi\n", False, os.uname().machine == "x86_64"),
    ],
)
def test_which_images_are_alpine(hooks: HookRunner, name: str, libc: str, text: str, shell: bool, alpine: bool) -> None:
    image = hooks.add_image("of-%s:1" % name, marked(libc, text, shell=shell))
    with LiveJob(hooks, {"image": image}) as live:
        assert live.prepare().answer["isAlpine"] is alpine


@pytest.mark.case("hooks-21")
def test_what_a_killed_job_left_goes_first(hooks: HookRunner) -> None:
    child = hooks.start(job("sleep 100 & echo $! > started; sleep 100", container={"image": BUSYBOX, "volumes": ["kept:/kept"]}))
    started = hooks.work / "repository/repository/started"
    limit = time.monotonic() + 60
    while not started.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert os.listdir(hooks.driver.state / "jobs") and os.listdir(hooks.driver.state / "volumes")
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    with LiveJob(hooks, {}) as live:
        live.prepared()
        assert len(os.listdir(hooks.driver.state / "jobs")) == 1 and os.listdir(hooks.driver.state / "volumes") == []
        assert len(os.listdir(hooks.driver.state / "containers")) == 1


@pytest.mark.case("hooks-22")
def test_two_jobs_share_nothing(hooks: HookRunner) -> None:
    works = [hooks.top / "_work-a", hooks.top / "_work-b"]
    script = "test ! -e /marker; test ! -e /tmp/marker; test ! -e /named/marker; touch /marker /tmp/marker /named/marker; hostname; sleep 1"
    started = []
    for work in works:
        work.mkdir(exist_ok=True)
        hooks.driver.own(work)
        started.append(
            hooks.start(job(script, "ls /marker /named/marker", container={"image": BUSYBOX, "volumes": ["named:/named"]}), work=work)
        )
    done = [hooks.finish(one) for one in started]
    assert [one.result for one in done] == ["success", "success"], done
    assert done[0].text("1") != done[1].text("1")


@pytest.mark.case("hooks-24")
def test_jobs_at_once_fetch_an_image_once(hooks: HookRunner, local_registry: Registry) -> None:
    made = local_registry.push("shared/image", "1", shell_tree(hooks, **{"opt/weight": Entry(os.urandom(2_000_000), 0o644)}))
    hooks.settings = {"registries_http": [local_registry.address]}
    jobs = [LiveJob(hooks, {"image": "%s/shared/image:1" % local_registry.address}) for _ in range(3)]
    calls = [one.start("prepare_job", {"container": one.wish(one.container or {}, job=True), "services": []}) for one in jobs]
    done = [one.finish(call) for one, call in zip(jobs, calls, strict=True)]
    assert [one.code for one in done] == [0, 0, 0], done
    assert local_registry.count(made.layers[0]) == 1
    for one in jobs:
        assert one.cleanup().code == 0


@pytest.mark.case("hooks-25")
def test_a_step_may_change_the_system(all_hooks: HookRunner) -> None:
    def closed(tree: Path) -> None:
        (tree / "usr/share/lists/inner").mkdir(parents=True)
        (tree / "usr/share/lists/inner/file").write_text("x")
        (tree / "usr/share/lists/inner/file").chmod(0o400)
        (tree / "usr/share/lists/inner").chmod(0o500)

    image = all_hooks.add_image("closed:1", closed)
    script = (
        "rm -rf /usr/share/lists; mkdir /usr/share/lists; echo new:x:1:1::/:/bin/sh >> /etc/passwd; mv /usr/share/lists /usr/share/moved;"
        "touch /bin/tool; chown 5:5 /bin/tool; dd if=/dev/zero of=/usr/big bs=1M count=80 2>/dev/null; ls -l /usr/big; id -u"
    )
    done = all_hooks.play(job(script, "test -e /usr/share/moved; grep new /etc/passwd", container=image))
    assert done.result == "success", done
