"""Builds for real: every instruction that touches files, the cache, and what a person is told when one fails."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from building import Builder, cached
from registries import Registry, tree

TWO_STAGES = """
ARG BASE=busybox
FROM ${BASE} AS compile
ARG LEVEL=1
COPY source/ /source/
RUN mkdir /made && tr a-z A-Z < /source/text > /made/text && echo "level $LEVEL" >> /made/text
FROM busybox AS unused
RUN exit 9
FROM busybox
ENV GREETING="hello world" WHERE=/srv/app
WORKDIR $WHERE
COPY --from=compile /made/ ./
RUN echo "$GREETING" > greeting && rm -r /var && mkdir /var && touch /var/new && rm /bin/vi
ENTRYPOINT ["cat"]
CMD ["/srv/app/text"]
"""


@pytest.mark.case("hooks-47")
def test_copy_run_arg_and_two_stages_cached_by_content(builder: Builder) -> None:
    builder.write(TWO_STAGES, source__text="some words\n")
    first = builder.build("--build-arg", "LEVEL=7")
    assert cached(first) == [False] * 5
    assert builder.run() == "SOME WORDS\nlevel 7\n"
    said = builder.sh("pwd; cat greeting; ls -d /var/*; test ! -e /bin/vi && test ! -e /source && echo gone")
    assert said.split("\n") == ["/srv/app", "hello world", "/var/new", "/var/tmp", "gone", ""]

    again = builder.build("--build-arg", "LEVEL=7")
    assert cached(again) == [True] * 5
    assert again["digest"] == first["digest"]
    os.utime(builder.context / "source/text", (1, 1))
    assert all(cached(builder.build("--build-arg", "LEVEL=7"))), "times of files do not count"
    other = builder.build("--build-arg", "LEVEL=8")
    assert cached(other) == [True, False, True, False, False]
    assert builder.run() == "SOME WORDS\nlevel 8\n"
    (builder.context / "source/text").chmod(0o600)
    assert not cached(builder.build("--build-arg", "LEVEL=7"))[0], "modes of files count"
    builder.file("source/text", "other words\n")
    builder.build("--build-arg", "LEVEL=7")
    assert builder.run() == "OTHER WORDS\nlevel 7\n"
    assert builder.left() == []


def test_an_image_can_be_built_from_and_its_triggers_run(builder: Builder) -> None:
    builder.write(
        'FROM busybox\nSHELL ["/bin/sh", "-e", "-c"]\nENV A=1\nONBUILD COPY word /word\nONBUILD RUN cat /word >> /seen\n', word="x\n"
    )
    found = builder.build(tag="parent")
    assert found["config"]["onbuild"] == ["COPY word /word", "RUN cat /word >> /seen"]
    builder.write("FROM busybox\nONBUILD COPY --from=made /made /\n")
    builder.build(tag="taking")
    builder.write("FROM busybox AS made\nRUN echo of-a-stage > /made\nFROM taking\n")
    builder.build()
    assert builder.sh("cat /made") == "of-a-stage\n", "a stage that only a trigger names is built"
    builder.write("FROM busybox\nCOPY --from=later /x /x\nFROM busybox AS later\nFROM busybox\nCOPY --from=0 /x /x\n")
    assert "Dockerfile:2: COPY: stage later is not before this one" in builder.fails(code=71)
    builder.write("FROM parent\nRUN false; echo never\n")
    text = builder.fails(code=76)
    assert "Dockerfile:2: RUN false; echo never: ended with exit code 1" in text
    builder.write("FROM parent\nRUN echo $A >> /seen\n")
    builder.build()
    assert builder.sh("cat /seen") == "x\n1\n"
    assert builder.build()["config"]["onbuild"] == []


def test_a_command_that_fails_is_told_with_file_line_command_and_exit_code(builder: Builder) -> None:
    builder.write("FROM busybox\n\nRUN echo before && \\\n    echo why >&2 && exit 3\n")
    text = builder.fails("-t", "never", code=76)
    assert "Dockerfile:3: RUN echo before && echo why >&2 && exit 3: ended with exit code 3" in text
    assert "it said: before\nwhy" in text
    assert builder.call("run", "--rm", "never", "true").returncode == 125
    builder.write("FROM busybox\nRUN kill -9 $$\n")
    assert "killed by signal 9" in builder.fails(code=76)
    builder.write("FROM busybox\nUSER nosuch\nRUN true\n")
    assert "unable to find user nosuch" in builder.fails(code=76)
    builder.write('FROM busybox\nRUN ["/nosuch"]\n')
    assert "exit code 127" in builder.fails(code=76)


def test_user_directory_and_owners(builder: Builder) -> None:
    builder.write(
        "FROM busybox\nRUN echo 'worker:x:1234:1300::/srv/worker:/bin/sh' >> /etc/passwd && mkdir -p /srv/worker "
        "&& chown 1234 /srv/worker\n"
        "COPY --chown=worker --chmod=640 file /owned/\nCOPY --chmod=u+x,g-r file /symbolic\nCOPY --chown=12:34 file /numbers\n"
        "USER worker\nWORKDIR /srv/worker\nRUN id -u > mine && id -g >> mine && echo $HOME >> mine\n",
        file="x",
    )
    found = builder.build()
    assert found["config"]["user"] == "worker"
    said = builder.sh("cat mine; stat -c '%a' /owned/file /symbolic; id -u")
    mode = 0o644
    assert said.splitlines() == ["1234", "1300", "/srv/worker", "640", "%o" % (mode & ~0o040 | 0o100), "1234"]
    if not builder.driver.single:
        assert builder.sh("stat -c '%u:%g' /owned/file /owned /numbers").split() == ["1234:1300", "1234:1300", "12:34"]
    builder.write("FROM busybox\nCOPY --chown=nosuch file /x\n")
    assert "Dockerfile:2: COPY: --chown=nosuch: the image knows no user nosuch" in builder.fails(code=71)


def test_directories_and_wildcards(builder: Builder) -> None:
    builder.write(
        "FROM busybox\nRUN mkdir -m 711 /there\nCOPY a /there\nCOPY a /new/deep\nCOPY a/one* b/*/x? /many/\n"
        "COPY --parents a/sub/two ./b/./one/x1 /whole/\n"
        "COPY --exclude=sub --exclude=*.o a /some\nCOPY a/one.c /file\nCOPY a/one.c /there/\n",
        **{"a__one.c": "1", "a__one.o": "1", "a__sub__two": "2", "b__one__x1": "3", "b__two__x2": "4"},
    )
    (builder.context / "a").chmod(0o750)
    (builder.context / "a/sub").chmod(0o705)
    first = builder.build()
    said = builder.sh(
        "stat -c %a /there /new /new/deep /new/deep/sub /there/sub; find /there /new /many /whole /some /file -type f | sort"
    ).split()
    assert said[:5] == ["711", "755", "750", "705", "705"], "what is there keeps its mode, what is made takes after its source"
    assert said[5:] == [
        "/file", "/many/one.c", "/many/one.o", "/many/x1", "/many/x2", "/new/deep/one.c", "/new/deep/one.o", "/new/deep/sub/two",
        "/some/one.c", "/there/one.c", "/there/one.o", "/there/sub/two", "/whole/a/sub/two", "/whole/one/x1",
    ]  # fmt: skip
    (builder.context / "a").chmod(0o700)
    assert builder.build()["digest"] != first["digest"]
    builder.write("FROM busybox\nCOPY nothing* /x/\n")
    assert "Dockerfile:2: COPY: nothing* is not in the build context" in builder.fails(code=71)
    builder.write("FROM busybox\nCOPY a /bin/busybox\n")
    assert "there is a file on the way" in builder.fails(code=71)
    builder.write("FROM busybox\nCOPY a/one.c /etc\nCOPY a/* /there\n")
    assert "Dockerfile:3: COPY: several sources need a target that is a directory" in builder.fails(code=71)


def test_here_documents(builder: Builder) -> None:
    builder.write(
        "FROM busybox\nENV A=1\n"
        'RUN <<EOF\nset -e\necho "shell $A" > /one\nEOF\n'
        "RUN cat <<X > /two && cat <<'Y' >> /two\n$A\nX\n$A\nY\n"
        'RUN <<EOF\n#!/bin/awk -f\nBEGIN { print "script" > "/three" }\nEOF\n'
        "COPY <<first.txt <<\"second.txt\" /files/\nit's $A\nfirst.txt\nit's $A\nsecond.txt\n"
    )  # fmt: skip
    builder.build()
    assert builder.sh("cat /one /two /three /files/*").splitlines() == ["shell 1", "1", "$A", "script", "it's 1", "it's $A"]


def test_mounts_of_run(builder: Builder) -> None:
    builder.write(
        "FROM busybox AS tools\nRUN mkdir /t && echo tool > /t/name\nFROM busybox\nWORKDIR /w\n"
        "RUN --mount=type=bind,target=/ctx --mount=from=tools,source=/t,target=/t,rw cat /ctx/word /t/name > got "
        "&& touch /t/x && ! touch /ctx/x 2>/dev/null\n"
        "RUN --mount=type=cache,target=/cache,id=c echo line >> /cache/lines && wc -l < /cache/lines > count\n"
        "RUN --mount=type=tmpfs,target=/mem,size=1m df /mem | tail -1 | grep -q tmpfs "
        "&& ! dd if=/dev/zero of=/mem/big bs=1M count=2 2>/dev/null\n"
        "RUN --mount=type=secret,id=word,required --mount=type=secret,id=v,env=WORD cat /run/secrets/word > secrets "
        "&& echo $WORD >> secrets\n"
        "RUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n"
        "RUN --network=none ! ip link | grep -v lo: | grep -q UP\n",
        word="from the context\n", _dot_dockerignore="hidden\n", hidden="no\n",
    )  # fmt: skip
    secret = builder.file("../secret", "s3cret\n")
    secret.chmod(0o644)
    words = ("--secret", "id=word,src=%s" % secret, "--secret", "id=v,env=SECRET_WORD")
    builder.build(*words)
    said = builder.sh("cat got count secrets; ls -d /ctx /t /cache /mem /run/secrets 2>/dev/null; true").splitlines()
    assert said == ["from the context", "tool", "1", "s3cret", "from-a-variable"]
    assert builder.build("--no-cache", *words)["steps"]
    assert builder.sh("cat count").strip() == "2", "a cache is kept from build to build"
    found = b"".join(path.read_bytes() for path in builder.store.rglob("*.json") if path.is_file())
    assert b"s3cret" not in found
    assert b"from-a-variable" not in found
    text = builder.fails(code=71)
    assert "Dockerfile:8: RUN: the secret word is not given" in text


def test_add_unpacks_archives_and_fetches_addresses(builder: Builder, front: str) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, data in (("top/file", b"inside\n"), ("top/.wh.file", b"no whiteout\n")):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o640
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("top/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (builder.driver.folder / "www/a.tar.gz").write_bytes(raw.getvalue())
    digest = hashlib.sha256(raw.getvalue()).hexdigest()
    address = front + "/a.tar.gz"
    builder.write(
        "FROM busybox\nADD packed.data /un/\nADD --checksum=sha256:%s %s /fetched/\nADD --unpack=true %s /far/\n"
        "ADD --unpack=false packed.data /kept\nADD plain.gz /plain.gz\n" % (digest, address, address),
        packed_dot_data=raw.getvalue(), plain_dot_gz=gzip.compress(b"no archive"),
    )  # fmt: skip
    builder.build()
    said = builder.sh(
        "cat /un/top/file /un/top/.wh.file; readlink /un/top/link; stat -c %a /fetched/a.tar.gz /un/top/file"
        "; ls /far/top; gunzip -c /plain.gz"
    )
    assert said.split() == ["inside", "no", "whiteout", "/etc/passwd", "600", "640", "file", "link", "no", "archive"]
    assert cached(builder.build()) == [True] * 5
    builder.write("FROM busybox\nADD --checksum=sha256:%s %s /x\n" % ("0" * 64, address))
    assert "something else than was asked for" in builder.fails(code=76)
    builder.write("FROM busybox\nADD %s /x\n" % (front + "/nosuch"))
    assert "answers 404" in builder.fails(code=71)


def test_metadata_becomes_the_configuration(builder: Builder) -> None:
    builder.write(
        'FROM busybox\nLABEL a=1 b="two words"\nEXPOSE 80 53/udp\nVOLUME /data\nSTOPSIGNAL INT\nUSER 12:34\n'
        "HEALTHCHECK --interval=5s --retries=2 CMD test -e /ok\nCMD echo $HOME\n"
    )  # fmt: skip
    config = builder.build("--label", "c=3", "--iidfile", str(builder.driver.folder / "id"))["config"]
    assert config["labels"] == [["a", "1"], ["b", "two words"], ["c", "3"]]
    assert (config["ports"], config["volumes"], config["stop_signal"], config["user"]) == (
        ["53/udp", "80/tcp"],
        ["/data"],
        "SIGINT",
        "12:34",
    )
    assert config["healthcheck"]["test"] == ["CMD-SHELL", "test -e /ok"]
    assert config["cmd"] == ["/bin/sh", "-c", "echo $HOME"]
    assert (builder.driver.folder / "id").read_text().startswith("sha256:")


def test_an_image_outside_the_store_is_copied_once(builder: Builder, busybox_rootfs: str) -> None:
    """A user cannot lay a layer over files of root's; and nobody's files but the store's may be shared by hard links."""
    builder.settings["aliases"]["busybox"] = builder.driver.show(busybox_rootfs)
    builder.write("FROM busybox\nRUN rm -rf /bin/vi && echo changed > /etc/group\n")
    first = builder.build()
    assert "copying it once for builds" in first["talk"]
    assert builder.sh("cat /etc/group; ls /bin/vi 2>/dev/null; true") == "changed\n"
    builder.write("FROM busybox\nRUN echo again > /etc/group\n")
    second = builder.build()
    assert "copying it once for builds" not in second["talk"]
    programs = [Path(top) / "bin/busybox" for top in (first["rootfs"], second["rootfs"], busybox_rootfs)]
    numbers = [path.stat().st_ino for path in programs]
    assert numbers[0] == numbers[1] != numbers[2]
    assert programs[2].stat().st_nlink == 1


def test_builds_of_one_file_at_once_do_the_work_once(builder: Builder) -> None:
    builder.write("FROM busybox\nRUN sleep 2; cat /proc/sys/kernel/random/uuid > /id\n")
    children = [builder.start("build", "-q", "-t", "made%d" % number, str(builder.context)) for number in range(4)]
    digests = {child.communicate(timeout=60)[0] for child in children}
    assert [child.returncode for child in children] == [0] * 4
    assert len(digests) == 1
    assert len(list((builder.store / "images").iterdir())) == 1
    assert len([path for path in (builder.store / "layers").iterdir() if path.is_dir()]) == 2, "the command's, and the base's copy"
    assert builder.left() == []


def test_a_build_that_is_killed_leaves_nothing_that_the_next_one_does_not_remove(builder: Builder) -> None:
    builder.write("FROM busybox\nRUN echo one > /one\nRUN sleep 30 && touch /never\n")
    child = builder.start("build", "-t", "made", str(builder.context))
    assert child.stderr is not None
    seen = b""
    while b"sleep 30" not in seen:
        seen += child.stderr.readline()
    time.sleep(0.5)
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 30
    while builder.driver.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert builder.driver.processes() == []
    builder.write("FROM busybox\nRUN echo one > /one\nRUN touch /second\n")
    assert cached(builder.build()) == [True, False]
    assert builder.left() == []
    assert builder.call("ps", "-aq").stdout == ""


def test_killed_at_any_moment(builder: Builder) -> None:
    """Copying the base, in a command, in COPY, while the image is written: the next build always finds what it needs and the same image."""
    text = "FROM busybox AS a\nRUN echo %s > /a\nCOPY big /big\nFROM busybox\nCOPY --from=a /a /big /\nRUN wc -c /big > /size\n"
    builder.write(text % "first", big=b"x" * (8 << 20))
    began = time.monotonic()
    builder.build()
    whole = time.monotonic() - began
    for number in range(5):
        builder.write(text % number)
        child = builder.start("build", "-q", "-t", "made", str(builder.context))
        time.sleep(whole * (number + 1) / 6)
        child.kill()
        child.communicate()
        done = builder.build()
        assert builder.sh("cat /a /size").split() == [str(number), str(8 << 20), "/big"]
        assert builder.build()["digest"] == done["digest"]
    assert builder.left() == []


def test_collection_removes_layers_and_caches_that_nobody_uses(builder: Builder) -> None:
    builder.write("FROM busybox\nRUN --mount=type=cache,target=/c touch /c/x /made\n")
    builder.build()
    old = time.time() - 90 * 86400
    for path in builder.store.rglob("used"):
        os.utime(path, (old, old))
    done = builder.call("image", "gc", "--unused-for", "30")
    assert done.returncode == 0, done.stderr
    assert [path for part in ("layers", "caches", "images") for path in (builder.store / part).iterdir()] == []
    assert cached(builder.build()) == [False]


def test_a_build_that_is_cancelled_ends_its_command_and_leaves_nothing(builder: Builder) -> None:
    builder.write("FROM busybox\nRUN trap 'exit 0' TERM; echo ready; sleep 30 & wait\n")
    child = builder.start("build", "-t", "made", str(builder.context))
    assert child.stderr is not None
    while b"ready" not in child.stderr.readline().replace(b"echo ready", b""):
        pass
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 76
    assert "cancelled by SIGTERM" in said, "a command that ends with 0 when it is asked to stop has not done its work"
    assert builder.left() == []
    assert builder.call("run", "--rm", "made", "true").returncode == 125


SCRIPTED = """
from gha_apptainer.domain.values import replace
from gha_apptainer.node import dockerfile
from gha_apptainer.node.dockerfile import building
said = []
site = replace(settings, aliases=%r, cvmfs_images=())
def build(here, **more):
    return building.build_image(building.BuildOrder(%r, tags=("made",), **more), site, here, lambda _ref: None, said.append)
"""


def scripted(builder: Builder, script: str) -> Any:
    builder.environ()
    return builder.driver.run(SCRIPTED % (builder.settings["aliases"], str(builder.context)) + script)


def test_without_fuse_and_without_overlay(builder: Builder) -> None:
    """A machine without /dev/fuse builds as any other; one without the kernel's overlay in whole copies."""
    builder.write(
        "FROM busybox\nRUN rm -r /var && mkdir /var && echo a > /tmp/a && echo x >> /etc/hosts\nCOPY f /f\nRUN mkdir /new && rm /bin/vi\n",
        f="x",
    )
    answered = scripted(
        builder,
        "bare = replace(facts, fuse_reason='none here', squashfuse='', fuse_overlayfs='')\n"
        "first = build(bare)\n"
        "building.overlay_probe = lambda *_: 'not on this kernel'\n"
        "second, third = build(bare), build(bare)\n"
        "trees = [sorted(path for path, _, _ in os.walk(one.image.rootfs)) for one in (first, second)]\n"
        "told = [[step.cached for step in one.steps] for one in (first, second, third)]\n"
        "answer([told, first.image.rootfs, second.image.rootfs, third.image.rootfs, said])",
    )
    told, first, second, third, said = answered
    assert told == [[False] * 3, [False] * 3, [True] * 3]
    assert second == third != first
    assert any("every layer will be a whole copy" in line for line in said)
    trees = [
        {
            str(path.relative_to(top)): path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            for path in Path(top).rglob("*")
        }
        for top in (first, second)
    ]
    assert trees[0] == trees[1]
    assert trees[0]["tmp/a"] == b"a\n"
    assert b"x" not in trees[0]["etc/hosts"], "names are the machine's, as with Docker"
    assert "bin/vi" not in trees[0]
    assert "var/tmp" not in trees[0]


def test_others_call_it_as_a_function(builder: Builder) -> None:
    builder.write("FROM busybox\nARG A\nRUN echo $A > /a\n")
    found = scripted(
        builder,
        "image = dockerfile.build(%r, '', {'A': '5'}, settings=site, host=facts, tags=('x:1',), labels=(('l', '1'),), tell=said.append)\n"
        "answer([image.reference, image.form, image.route, image.digest.kind, open(image.rootfs + '/a').read(), len(said)])"
        % str(builder.context),
    )
    assert found[:5] == ["docker://docker.io/library/x:1", "sandbox", "build", "build", "5\n"]
    assert found[5] > 2


def test_tags_that_another_route_serves_are_refused(builder: Builder) -> None:
    builder.write("FROM busybox\n")
    done = builder.call("build", "-t", "busybox", str(builder.context))
    assert done.returncode == 72
    assert "that name is served by route alias here" in done.stderr
    assert builder.call("build", "-t", "x@sha256:" + "0" * 64, str(builder.context)).returncode == 71
    for context in ("-", "https://github.com/OWNER/x.git"):
        assert builder.call("build", context).returncode == 72
    assert builder.call("build", str(builder.context / "nosuch")).returncode == 71


def test_a_base_from_a_registry_and_files_of_another_image(builder: Builder, local_registry: Registry) -> None:
    configuration = {"Env": ["FROM_BASE=1"], "OnBuild": ["ENV TRIGGERED=1"], "Shell": ["/bin/sh", "-ec"]}
    local_registry.push("team/other", "1", tree("of another image"))
    made = local_registry.push("team/base", "1", tree("base"), configuration)
    builder.settings["registries_http"] = [local_registry.address]
    builder.write(
        "FROM %(at)s/team/base:1\nCOPY --from=%(at)s/team/other:1 /etc/marker /copied\nCOPY --from=busybox /bin/busybox /bin/sh\n"
        "RUN test $FROM_BASE = 1 && test $TRIGGERED = 1\nCMD a\n" % {"at": local_registry.address}
    )
    found = builder.build()
    assert found["config"]["cmd"] == ["/bin/sh", "-ec", "a"]
    assert (Path(found["rootfs"]) / "copied").read_text() == "of another image"
    assert (Path(found["rootfs"]) / "etc/marker").read_text() == "base"
    requests = len(local_registry.requests)
    assert builder.build()["digest"] == found["digest"]
    assert len(local_registry.requests) == requests, "a warm build asks nobody"
    moved = local_registry.push("team/base", "1", tree("newer"), configuration)
    assert moved.manifest != made.manifest
    assert (Path(builder.build("--pull")["rootfs"]) / "etc/marker").read_text() == "newer"


def test_users_and_owners_in_a_debian_image(builder: Builder, debian_rootfs: str) -> None:
    builder.settings["aliases"]["debian"] = builder.driver.show(debian_rootfs)
    builder.write(
        "FROM debian AS users\nRUN groupadd -r helpers && useradd -m -d /srv/worker -G helpers worker\n"
        "RUN chown -R worker:helpers /srv/worker && "
        "install -d -o worker -m 2750 /srv/x\nCOPY --chown=worker:helpers f /srv/worker/f\nUSER worker\nWORKDIR /srv/worker\n"
        "RUN test $(id -un) = worker && test $(id -gn) = worker && test -O f && echo more >> f && touch mine && python3 -c 'import os'\n"
        "FROM users\nUSER root\nRUN usermod -s /bin/bash worker && chpasswd <<'EOF'\nworker:word\nEOF\n",
        f="file\n",
    )
    builder.build()
    said = builder.sh(
        "grep -c worker /etc/passwd /etc/shadow /etc/group; cat /srv/worker/f; stat -c %a /srv/x; stat -c %U /srv/worker/mine"
    )
    owner = "root" if builder.driver.single else "worker"
    assert said.split() == ["/etc/passwd:1", "/etc/shadow:1", "/etc/group:2", "file", "more", "2750", owner]
    if not builder.driver.single:
        assert builder.sh("stat -c %U:%G /srv/worker/f /srv/worker").split() == ["worker:helpers", "worker:helpers"]
