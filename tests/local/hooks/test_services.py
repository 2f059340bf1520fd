"""Services: cases 5, 49 and 52 to 58 of the hook contract."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hook_jobs import BUSYBOX, HookRunner, job
from live_jobs import LiveJob
from services import PACKAGES, copy_image

BEGIN, END = "Initialize containers", "Stop containers"
WAIT = "--health-interval 500ms --health-retries 60"


def web(word: str) -> Callable[[Path], None]:
    """A web server as an image: it logs a line, and answers with a word."""

    def change(tree: Path) -> None:
        (tree / "www").mkdir()
        (tree / "www/index.html").write_text(word + "\n")
        (tree / "serve").write_text('#!/bin/sh\necho serving %s, arguments: "$@"\nexec httpd -f -v -p ${PORT:-8000} -h /www\n' % word)
        (tree / "serve").chmod(0o755)
        (tree / ".singularity.d").mkdir()
        (tree / ".singularity.d/runscript").write_text("OCI_ENTRYPOINT='\"/serve\"'\nOCI_CMD='\"usual\"'\n")

    return change


READY = "--health-cmd 'wget -q -O - http://127.0.0.1:${PORT:-8000}/' --health-interval 100ms --health-retries 100"


GET = "wget -q -O - http://%s/"


@pytest.mark.case("hooks-5", "hooks-53", "hooks-54", "hooks-58")
def test_services_are_found_by_name_and_by_port(all_hooks: HookRunner) -> None:
    first, second = all_hooks.add_image("OWNER/web:1".lower(), web("first")), all_hooks.add_image("second:1", web("second"))
    services = {
        "key": {"image": first, "options": READY + " --network-alias other --hostname third.example", "ports": ["8000"]},
        "more": {"image": second, "env": {"PORT": "8001"}, "options": READY, "entrypoint": "/serve", "command": '"given here"'},
    }
    script = " && ".join(GET % name for name in ("web:8000", "other:8000", "third.example:8000", "second:8001"))
    done = all_hooks.play(job(script, container=BUSYBOX, services=services))
    assert done.result == "success", done
    assert done.text("1").split() == ["first", "first", "first", "second"]
    found = done.context["services"]
    assert list(found) == ["key", "more"]
    assert found["key"]["ports"].keys() == {"8000"} and int(found["key"]["ports"]["8000"]) > 0
    assert found["more"]["ports"] == {} and found["key"]["network"] == done.context["container"]["network"]
    log = done.text(END)
    assert "##[group]Log of service service" not in log
    assert (
        "serving first, arguments: usual" in log and "serving second, arguments: given here" in log and log.count("##[group]Log of") == 2
    ), done


@pytest.mark.case("hooks-4", "hooks-54", "hooks-55")
def test_a_job_without_a_container_reaches_services_by_their_ports(hooks: HookRunner) -> None:
    image = hooks.add_image("owner/web:1", web("first"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    services = {"web": {"image": image, "ports": ["%d:8000" % free], "options": READY}}
    script = "exec 3<>/dev/tcp/127.0.0.1/%d; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3" % free
    done = hooks.play(job({"run": script, "shell": "bash"}, container=None, services=services))
    assert done.result == "success", done
    assert "first" in done.text("1")
    assert done.context["services"]["web"]["ports"] == {"8000": str(free)}


@pytest.mark.case("hooks-49")
def test_an_action_reaches_what_the_job_reaches(hooks: HookRunner) -> None:
    image = hooks.add_image("owner/web:1", web("first"))
    step = {"uses": "docker://" + BUSYBOX, "with": {"entrypoint": "/bin/sh", "args": "-c '%s'" % (GET % "web:8000")}}
    done = hooks.play(job(step, services={"web": {"image": image, "options": READY}}))
    assert done.result == "success" and "first" in done.text("1"), done


@pytest.mark.case("hooks-55", "hooks-56")
def test_a_port_that_is_taken_is_an_error_that_names_both(hooks: HookRunner) -> None:
    image = hooks.add_image("owner/web:1", web("first"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = hooks.play(job("echo never", services={"web": {"image": image, "ports": ["%d:8000" % port]}}))
    assert done.outcome("1") == "skipped"
    assert str(port) in done.errors(BEGIN) and "web" in done.errors(BEGIN), done


@pytest.mark.case("hooks-56")
def test_two_services_and_two_jobs_with_one_port(hooks: HookRunner) -> None:
    first, second = hooks.add_image("owner/web:1", web("first")), hooks.add_image("second:1", web("second"))
    script = "%s; %s" % (GET % "web:8000", GET % "second:8000")
    services = {"a": {"image": first, "options": READY}, "b": {"image": second, "options": READY}}
    works = [hooks.top / "_work-c", hooks.top / "_work-d"]
    started = []
    for work in works:
        work.mkdir(exist_ok=True)
        hooks.driver.own(work)
        started.append(hooks.start(job(script + "; sleep 1", services=services), work=work))
    done = [hooks.finish(one) for one in started]
    assert [one.text("1").split() for one in done] == [["first", "second"]] * 2, done


@pytest.mark.case("hooks-55")
def test_a_privileged_port_without_the_right_is_a_clear_error(hooks: HookRunner) -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as handle:
        if int(handle.read()) <= 81:
            pytest.skip("on this machine every user may listen on low ports")
    image = hooks.add_image("owner/web:1", web("first"))
    done = hooks.play(job("echo never", services={"web": {"image": image, "ports": ["81:8000"]}}))
    assert "81" in done.errors(BEGIN) and "ip_unprivileged_port_start" in done.text(BEGIN), done


@pytest.mark.case("hooks-57")
@pytest.mark.parametrize(
    "service, words",
    [
        (
            {"image": BUSYBOX, "entrypoint": "/bin/sh", "command": "-c 'echo last words; exit 7'"},
            ("last words", "exit code 7", "service busybox"),
        ),
        (
            {"image": "owner/web:1", "options": "--health-cmd 'echo not well; exit 1' --health-interval 100ms --health-retries 2"},
            ("serving first", "not well", "unhealthy", "service web"),
        ),
    ],
)
def test_a_service_that_dies_or_stays_unhealthy_fails_the_job(
    hooks: HookRunner, service: dict[str, object], words: tuple[str, ...]
) -> None:
    hooks.add_image("owner/web:1", web("first"))
    options = {"options": "--health-cmd true --health-interval 200ms"} if "options" not in service else {}
    done = hooks.play(job("echo never", services={"one": {**options, **service}}))
    assert done.outcome(BEGIN) == "failure" and done.outcome("1") == "skipped", done
    assert all(word in done.text(BEGIN) for word in words), done
    assert hooks.left() == []


@pytest.mark.case("hooks-63")
def test_health_is_waited_for(hooks: HookRunner) -> None:
    check = "test -e /ready || { touch /ready; exit 1; }"
    image = hooks.add_image("owner/web:1", web("first"))
    options = '--health-cmd "%s" --health-interval 200ms --health-retries 10' % check
    done = hooks.play(job("test -e /never || true; echo begun", services={"web": {"image": image, "options": options}}))
    assert done.result == "success", done
    off = hooks.play(job("echo fine", services={"web": {"image": image, "options": "--no-healthcheck"}}))
    assert off.result == "success", off


@pytest.fixture(scope="session")
def database_tree() -> str:
    """A Debian image with PostgreSQL and Redis in the shape of the official ones. Read only: it is shared and kept."""
    from gha_apptainer.node.provision.base_images import debian_image

    return debian_image(os.environ, lambda _: None, PACKAGES)


@pytest.mark.case("hooks-52")
def test_databases_in_official_shape_serve_a_job(hooks: HookRunner, database_tree: str) -> None:
    if "databases:1" not in hooks.images:
        hooks.use_image("databases:1", copy_image(database_tree, hooks.driver.images / "databases"))
    path = "/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    services = {
        "postgres": {
            "image": "databases:1",
            "env": {"POSTGRES_PASSWORD": "word", "PGDATA": "/var/lib/postgresql/data", "PATH": path},
            "entrypoint": "postgres-entrypoint.sh",
            "command": "postgres -F -c listen_addresses=*",
            "volumes": ["/var/lib/postgresql/data"],
            "options": '--network-alias postgres --health-cmd "pg_isready -h 127.0.0.1 -U postgres" ' + WAIT,
        },
        "redis": {
            "image": "databases:1",
            "env": {"PATH": path},
            "entrypoint": "redis-entrypoint.sh",
            "command": "redis-server --bind 0.0.0.0 --protected-mode no",
            "options": '--network-alias redis --workdir /var/lib/redis --health-cmd "redis-cli ping" ' + WAIT,
        },
    }
    sql = "PGPASSWORD=word psql -h postgres -U postgres -d app -tA -c 'CREATE TABLE t (n int); INSERT INTO t VALUES (42); SELECT n FROM t'"
    done = hooks.play(
        job(
            sql + "; redis-cli -h redis SET a b; redis-cli -h redis GET a",
            container={"image": "databases:1", "env": {"PATH": path}},
            services=services,
        )
    )
    assert done.result == "success", done
    assert done.text("1").split()[-3:] == ["42", "OK", "b"], done
    assert "database system is ready to accept connections" in done.text(END)


@pytest.mark.case("hooks-53")
def test_two_services_of_one_image_have_two_names(hooks: HookRunner) -> None:
    hooks.add_image("owner/web:1", web("first"))
    services = {
        "a": {"image": "owner/web:1", "options": READY},
        "b": {"image": "owner/web:1", "options": READY, "env": {"PORT": "8002"}},
    }
    done = hooks.play(job("%s; %s" % (GET % "web:8000", GET % "web-2:8002"), services=services))
    assert done.text("1").split() == ["first", "first"], done
    assert "web-2" in done.warnings(BEGIN)


@pytest.mark.case("hooks-5", "hooks-8")
def test_container_steps_of_a_job_with_services_only(hooks: HookRunner) -> None:
    hooks.add_image("owner/web:1", web("first"))
    with LiveJob(hooks, None, services=({"image": "owner/web:1", "createOptions": READY},)).prepared() as live:
        done = live.step("-c", '"%s"' % (GET % "web:8000"), entryPoint="/bin/sh")
        assert done.code == 0 and done.out.endswith(b"first\n"), done
        refused = live.script("echo never")
        assert refused.code == 125 and "services only" in refused.text


@pytest.mark.case("hooks-53", "hooks-66")
def test_a_low_port_needs_a_network_of_the_jobs_own(hooks: HookRunner) -> None:
    """A service's low port answers in the job's own network; in the machine's only who may listen there could forward it."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as handle:
        if int(handle.read()) <= 80:
            pytest.skip("on this machine every user may listen on low ports")
    hooks.add_image("owner/web:1", web("first"))
    services = {"web": {"image": "owner/web:1", "options": READY, "env": {"PORT": "80"}}}
    shared = hooks.play(job("echo never", services=services))
    assert "--network private" in shared.text(BEGIN) and "service web" in shared.errors(BEGIN), shared
    step = {"uses": "docker://" + BUSYBOX, "with": {"entrypoint": "/bin/sh", "args": "-c '%s'" % (GET % "web")}}
    own = hooks.play(job(GET % "web", step, container={"image": BUSYBOX, "options": "--network private"}, services=services))
    assert own.text("1") == "first" and own.text("2").endswith("first"), own
