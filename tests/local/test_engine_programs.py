"""The engine's machine code, run for real: x86_64 or aarch64 natively, the other under qemu; encodings against the GNU assembler."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import runpy
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from debian_tools import Tool

from gha_apptainer.node.engine import programs

ROOT = os.path.abspath(__file__).rsplit("/tests/local/", 1)[0]
MAKER = types.SimpleNamespace(**runpy.run_path(os.path.join(ROOT, "scripts", "build-programs"), run_name="build_programs"))
MACHINES = ("x86_64", "aarch64")
HERE = os.uname().machine
LIMIT = 60.0


def start(argv: list[str], run: list[str], **more: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*run, *argv], **more)  # type: ignore[call-overload,no-any-return]  # Popen's overloads know no bundle of options


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def runner(machine: str, debian_tool: Tool) -> list[str]:
    """Words that start a program of the machine here."""
    if machine == HERE:
        return []
    name = "qemu-%s-static" % machine
    found = shutil.which(name) or debian_tool("qemu-user-static", "./usr/bin/" + name) + "/usr/bin/" + name
    return [found]


@pytest.fixture
def program(machine: str, tmp_path: Path) -> Callable[[str], str]:
    def put(name: str) -> str:
        path = tmp_path / name
        path.write_bytes(getattr(programs.machine_programs(machine), name))
        path.chmod(0o755)
        return str(path)

    return put


@pytest.fixture
def holder(program: Callable[[str], str], runner: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    child = start([program("holder")], runner, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"SECRET": "here", "PATH": "/bin"})
    assert child.stdin and child.stdout
    assert child.stdout.read(1) == b"\n"
    yield child
    child.kill()
    child.wait(LIMIT)
    child.stdin.close()
    child.stdout.close()


def status(pid: int, field: str) -> str:
    with open("/proc/%d/status" % pid, encoding="ascii") as handle:
        return next(line.split(":", 1)[1].strip() for line in handle if line.startswith(field + ":"))


def test_the_holder_lives_until_its_standard_input_ends(holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin
    for _ in range(3):
        holder.stdin.write(b"anything\n\0")
        holder.stdin.flush()
    holder.send_signal(signal.SIGSTOP)
    holder.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    assert holder.poll() is None
    holder.stdin.close()
    assert holder.wait(LIMIT) == 137
    assert holder.stdout and holder.stdout.read() == b""


def test_the_holder_ends_with_the_process_that_holds_its_pipe(program: Callable[[str], str], runner: list[str]) -> None:
    code = (
        "import subprocess, sys, time; h = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE);"
        "h.stdout.read(1); print(h.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, *runner, program("holder")], stdout=subprocess.PIPE)
    assert owner.stdout
    pid = int(owner.stdout.readline())
    descriptor = os.pidfd_open(pid)
    try:
        owner.kill()
        owner.wait(LIMIT)
        owner.stdout.close()
        poller = select.poll()
        poller.register(descriptor, 1)
        assert poller.poll(LIMIT * 1000), "the holder outlived its owner"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("machine", [HERE], indirect=True)
def test_the_holder_shows_no_environment_and_changes_only_sigchld(holder: subprocess.Popen[bytes]) -> None:
    with open("/proc/%d/environ" % holder.pid, "rb") as handle:
        assert handle.read().strip(b"\0") == b""
    assert int(status(holder.pid, "SigIgn"), 16) & ~(1 << (signal.SIGPIPE - 1)) == 1 << (signal.SIGCHLD - 1)
    assert int(status(holder.pid, "SigCgt"), 16) == 0
    holder.send_signal(signal.SIGTERM)
    assert holder.wait(LIMIT) == -signal.SIGTERM


def test_the_holder_ends_when_it_cannot_read(program: Callable[[str], str], runner: list[str], tmp_path: Path) -> None:
    with open(tmp_path / "write-only", "wb") as handle:
        assert start([program("holder")], runner, stdin=handle, stdout=subprocess.DEVNULL).wait(LIMIT) == 137


def test_the_trampoline_hands_over_exactly(program: Callable[[str], str], runner: list[str]) -> None:
    environment = {b"A-b.c": b"x\ny\r\n", b"EMPTY": b"", b"RAW": b"\xff\xfe", b"LONG": b"v" * 120_000}
    words = [b"zero", b"", b"a b", b"$HOME", b"`id`", b"new\nline", b"\xff"]
    code = "import os,sys,json;print(json.dumps([list(map(os.fsencode, sys.argv[1:])).__repr__(), dict(os.environb).__repr__()]))"
    child = start(
        [program("trampoline"), sys.executable, "python3", "-c", code, *map(os.fsdecode, words)],
        runner,
        env=environment,
        stdout=subprocess.PIPE,
    )
    out, _ = child.communicate(timeout=LIMIT)
    assert child.returncode == 0
    got_words, got_environment = (eval(text) for text in json.loads(out))
    assert got_words == words
    got_environment.pop(b"LC_CTYPE", None)  # the interpreter's own
    assert got_environment == environment


def test_the_trampoline_gives_argv_0_as_told(program: Callable[[str], str], runner: list[str]) -> None:
    child = start([program("trampoline"), "/bin/sh", "another name", "-c", 'echo "$0"'], runner, stdout=subprocess.PIPE)
    assert child.communicate(timeout=LIMIT)[0] == b"another name\n"


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], errno.EINVAL),
        (["/bin/true"], errno.EINVAL),
        (["/nowhere/at/all", "x"], errno.ENOENT),
        (["/etc/passwd", "x"], errno.EACCES),
        (["/", "x"], errno.EACCES),
        (["/etc/passwd/x", "x"], errno.ENOTDIR),
        (["EMPTY-FILE", "x"], errno.ENOEXEC),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "-".join(value) or "none",
)
def test_the_trampoline_tells_the_errno(
    words: list[str], expected: int, program: Callable[[str], str], runner: list[str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.touch(0o755)
    words = [str(empty) if word == "EMPTY-FILE" else word for word in words]
    reader, writer = os.pipe()
    argv = [*runner, program("trampoline"), *words]
    child = os.posix_spawn(argv[0], argv, {}, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 3)])
    os.close(writer)
    with os.fdopen(reader, "rb") as handle:
        told = handle.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 127
    assert told == struct.pack("=i", expected)


@pytest.mark.skipif(HERE not in MACHINES, reason="no native program for this machine")
def test_a_script_that_names_its_own_interpreter_ends(tmp_path: Path) -> None:
    """`#!/proc/self/exe` would be the trampoline itself, over and over: each round has a word less."""
    script = tmp_path / "script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    memory = os.memfd_create("trampoline", os.MFD_CLOEXEC)
    os.write(memory, programs.machine_programs(HERE).trampoline)
    child = os.fork()
    if child == 0:
        os.execve(memory, ["x", str(script), *"abcdefgh"], {})
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 127
    os.close(memory)


@pytest.mark.parametrize("name", ("holder", "trampoline", "switcher"))
def test_the_encodings_are_the_gnu_assemblers(machine: str, name: str, debian_tool: Tool, tmp_path: Path) -> None:
    environment = dict(os.environ)
    if machine == HERE and shutil.which("as"):
        prefix = ""
    else:
        prefix = "%s-linux-gnu-" % machine.replace("_", "-")
        if not shutil.which(prefix + "as"):
            package = "binutils-%s-linux-gnu" % machine.replace("_", "-")
            folder = debian_tool(package, "./usr/*")
            prefix = "%s/usr/bin/%s" % (folder, prefix)
            environment["LD_LIBRARY_PATH"] = ":".join(sorted({str(path.parent) for path in Path(folder).rglob("libbfd-*.so")}))
    text = ".intel_syntax noprefix\n" if machine == "x86_64" else ""
    for line in MAKER.lines(MAKER.LISTINGS[machine][name]):
        text += ("%s:" % line.label if line.label else "") + " " + line.words + "\n"
    source, thing, code = (tmp_path / ("x" + ending) for ending in (".s", ".o", ".bin"))
    source.write_text(text)
    for argv in (["as", "-o", str(thing), str(source)], ["objcopy", "-O", "binary", "-j", ".text", str(thing), str(code)]):
        done = subprocess.run([prefix + argv[0], *argv[1:]], env=environment, capture_output=True, check=False, timeout=LIMIT)
        assert done.returncode == 0, done.stderr.decode()
    made = MAKER.ASSEMBLERS[machine](MAKER.LISTINGS[machine][name])
    assembled = code.read_bytes()
    assert assembled[: len(made)] == made
    assert not assembled[len(made) :].strip(b"\0"), "only padding may follow"
    assert getattr(programs.machine_programs(machine), name).endswith(made)


def test_the_call_numbers_are_libseccomps() -> None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("no libseccomp here")
    for abi in MAKER.ABIS:
        for call in MAKER.CALLS:
            number = library.seccomp_syscall_resolve_name_arch(MAKER.AUDIT[abi], call.name.encode())
            assert (number if number >= 0 else None) == call.numbers[MAKER.ABIS.index(abi)], (abi, call.name)


PROBE = """
import ctypes, json, os, stat, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
filtered, program, folder = sys.argv[1] == "filter", bytes.fromhex(sys.argv[2]), sys.argv[3]
if libc.unshare(0x10000000):
    print(json.dumps({"unshare": os.strerror(ctypes.get_errno())}))
    sys.exit()
for name, text in (("setgroups", "deny"), ("uid_map", "0 %d 1" % uid), ("gid_map", "0 %d 1" % gid)):
    with open("/proc/self/" + name, "w") as handle:
        handle.write(text)
libc.prctl(38, 1, 0, 0, 0)
if filtered:
    class Fprog(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
    install = Fprog(len(program) // 8, program)
    if libc.prctl(22, 2, ctypes.byref(install), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
os.chdir(folder)
open("file", "w").close()
os.symlink("file", "link")
said = {}
def attempt(name, call, *arguments):
    try:
        call(*arguments)
        said[name] = 0
    except OSError as error:
        said[name] = error.errno
handle = os.open("file", os.O_RDWR)
attempt("chown", os.chown, "file", 12345, 54321)
attempt("lchown", os.lchown, "link", 1, 1)
attempt("fchown", os.fchown, handle, 1, 1)
attempt("fchownat", lambda: os.chown("link", 1, 1, dir_fd=os.open(".", os.O_RDONLY), follow_symlinks=False))
attempt("mknod-char", os.mknod, "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
attempt("mknod-block", os.mknod, "disk", 0o660 | stat.S_IFBLK, os.makedev(8, 0))
attempt("mknod-fifo", os.mknod, "fifo", 0o600 | stat.S_IFIFO)
attempt("mknod-file", os.mknod, "plain", 0o600 | stat.S_IFREG)
attempt("mknodat-char", lambda: os.mknod("null2", 0o666 | stat.S_IFCHR, os.makedev(1, 3), dir_fd=os.open(".", os.O_RDONLY)))
attempt("setgroups", os.setgroups, [1, 2, 3])
attempt("setgid", os.setgid, 7)
attempt("setegid", os.setegid, 7)
attempt("setregid", os.setregid, 7, 7)
attempt("setresgid", os.setresgid, 7, 7, 7)
attempt("setuid", os.setuid, 7)
attempt("seteuid", os.seteuid, 7)
attempt("setreuid", os.setreuid, 7, 7)
attempt("setresuid", os.setresuid, 7, 7, 7)
attempt("chmod", os.chmod, "file", 0o4755)
said["files"] = sorted(os.listdir("."))
said["owner"] = [os.stat("file").st_uid, os.stat("file").st_gid]
said["ids"] = [*os.getresuid(), *os.getresgid()]
print(json.dumps(said))
"""
REFUSED_WITHOUT = {
    "chown", "lchown", "fchown", "fchownat", "mknod-char", "mknod-block", "mknodat-char",
    "setgroups", "setgid", "setegid", "setregid", "setresgid", "setuid", "seteuid", "setreuid", "setresuid",
}  # fmt: skip


@pytest.fixture
def unprivileged() -> Callable[[], None]:
    """What makes a child an ordinary user, where we are root: root's own capabilities would hide the kernel's refusals."""

    def drop() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)

    return drop


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user may enter and write, as pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o777)
        yield Path(name)


def probe(how: str, folder: Path, drop: Callable[[], None]) -> dict[str, object]:
    place = folder / how
    place.mkdir()
    place.chmod(0o777)
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") or sys.executable
    done = subprocess.run(
        [python, "-I", "-c", PROBE, how, programs.seccomp_filter(HERE).hex(), str(place)],
        preexec_fn=drop,
        capture_output=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, object] = json.loads(done.stdout)
    if "unshare" in said:
        pytest.skip("no user namespaces for ordinary users here: %s" % said["unshare"])
    return said


@pytest.mark.skipif(HERE not in MACHINES, reason="no filter for this machine")
def test_the_filter_makes_a_single_id_look_like_root(open_folder: Path, unprivileged: Callable[[], None]) -> None:
    without, within = probe("plain", open_folder, unprivileged), probe("filter", open_folder, unprivileged)
    assert {name for name, value in without.items() if isinstance(value, int) and value} == REFUSED_WITHOUT
    assert {name for name, value in within.items() if isinstance(value, int) and value} == set()
    assert without["files"] == within["files"] == ["fifo", "file", "link", "plain"]
    assert within["owner"] == [0, 0] and within["ids"] == [0] * 6


RAW = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
program = bytes.fromhex(sys.argv[1])
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
install = Fprog(len(program) // 8, program)
libc.prctl(38, 1, 0, 0, 0)
if program and libc.prctl(22, 2, ctypes.byref(install), 0, 0):
    raise OSError(ctypes.get_errno(), "seccomp")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.skipif(HERE != "x86_64", reason="32-bit calls of an x86 processor")
@pytest.mark.parametrize(
    "name, code",
    [
        ("i386", "b8d5000000 bb39300000 cd80"),  # mov eax, 213 (setuid32); mov ebx, 12345; int 0x80
        ("x32", "b869000040 bf39300000 0f05"),  # mov eax, 0x40000000 + 105 (setuid); mov edi, 12345; syscall
    ],
)
def test_the_filter_answers_32_bit_calls(name: str, code: str, open_folder: Path, unprivileged: Callable[[], None]) -> None:
    ending = "f7d8 89c7 b8e7000000 0f05"  # neg eax; mov edi, eax; exit_group
    binary = open_folder / name
    binary.write_bytes(MAKER.elf("x86_64", bytes.fromhex(code + ending)))
    binary.chmod(0o755)
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") or sys.executable
    codes = []
    for given in ("", programs.seccomp_filter(HERE).hex()):
        done = subprocess.run(
            [python, "-I", "-c", RAW, given, str(binary)], preexec_fn=unprivileged, capture_output=True, check=False, timeout=LIMIT
        )
        codes.append(done.returncode)
    if name == "i386" and codes[0] in (-signal.SIGSEGV, errno.ENOSYS):
        pytest.skip("this kernel has no 32-bit calls")
    assert codes[0] in (errno.EPERM, errno.ENOSYS)
    assert codes[1] == 0
