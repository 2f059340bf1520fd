"""Root in a container where the kernel knows one id only: package managers, users and owners, in glibc, musl and static programs.

As an ordinary user the system call filter emulates what the kernel refuses; as root the ids are real. The same commands must pass.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from driving import Driver

INSTALL_LIMIT = 300.0


def private_copy(driver: Driver, tree: str) -> str:
    """The user's own copy of a shared image, as the store would hold it."""
    target = driver.images / "copy"
    subprocess.run(["cp", "-a", "--reflink=auto", tree, str(target)], check=True, timeout=INSTALL_LIMIT)
    return str(driver.own(target))


def commands(driver: Driver, root: str, *lines: str, shell: str = "/bin/sh") -> list[dict[str, Any]]:
    """What each line gives in one container with a writable layer."""
    run = ("/bin/sh", "-c") if shell == "/bin/sh" else (shell, "sh", "-c")
    script = "made = held(%r)\nsaid = []\nfor line in %r:\n    said.append(run(made, *%r, line))\nanswer(said)"
    said: list[dict[str, Any]] = driver.run(script % (root, lines, run))
    return said


def passed(said: list[dict[str, Any]]) -> list[str]:
    """Outputs, if every command succeeded and none complained of a refusal."""
    for one in said:
        assert one["code"] == 0, one
        for word in ("Operation not permitted", "Invalid argument", "Permission denied"):
            assert word not in one["err"], one
    return [one["out"] for one in said]


USERS = (
    "groupadd --system helpers",
    "useradd --create-home --shell /bin/sh --groups helpers worker",
    "chown -R worker:helpers /home/worker && chgrp helpers /opt && chmod g+s /opt",
    "install -d -o worker -g helpers -m 2750 /srv/shared && install -o nobody -g nogroup -m 640 /etc/passwd /srv/shared/copy",
    "echo worker:secret | chpasswd && passwd --status worker",
    "su worker -c 'cd && echo from-su > file && cat file'",
    "mkdir -p /tmp/t && cd /tmp/t && touch a && chown 12345:54321 a && tar -cf x.tar a && rm a && tar -xpf x.tar && test -f a",
    "mknod /tmp/pipe p && test -p /tmp/pipe",
    "usermod --append --groups adm worker && userdel worker && ! grep -q worker /etc/passwd",
)


DEVICE = "mknod /tmp/null c 1 3"


def test_users_and_owners_in_a_debian_image(driver: Driver, debian_rootfs: str) -> None:
    out = passed(commands(driver, private_copy(driver, debian_rootfs), *USERS, *[DEVICE] * driver.single))
    assert out[5] == "from-su\n"


CONTROL = "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: a thing\n"
POSTINST = """#!/bin/sh
set -e
useradd --system --home-dir /var/lib/thing thing
chown -R thing:thing /var/lib/thing
chown root:adm /var/lib/thing/data
"""
PACKAGE = (
    "mkdir -p /tmp/p/DEBIAN /tmp/p/var/lib/thing && echo data > /tmp/p/var/lib/thing/data",
    "cat > /tmp/p/DEBIAN/control <<'END'\n%sEND" % CONTROL,
    "cat > /tmp/p/DEBIAN/postinst <<'END'\n%sEND\nchmod 755 /tmp/p/DEBIAN/postinst" % POSTINST,
    "dpkg-deb --build /tmp/p /tmp/thing.deb && dpkg -i /tmp/thing.deb",
    "dpkg-query -W -f='${Status} ' thing && id thing",
    "dpkg --purge thing && test ! -e /var/lib/thing/data",
)


def test_dpkg_installs_a_package_that_makes_users_and_owners(driver: Driver, debian_rootfs: str) -> None:
    out = passed(commands(driver, private_copy(driver, debian_rootfs), *PACKAGE))
    assert out[4].startswith("install ok installed") and "thing" in out[4]


def test_apt_get_installs_from_the_archive(driver: Driver, debian_rootfs: str) -> None:
    lines = (
        "apt-get update",
        "apt-get install -y --no-install-recommends cron-daemon-common uuid-runtime",
        "dpkg-query -W -f='${Status}\\n' cron-daemon-common uuid-runtime && getent group crontab && uuidgen",
        "rm -rf /var/lib/apt/lists && mkdir /var/lib/apt/lists && ls -A /var/lib/apt/lists",
    )
    said = commands(driver, private_copy(driver, debian_rootfs), *lines)
    if said[0]["code"] and "resolv" in said[0]["err"]:
        pytest.skip("the package archive is out of reach")
    for one in said:
        assert one["code"] == 0, (one["out"][-2000:], one["err"][-2000:])
    assert said[2]["out"].splitlines()[:2] == ["install ok installed"] * 2
    assert said[3]["out"] == ""


BUSYBOX = (  # Debian's busybox has no adduser
    "busybox --install -s /bin",
    "echo helpers:x:4321: >> /etc/group && echo worker:x:1234:4321::/home/worker:/bin/sh >> /etc/passwd && mkdir -p /home/worker",
    "chown -R worker:helpers /home/worker && chgrp helpers /home && touch /tmp/x && chown 4242:4242 /tmp/x",
    "mknod /tmp/pipe p && test -p /tmp/pipe",
    "cd /tmp && mkdir t && touch t/a && chown 7:7 t/a && tar -cf t.tar t && rm -r t && tar -xpf t.tar && test -f t/a",
    "setpriv --dump >/dev/null && su worker -c 'echo from-su'",
)


def test_users_and_owners_in_a_busybox_image(driver: Driver, busybox_rootfs: str) -> None:
    out = passed(commands(driver, private_copy(driver, busybox_rootfs), *BUSYBOX, *[DEVICE] * driver.single))
    assert out[5] == "from-su\n"


MUSL = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#define TRY(call) do { if ((call) != 0) { printf("%s: %s\n", #call, strerror(errno)); failed = 1; } } while (0)
int main(void) {
    int failed = 0;
    gid_t groups[] = {5, 6};
    FILE *file = fopen("/tmp/file", "w");
    TRY(file == 0);
    TRY(symlink("file", "/tmp/link"));
    TRY(chown("/tmp/file", 12, 34));
    TRY(lchown("/tmp/link", 12, 34));
    TRY(fchown(fileno(file), 12, 34));
    TRY(mkfifo("/tmp/fifo", 0600));
    TRY(mknod("/tmp/null", S_IFCHR | 0666, makedev(1, 3)) && errno != EPERM);
    TRY(setgroups(2, groups));
    TRY(setegid(12)); TRY(setegid(0));
    TRY(seteuid(12)); TRY(seteuid(0));
    TRY(setregid(-1, 12)); TRY(setregid(-1, 0));
    TRY(setreuid(-1, 12)); TRY(setreuid(-1, 0));
    setfsgid(12); setfsgid(0); setfsuid(12); setfsuid(0);
    TRY(setresgid(12, 12, 12));
    TRY(setresuid(12, 12, 12));
    puts(failed ? "failed" : "all passed");
    return failed;
}
"""


@pytest.mark.parametrize("form", ("static", "dynamic"))
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the musl loader's name is x86_64's here")
def test_a_musl_program_is_root_too(driver: Driver, busybox_rootfs: str, debian_tool: Any, tmp_path: Path, form: str) -> None:
    """No LD_PRELOAD and no helper: what emulates root is below the C library."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler here")
    musl, headers = debian_tool("musl", "./*"), debian_tool("musl-dev", "./*")
    library, include = headers + "/usr/lib/x86_64-linux-musl", headers + "/usr/include/x86_64-linux-musl"
    source, program = tmp_path / "x.c", tmp_path / "x"
    source.write_text(MUSL)
    argv = [compiler, "-nostdinc", "-isystem", include, "-nostdlib", "-fno-stack-protector", "-fno-pie", "-no-pie", "-o", str(program)]
    libc = musl + "/lib/x86_64-linux-musl/libc.so"
    if not os.path.exists(libc):
        libc = next(str(path) for path in Path(musl).rglob("libc.so") if path.is_file())
    start = [library + "/crt1.o", library + "/crti.o", str(source)]
    if form == "static":
        argv += ["-static", *start, library + "/libc.a", library + "/crtn.o"]
    else:
        argv += ["-Wl,-dynamic-linker,/lib/ld-musl-x86_64.so.1", *start, "-L" + os.path.dirname(libc), "-l:libc.so", library + "/crtn.o"]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    root = private_copy(driver, busybox_rootfs)
    shutil.copy(program, os.path.join(root, "probe"))
    if form == "dynamic":
        os.makedirs(os.path.join(root, "lib"), exist_ok=True)
        shutil.copy(libc, os.path.join(root, "lib/ld-musl-x86_64.so.1"))
        os.chmod(os.path.join(root, "lib/ld-musl-x86_64.so.1"), 0o755)
    driver.own(Path(root))
    said = driver.run("made = held(%r)\nanswer(run(made, '/probe'))" % root)
    assert said["out"] == "all passed\n" and said["code"] == 0, said


def test_another_user_inside_is_that_user(driver: Driver, debian_rootfs: str) -> None:
    root = private_copy(driver, debian_rootfs)
    script = (
        "made = held(%r)\n"
        "run(made, 'useradd', '--uid', '4321', '--create-home', 'worker')\n"
        "answer([run(made, '/bin/sh', '-c', 'id -u; id -g; pwd; echo $HOME; touch ~/x && stat -c %%u ~/x', cwd='/home/worker', user=who) "
        "for who in ('worker', '4321', '4321:4321')])"
    )
    for one in driver.run(script % root):
        assert one["code"] == 0, one
        assert one["out"].splitlines()[0] == "4321" and one["out"].splitlines()[2] == "/home/worker", one
        assert one["out"].splitlines()[4] == "4321"
