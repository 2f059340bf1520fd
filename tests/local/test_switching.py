"""Changing the user for good inside a container with one id, and what is left to the programs that were there."""

# ruff: noqa: E501  # scripts for other processes stand here line by line

from __future__ import annotations

import os
import shutil

import pytest
from driving import Driver, linked_usr
from talking import TALK

ORIGINAL = '#!/bin/sh\necho original "$0" "$@"\n'
WHO = 'echo $(id -u):$(id -g) $HOME "$@"'


@pytest.fixture
def root(driver: Driver) -> str:
    tree = linked_usr(driver.images / "linked")
    (tree / "usr").rmdir()
    (tree / "usr/local/bin").mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        if os.path.isdir("/usr/" + name):
            (tree / name).unlink(missing_ok=True)
            (tree / name).mkdir()
    (tree / "bin/sh").touch()
    for name in ("gosu", "setpriv"):
        (tree / "usr/local/bin" / name).write_text(ORIGINAL)
        (tree / "usr/local/bin" / name).chmod(0o755)
    (tree / "usr/local/bin/su-exec").symlink_to("../../../opt/box")
    (tree / "opt/box").write_text(ORIGINAL)
    (tree / "opt/box").chmod(0o755)
    return str(driver.own(tree))


def asked(driver: Driver, root: str, *lines: str, user: str = "") -> list[str]:
    """What each line of shell says, in one container in which users are switched."""
    found: list[str] = driver.run(
        TALK
        + "mounts = tuple(Mount(source=one, target=one, read_only=True) for one in ('/usr/bin', '/usr/lib', '/usr/lib64', '/bin', '/lib', '/lib64') if os.path.isdir(one))\n"
        "main = ExecRequest(argv=('/bin/sleep', '60'), env=PATH)\n"
        "made = engine.create(spec(%r, main=main, mounts=mounts, switch_users=True))\n"
        "engine.start(made)\n"
        "answer([(lambda x: x['out'] + x['err'] + ('|%%d' %% x['code'] if x['code'] else ''))(run(made, '/bin/sh', '-c', line, user=%r)) for line in %r])"
        % (root, user, lines)
    )
    return found


def test_the_user_is_another_one_for_good(driver: Driver, root: str) -> None:
    lines = [
        "gosu worker sh -c '%s' x a 'b  c'" % WHO,
        "gosu 1234:0 id",
        "gosu 77 sh -c '%s'" % WHO,
        "su-exec worker:77 id -u; su-exec worker:77 id -g",
        "HOME=/root setpriv --reuid=worker --regid=worker --clear-groups --no-new-privs -- sh -c '%s' x y" % WHO,
        "setpriv --reuid worker --inh-caps=-all id -u",
        "touch /tmp/mine; gosu worker sh -c 'stat -c %u /tmp/mine; touch /tmp/his; chown root /tmp/his'; stat -c %u /tmp/his",
        "gosu worker sh -c 'gosu worker id -u'",
        "gosu root id -u",
        "gosu worker nope",
        "gosu nobody-here id",
        "gosu worker sh -c 'kill -9 $$'",
        "gosu worker sh -c 'exit 7'",
        "gosu --version",
        "gosu worker",
        "setpriv --dump x",
        "setpriv --reuid=worker --pdeathsig=KILL id",
    ]
    said = asked(driver, root, *lines)
    if not driver.single:
        assert all(one.startswith("original") for one in said if one and not one[0].isdigit()), said
        return
    kept = "/.singularity.d/gha-apptainer/"
    assert said[:9] == [
        "1234:1234 /opt a b  c\n",
        "uid=1234(worker) gid=0(root) groups=0(root)\n",
        "77:0 /\n",
        "1234\n77\n",
        "1234:1234 /root y\n",
        "1234\n",
        "1234\n0\n",
        "original %sgosu worker id -u\n" % kept,
        "0\n",
    ]
    assert said[9].endswith("|127")
    assert said[10] == "gosu: unable to find user nobody-here\n|1"
    assert said[11].endswith("|137")
    assert said[12] == "|7"
    assert said[13:] == [
        "original %sgosu --version\n" % kept,
        "original %sgosu worker\n" % kept,
        "original %ssetpriv --dump x\n" % kept,
        "original %ssetpriv --reuid=worker --pdeathsig=KILL id\n" % kept,
    ]


def test_who_is_not_root_gets_the_program_that_was_there(driver: Driver, root: str) -> None:
    said = asked(driver, root, "gosu root id", "su-exec root id", user="worker")
    words = ["original", "root", "id"]
    assert [[word for word in one.split() if not word.startswith("/")] for one in said] == [words, words]


def test_busyboxs_shell_and_setpriv_do_it_too(driver: Driver, busybox_rootfs: str) -> None:
    tree = driver.images / "busybox"
    shutil.copytree(busybox_rootfs, tree, symlinks=True)
    (tree / "sbin/su-exec").write_text(ORIGINAL)
    (tree / "sbin/su-exec").chmod(0o755)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nworker:x:1234:1234::/opt:/bin/sh\n")
    said = driver.run(
        TALK + "main = ExecRequest(argv=('/bin/sleep', '60'), env=PATH)\n"
        "made = engine.create(spec(%r, main=main, switch_users=True))\n"
        "engine.start(made)\n"
        "answer([run(made, '/bin/sh', '-c', line)['out'] for line in (\"su-exec worker sh -c 'id -u; echo $HOME'\", 'busybox id -u')])"
        % str(driver.own(tree))
    )
    assert said == (["1234\n/opt\n", "0\n"] if driver.single else ["original /sbin/su-exec worker sh -c id -u; echo $HOME\n", "0\n"])
