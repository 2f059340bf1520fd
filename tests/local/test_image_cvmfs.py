"""Unpacked CVMFS images, on a stand-in of the publisher's layout: links, digests, policies, slow and dead mounts."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from driving import USERS
from pulling import Puller
from registries import Made, Registry, tree

ENV_SCRIPT = '#!/bin/sh\nexport PATH="/bin:/opt"\nexport ODD="${ODD:-"a \\"b\\" \\$c"}"\nexport LIVE="$HOME/x"\n'
RUNSCRIPT = '#!/bin/sh\nOCI_ENTRYPOINT=\'"/opt/run" "a b"\'\nOCI_CMD=\'"x"\'\n'


class Repository:
    """A directory with the publisher's layout; trees are named by the digest of their configuration."""

    def __init__(self, puller: Puller, top: Path) -> None:
        self.puller = puller
        self.top = top
        top.mkdir()

    def publish(self, name: str, config: str, marker: str) -> Path:
        """Publish a tree as `name` (registry/repository:tag); an older one stays below .flat."""
        hexdigits = config.partition(":")[2]
        flat = self.top / ".flat" / hexdigits[:2] / hexdigits
        (flat / ".singularity.d/env").mkdir(parents=True)
        (flat / ".singularity.d/env/10-docker2singularity.sh").write_text(ENV_SCRIPT)
        (flat / ".singularity.d/runscript").write_text(RUNSCRIPT)
        (flat / "etc").mkdir()
        (flat / "etc/marker").write_text(marker)
        link = self.top / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(flat)
        self.puller.driver.own(self.top)
        return flat

    def manifest(self, name: str, data: bytes) -> None:
        """What the publisher keeps of the manifest."""
        place = self.top / ".metadata" / name / "manifest.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        self.puller.driver.own(self.top)


@pytest.fixture
def repository(puller: Puller) -> Repository:
    return Repository(puller, puller.images_top / "unpacked")


def _there(repository: Repository, more: str = "") -> str:
    return "there = settings(cvmfs_images=(%r,)%s)\n" % (str(repository.top), more)


FOO = "sha256:" + hashlib.sha256(b"foo").hexdigest()


@pytest.mark.parametrize(
    ("published", "asked"),
    [
        ("registry.hub.docker.com/library/debian:12", "debian:12"),
        ("registry.hub.docker.com/debian:12", "docker.io/library/debian:12"),
        ("docker.io/library/debian:12", "docker://debian:12"),
        ("registry.hub.docker.com/team/tool:latest", "team/tool"),
        ("gitlab-registry.cern.ch/a/b/c:v1", "gitlab-registry.cern.ch/a/b/c:v1"),
    ],
)
def test_published_names(puller: Puller, repository: Repository, published: str, asked: str) -> None:
    flat = repository.publish(published, FOO, "here")
    plan, image = puller.run(
        _there(repository) + "from gha_apptainer.domain.image_plans import plan_document\n"
        "plan = images.plan(parse(%r), 'never', there, host())\n"
        "answer([plan_document(plan), images.fetch(plan, None, said.append)])" % asked
    )
    assert plan["chosen"] == "cvmfs"
    assert (image["route"], image["rootfs"], image["form"]) == ("cvmfs", str(flat), "sandbox")
    assert image["digest"] == {"text": FOO, "kind": "config"}
    assert dict(image["config"]["env"]) == {"PATH": "/bin:/opt", "ODD": 'a "b" $c'}, "what needs a shell to be known is left out"
    assert (image["config"]["entrypoint"], image["config"]["cmd"]) == (["/opt/run", "a b"], ["x"])


def test_directory_inside_a_repository_serves_only_its_own_registry(puller: Puller, repository: Repository) -> None:
    repository.publish("harbor.example.org/unpacked/tool:1", FOO, "here")
    inside = "/cvmfs/unpacked.example.org/harbor.example.org/unpacked"
    deep = "there = settings(cvmfs_images=(%r,), cvmfs_aliases={'unpacked.example.org': %r})\n" % (inside, str(repository.top))
    found = puller.run(deep + "answer(pull('harbor.example.org/unpacked/tool:1', 'never', there=there))")
    assert found["route"] == "cvmfs"
    for other in ("tool:1", "unpacked/tool:1", "harbor.example.org/other/tool:1"):
        got = puller.run(deep + "answer(attempt(lambda: pull(%r, 'never', there=there)))" % other)
        assert "not published" in got["text"], other


def test_link_is_followed_once(puller: Puller, repository: Repository) -> None:
    """A tag published anew while a container runs must not change the image under it."""
    old = repository.publish("registry.hub.docker.com/team/tool:1", FOO, "old")
    image = puller.run(_there(repository) + "answer(pull('team/tool:1', 'never', there=there))")
    repository.publish("registry.hub.docker.com/team/tool:1", "sha256:" + "b" * 64, "new")
    assert (Path(image["rootfs"]) / "etc/marker").read_text() == "old"
    assert image["rootfs"] == str(old)


@pytest.fixture
def tool(puller: Puller, local_registry: Registry, repository: Repository) -> Made:
    puller.http = (local_registry.address,)
    made = local_registry.push("team/tool", "1", tree("registry"), {"User": "7"})
    repository.publish("%s/team/tool:1" % local_registry.address, made.config, "cvmfs")
    return made


def test_configuration_comes_from_the_registry_once(puller: Puller, local_registry: Registry, repository: Repository, tool: Made) -> None:
    script = _there(repository) + "answer(pull('%s/team/tool:1', there=there))" % local_registry.address
    first = puller.run(script)
    assert (first["route"], first["config"]["user"]) == ("cvmfs", "7")
    assert local_registry.count(tool.layers[0]) == 0
    asked = len(local_registry.requests)
    assert puller.run(script)["config"]["user"] == "7"
    assert len(local_registry.requests) == asked


def test_always_takes_cvmfs_only_while_it_is_current(puller: Puller, local_registry: Registry, repository: Repository, tool: Made) -> None:
    script = _there(repository) + "answer(pull('%s/team/tool:1', 'always', there=there))" % local_registry.address
    assert puller.run(script)["route"] == "cvmfs"
    newer = local_registry.push("team/tool", "1", tree("newer"))
    stale = puller.run(script)
    assert (stale["route"], stale["digest"]["text"]) == ("registry", newer.manifest)
    repository.publish("%s/team/tool:1" % local_registry.address, newer.config, "republished")
    assert puller.run(script)["route"] == "cvmfs"


def test_pinned_reference_needs_proof(puller: Puller, local_registry: Registry, repository: Repository, tool: Made) -> None:
    name = "%s/team/tool" % local_registry.address
    for end in ("@" + tool.manifest, ":1@" + tool.manifest):
        refused = puller.run(_there(repository) + "answer(attempt(lambda: pull(%r, 'never', there=there)))" % (name + end))
        assert refused.get("error") == "ImageFailed", refused
        proven = puller.run(_there(repository) + "answer(pull(%r, there=there))" % (name + end))
        assert (proven["route"], proven["digest"]["text"]) == ("cvmfs", tool.config)
    manifest = local_registry.ask("GET", "/v2/team/tool/manifests/1", headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})[2]
    repository.manifest(name + ":1", manifest)
    offline = puller.run(_there(repository) + "answer(pull(%r, 'never', there=there))" % (name + ":1@" + tool.manifest))
    assert offline["route"] == "cvmfs"
    forged = manifest.replace(tool.config.encode(), b"sha256:" + b"0" * 64)
    repository.manifest(name + ":1", forged)
    for digest in (tool.manifest, "sha256:" + hashlib.sha256(forged).hexdigest()):
        got = puller.run(_there(repository) + "answer(attempt(lambda: pull(%r, 'never', there=there)))" % (name + ":1@" + digest))
        assert got.get("error") == "ImageFailed", got


def test_other_machine_needs_proof_too(puller: Puller, local_registry: Registry, repository: Repository, tool: Made) -> None:
    name = "%s/team/tool:1" % local_registry.address
    got = puller.run(_there(repository) + "answer(attempt(lambda: pull(%r, 'never', there=there, here=host(machine='riscv64'))))" % name)
    assert "riscv64" in got["text"]


def test_slow_cvmfs_is_copied_once(puller: Puller, local_registry: Registry, repository: Repository, tool: Made) -> None:
    script = _there(repository, ", cvmfs_slow=True") + "answer([pull('%s/team/tool:1', there=there), said])" % local_registry.address
    (first, told), (second, again) = puller.run(script), puller.run(script)
    assert first["form"] == second["form"] == "sif"
    assert first["rootfs"] == second["rootfs"] == str(puller.store / "images" / tool.config[7:] / "image.sif")
    assert (first["route"], first["config"]["user"], second["config"]["user"]) == ("cvmfs", "7", "7")
    assert sum("copying" in line for line in told) == 1
    assert not [line for line in again if "copying" in line]
    assert puller.left() == []


@pytest.mark.parametrize("puller", ["ordinary"], indirect=True)  # root is denied nothing
def test_unreadable_tree_is_named_with_a_hint(puller: Puller, repository: Repository) -> None:
    flat = repository.publish("registry.hub.docker.com/team/tool:1", FOO, "x")
    flat.chmod(0)
    got = puller.run(_there(repository) + "answer(attempt(lambda: pull('team/tool:1', 'never', there=there)))")
    flat.chmod(0o755)
    assert "readable for all" in got["text"]


@pytest.mark.parametrize("puller", USERS[-1:], indirect=True)
def test_dead_mount_is_given_up_by_name(puller: Puller) -> None:
    """squashfuse, stopped, stands for a CVMFS client that answers no more."""
    program = shutil.which("squashfuse", path=os.path.dirname(puller.driver.apptainer) + ":" + os.environ["PATH"])
    if program is None or not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.getuid() != 0:
        pytest.skip("only root mounts a stand-in for CVMFS here, and only with FUSE")
    source = puller.driver.folder / "source"
    (source / "registry.hub.docker.com/team").mkdir(parents=True)
    squashed = puller.driver.folder / "x.squashfs"
    maker = os.path.join(os.path.dirname(puller.driver.apptainer), "mksquashfs")
    subprocess.run([maker, str(source), str(squashed), "-quiet", "-no-progress"], check=True, timeout=60, stdout=subprocess.DEVNULL)
    point = puller.driver.folder / "cvmfs"
    point.mkdir()
    argv = ["unshare", "-m", program, "-f", str(squashed), str(point)]
    client = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while str(point) not in Path("/proc/%d/mountinfo" % client.pid).read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        client.send_signal(signal.SIGSTOP)
        script = (
            "handle = os.open('/proc/%d/ns/mnt', os.O_RDONLY)\nimport ctypes\nassert ctypes.CDLL(None).setns(handle, 0x20000) == 0\n"
            "from gha_apptainer.node.images import cvmfs_layout\nlook = cvmfs_layout.look_at\n"
            "cvmfs_layout.look_at = lambda found: look(found, 1.0)\n"
            "plan = images.plan(parse('team/tool:1'), 'never', settings(cvmfs_images=(%r,)), host())\n"
            "answer([[step.route, step.why] for step in plan.steps])"
        ) % (client.pid, str(point))
        steps = dict(puller.run(script))
        assert "did not answer within 1 s" in steps["cvmfs"]
    finally:
        client.send_signal(signal.SIGCONT)
        client.terminate()
        client.wait(20)


def test_explain_names_every_route_without_network(puller: Puller, local_registry: Registry, repository: Repository, tool: Made) -> None:
    lines = puller.run(
        _there(repository) + "from gha_apptainer.domain.image_plans import explain_lines\n"
        "answer(explain_lines(images.plan(parse('%s/team/tool:1'), 'if-not-present', there, host())))" % local_registry.address
    )
    assert [line.split()[:2] for line in lines[1:]] == [
        ["alias", "lost"], ["path", "lost"], ["cvmfs", "chosen"], ["store", "lost"], ["registry", "standby"],
    ]  # fmt: skip
    assert local_registry.requests == []
