"""Contexts, archives and images that want out, and disks that are full: contained, or refused by name with nothing left behind."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest
from building import Builder, cached


def test_nothing_leads_out_of_the_context(builder: Builder) -> None:
    outside = builder.driver.folder / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret of the host\n")
    builder.write("FROM busybox\nCOPY link /x\n")
    for target in (str(outside / "secret"), "../outside/secret", "/etc/passwd", "../../../../../../../etc/passwd"):
        (builder.context / "link").unlink(missing_ok=True)
        (builder.context / "link").symlink_to(target)
        assert "Dockerfile:2: COPY: link is not in the build context" in builder.fails(code=71)
    for source in ("../outside/secret", "/../outside/secret", "./../../outside/secret", "../outside/*"):
        builder.write("FROM busybox\nCOPY %s /x\n" % source)
        assert "is not in the build context" in builder.fails(code=71), "above the context there is nothing"
    (builder.context / "dir").mkdir()
    (builder.context / "dir/link").symlink_to("/etc/hostname")
    (builder.context / "up").symlink_to("..")
    builder.write("FROM busybox\nCOPY dir /dir\nRUN --mount=target=/c readlink /c/link > /read && ! cat /c/up/outside/secret\n")
    builder.build()
    assert builder.sh("readlink /dir/link; cat /read") == "/etc/hostname\n../../../../../../../etc/passwd\n"
    builder.write("FROM busybox\nCOPY up/outside /x\n")
    assert "is not in the build context" in builder.fails(code=71)


def test_a_target_that_is_a_link_of_the_image_stays_inside(builder: Builder) -> None:
    outside = builder.driver.folder / "outside"
    outside.mkdir()
    builder.driver.own(outside)
    (builder.context / "dir").mkdir()
    builder.write(
        "FROM busybox\nRUN ln -s %s /out && ln -s ../../../../../..%s /up && ln -s /loop /loop "
        "&& ln -s /etc/passwd /over && mkdir /d && ln -s /etc/group /d/file\n"
        "COPY file /out/\nCOPY file /up/\nCOPY file /over\nCOPY dir/ /d/\nADD a.tar /up/\n" % (outside, outside),
        file="mine\n", dir__file="replaced\n", a_dot_tar=archive({"x": b"from the archive\n"}),
    )  # fmt: skip
    builder.build()
    assert list(outside.iterdir()) == []
    said = builder.sh("cat %s/file; cat /up/x; cat /etc/passwd; cat /d/file; test -L /d/file || echo file; cat /etc/group" % outside)
    assert said == "mine\nfrom the archive\nmine\nreplaced\nfile\nroot:x:0:\n", (
        "the target's own link is followed, one below it is replaced"
    )
    builder.write("FROM busybox\nRUN ln -s /loop /loop\nCOPY file /loop/x\n")
    assert "too many links" in builder.fails(code=74)


def archive(files: dict[str, bytes], links: dict[str, tuple[bytes, str]] | None = None) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as made:
        for name, (kind, target) in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            made.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            made.addfile(member, io.BytesIO(data))
    return raw.getvalue()


def test_archives_do_not_lead_out(builder: Builder) -> None:
    builder.write("FROM busybox\nADD a.tar /t/\n", a_dot_tar=archive({"../../etc/evil": b"x"}))
    assert "the archive names '../../etc/evil', which leads out of its target" in builder.fails(code=71)
    builder.write("FROM busybox\nADD a.tar /t/\n", a_dot_tar=archive({}, {"null": (tarfile.CHRTYPE, "")}))
    assert "holds a device, null" in builder.fails(code=71)
    outside = builder.driver.folder / "outside"
    outside.mkdir()
    builder.driver.own(outside)
    hostile = archive(
        {"link/file": b"x\n", "/abs": b"y\n"}, {"link": (tarfile.SYMTYPE, str(outside)), "pw": (tarfile.LNKTYPE, "../etc/passwd")}
    )
    builder.write("FROM busybox\nADD a.tar /t/\n", a_dot_tar=hostile)
    assert "leads out of its target" in builder.fails(code=71)
    hostile = archive({"link/file": b"x\n", "/abs": b"y\n"}, {"link": (tarfile.SYMTYPE, str(outside))})
    builder.write("FROM busybox\nADD a.tar /t/\n", a_dot_tar=hostile)
    builder.build()
    assert list(outside.iterdir()) == []
    assert builder.sh("cat %s/file /t/abs" % outside) == "x\ny\n"
    for data in (archive({"a": b"x" * 10000})[:3000], b"\x1f\x8b\x08\x00" + b"\0" * 600):
        builder.write("FROM busybox\nADD a.tar /t/\n", a_dot_tar=data)
        done = builder.call("build", "-q", str(builder.context))
        assert (done.returncode == 71 and "damaged" in done.stderr) or done.returncode == 0, done.stderr


def test_pipes_sockets_and_odd_names(builder: Builder) -> None:
    os.mkfifo(builder.context / "pipe")
    (builder.context / "odd").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(builder.context)
        server.bind("odd/socket")
        os.chdir("/")
        for name in (".wh.x", ".wh..wh..opq", "a\nb", "-rf", "$(id)", "ü", "a b"):
            (builder.context / "odd" / name).write_text(name)
        builder.write('FROM busybox\nRUN mkdir /odd && touch /odd/kept /odd/x\nCOPY pipe /pipe\nCOPY odd /odd\nCOPY ["odd/a b", "/c d"]\n')
        builder.build()
        assert all(cached(builder.build()))
    said = builder.sh("test -p /pipe && cd /odd && ls -A | wc -l; ls kept x; test -e .wh.x && test ! -e socket && cat '/c d'")
    assert said == "9\nkept\nx\na b", "what looks like a whiteout is a file like any other"


def test_large_files_with_holes_stay_small(builder: Builder) -> None:
    with (builder.context / "holes").open("wb") as file:
        file.truncate(256 << 20)
        file.seek(100 << 20)
        file.write(b"data")
    with (builder.context / "never-copied").open("wb") as file:
        file.truncate(1 << 42)
    builder.write("FROM busybox\nCOPY holes /holes\n")
    made = Path(builder.build()["rootfs"]) / "holes"
    assert made.stat().st_size == 256 << 20
    assert made.stat().st_blocks * 512 < 1 << 20
    with made.open("rb") as file:
        file.seek(100 << 20)
        assert file.read(5) == b"data\0"


def test_a_context_that_changes_while_it_is_copied_is_no_success(builder: Builder) -> None:
    """What is cached is named by its content; a file that somebody writes to must not be found under another's name."""
    builder.write("FROM busybox\nCOPY file /file\n", file="before")
    builder.driver.own(builder.context)
    answered = builder.driver.run(
        "from gha_apptainer.node.dockerfile import building, executor\n"
        "from gha_apptainer.domain.values import replace\n"
        "site = replace(settings, aliases=%r, cvmfs_images=())\nwhole = executor.place\n"
        "def place(*words):\n    whole(*words)\n    open(%r, 'w').write('after')\n"
        "executor.place = place\n"
        "try:\n    building.build_image(building.BuildOrder(%r), site, facts, lambda _: None, lambda _: None)\n    answer('built')\n"
        "except GhaError as error:\n    answer(error.what)"
        % (builder.settings["aliases"], str(builder.context / "file"), str(builder.context))
    )
    assert answered == "Dockerfile:2: COPY: files of the context changed while they were copied"
    builder.build()
    assert builder.sh("cat /file") == "after"


def test_files_that_cannot_be_read_are_named(builder: Builder) -> None:
    if not builder.driver.single:
        builder.write("FROM busybox\nCOPY closed /closed\n", closed="x")
        (builder.context / "closed").chmod(0)
        builder.build()
        return
    builder.write("FROM busybox\nCOPY closed /closed\n", closed="x")
    environ = builder.environ()
    os.chown(builder.context / "closed", 0 if os.getuid() == 0 else os.getuid(), -1)
    (builder.context / "closed").chmod(0)
    done = subprocess.run(
        builder.argv("build", "-q", str(builder.context)), env=environ, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 71
    assert "closed cannot be read" in done.stderr


def test_what_is_ignored_is_not_there(builder: Builder) -> None:
    builder.write(
        "FROM busybox\nCOPY . /all/\nRUN --mount=target=/c ls -A /c > /seen\n",
        _dot_dockerignore="# comment\n*.log\n!keep.log\nsub/**/deep\nnode_modules\nDockerfile\n.dockerignore\n",
        a_dot_log="x", keep_dot_log="x", sub__one__deep__file="x", sub__one__shallow="x", node_modules__m="x", big="x",
    )  # fmt: skip
    first = builder.build()
    said = builder.sh("cd /all && find . -type f | sort; cat /seen").split()
    assert said == ["./big", "./keep.log", "./sub/one/shallow", "big", "keep.log", "sub"]
    builder.file("other.log", "changes nothing")
    assert builder.build()["digest"] == first["digest"]
    builder.write("FROM busybox\nCOPY a.log /x\n")
    assert "excluded by .dockerignore" in builder.fails(code=71)
    builder.file("Dockerfile.dockerignore", "keep.log\n")
    builder.build()


def test_a_file_may_not_name_directories_of_the_machine(builder: Builder) -> None:
    for line in ("FROM /etc", "FROM ./x", "FROM busybox\nCOPY --from=/etc passwd /x", "FROM busybox\nRUN --mount=from=/etc,target=/x true"):
        builder.write(line + "\n")
        text = builder.fails(code=72)
        assert "is a path, and a build may not take files of this machine" in text
        assert "Dockerfile:%d" % (line.count("\n") + 1) in text


def test_a_command_sees_nothing_of_the_host(builder: Builder) -> None:
    builder.file("../beside", "host\n")
    builder.write(
        "FROM busybox\nRUN test ! -e %s && test ! -e %s && env | grep -q '^PATH=' "
        "&& ! env | grep -q GHA_\n" % (builder.driver.folder, "/work")
    )  # fmt: skip
    builder.build()


@pytest.mark.parametrize("instruction", ["RUN dd if=/dev/zero of=/big bs=1M count=64", "COPY big /big", "WORKDIR /a/b"])
def test_a_full_disk_is_one_clear_error(builder: Builder, instruction: str) -> None:
    """The state lies on a file system of a few megabytes that only the build sees."""
    builder.write("FROM busybox\n%s\n" % instruction, big=b"x" * (48 << 20))
    script = (
        "import ctypes, os, sys\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "uid, gid = os.getuid(), os.getgid()\n"
        "if uid:\n"
        "    assert not libc.unshare(0x10020000)\n"
        "    for name, text in (('setgroups', 'deny'), ('uid_map', '%d %d 1' % (uid, uid)), ('gid_map', '%d %d 1' % (gid, gid))):\n"
        "        open('/proc/self/' + name, 'w').write(text)\n"
        "else:\n    assert not libc.unshare(0x20000)\n"
        "assert not libc.mount(None, b'/', None, 0x44000, None)\n"
        "assert not libc.mount(b'tmpfs', os.environb[b'GHA_APPTAINER_STATE'], b'tmpfs', 0, b'mode=700,size=24m'), ctypes.get_errno()\n"
        "os.mkdir(os.environ['GHA_APPTAINER_STATE'] + '/fill')\n"
        "if 'WORKDIR' in sys.argv[2]:\n"
        "    try:\n        open(os.environ['GHA_APPTAINER_STATE'] + '/fill/x', 'wb')"
        ".write(b'x' * (23 << 20))\n    except OSError:\n        pass\n"
        ""
        "src = sys.argv[1]\nsys.argv = ['', 'build', '-q', sys.argv[3]]\nsys.path.insert(0, src)\n"
        "from gha_apptainer.node.main import main\nsys.exit(main())\n"
    )
    environ = builder.environ()
    done = subprocess.run(
        builder.driver.argv("-c", script, str(Path(__file__).parents[2] / "src"), instruction, str(builder.context)),
        env=environ, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode in (76, 79), done.stderr
    assert "no space" in done.stderr.lower() or "No space left" in done.stderr, done.stderr
    assert done.stdout == ""
