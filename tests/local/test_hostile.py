"""A hostile image and hostile processes in a container, against joiner, monitor and holder; and what a joined command starts with.

The sentinel stands in the environment, the memory, the descriptors and the key ring of whoever calls the engine. It must never be
seen inside. https://nvd.nist.gov/vuln/detail/CVE-2019-5736 and CVE-2024-21626 are the classes of attack.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from driving import SRC, Driver, linked_usr

from gha_apptainer.node.engine import programs

SENTINEL = "sentinel-1f0d9c6b"
DOCKER_BITS = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
USR = "mounts=USR"

pytestmark = pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="no /usr/bin/python3 to attack with")


@pytest.fixture
def root(driver: Driver) -> str:
    """An image whose /usr is the host's, read-only: every program of the host to attack with."""
    return str(driver.own(linked_usr(driver.images / "usr")))


LOOK = r"""
import ctypes, json, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
sentinel, seconds = sys.argv[1].encode(), float(sys.argv[2])
me, seen, found, writable = os.getpid(), set(), [], []
def text(path, limit=1 << 22):
    with open(path, "rb") as handle:
        return handle.read(limit)
def memory(pid):
    parts = []
    for line in text("/proc/%d/maps" % pid).splitlines():
        span, mode = line.split()[:2]
        if mode.startswith(b"rw"):
            first, last = (int(part, 16) for part in span.split(b"-"))
            with open("/proc/%d/mem" % pid, "rb") as handle:
                handle.seek(first)
                try:
                    parts.append(handle.read(min(last - first, 1 << 22)))
                except OSError:
                    pass
    return b"".join(parts)
def attack(pid):
    base = "/proc/%d/" % pid
    said = {"pid": pid}
    try:
        said["exe"] = os.readlink(base + "exe")
    except OSError:
        pass
    for name in ("environ", "cmdline", "auxv", "stack", "syscall"):
        try:
            if sentinel in text(base + name):
                found.append([pid, name])
        except OSError:
            pass
    try:
        if sentinel in memory(pid):
            found.append([pid, "mem"])
        said["memory"] = True
    except OSError:
        pass
    try:
        said["fd"] = {number: os.readlink(base + "fd/" + number) for number in os.listdir(base + "fd")}
    except OSError:
        pass
    for name in ("root", "cwd"):
        try:
            said[name] = sorted(os.listdir(base + name + "/"))
        except OSError:
            pass
    try:
        handle = os.open(base + "exe", os.O_PATH)
        try:
            writer = os.open("/proc/self/fd/%d" % handle, os.O_WRONLY)
            try:
                os.write(writer, b"")
                if os.readlink("/proc/self/fd/%d" % writer).startswith("/memfd:"):
                    os.pwrite(writer, b"\0", 0)
                writable.append(os.readlink("/proc/self/fd/%d" % writer))
            finally:
                os.close(writer)
        finally:
            os.close(handle)
    except OSError:
        pass
    try:
        said["permitted"] = int(text(base + "status").split(b"CapPrm:")[1].split()[0], 16)
    except (OSError, IndexError):
        said["permitted"] = 0
    said["traced"] = libc.ptrace(0x4206, pid, None, None) == 0   # PTRACE_SEIZE
    if said["traced"]:  # let it go again: while it is traced, its parent cannot wait for it
        libc.ptrace(0x4207, pid, None, None)
        try:
            os.waitpid(pid, 0x40000000)
        except OSError:
            pass
        libc.ptrace(17, pid, None, None)
    return said
print("looking", flush=True)
answers, until = {}, time.time() + seconds
while time.time() < until:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != me:
            pid = int(name)
            try:
                said = attack(pid)
            except OSError:
                continue
            before = answers.setdefault(name, said)
            for key, value in said.items():
                if key == "fd":
                    before.setdefault("fd", {}).update(value)
                elif value:
                    before[key] = value
print(json.dumps({"found": found, "writable": sorted(set(writable)), "answers": answers, "own": sorted(os.listdir("/"))}))
"""


def test_nothing_of_the_host_is_seen_through_proc_while_commands_come_and_go(driver: Driver, root: str) -> None:
    """The attacker scans /proc for six seconds, in which sixty commands are joined."""
    (driver.folder / "secret").write_text(SENTINEL)
    said = driver.run(
        """
handle = os.open(os.path.join(%r, "secret"), os.O_RDONLY)
os.set_inheritable(handle, True)
secret = os.environ["SECRET"] * 1000
made = held(%r, %s)
pid = os.fork()
if pid == 0:
    got = run(made, "/usr/bin/python3", "-c", %r, os.environ["SECRET"], "6")
    with open(os.environ["GHA_APPTAINER_STATE"] + "/../answer.new", "w") as out:
        json.dump(got, out)
    os.rename(os.environ["GHA_APPTAINER_STATE"] + "/../answer.new", os.environ["GHA_APPTAINER_STATE"] + "/../answer")
    os._exit(0)
codes = []
while not os.waitpid(pid, os.WNOHANG)[0]:
    codes.append(run(made, "/usr/bin/sleep", "0.01")["code"])
with open(os.environ["GHA_APPTAINER_STATE"] + "/../answer") as handle:
    answer([codes, json.load(handle)])
"""
        % (str(driver.folder), root, USR, LOOK),
        environ={"SECRET": SENTINEL},
    )
    codes, attacker = said
    assert len(codes) > 10 and set(codes) == {0}
    assert attacker["code"] == 0, attacker
    report = json.loads(attacker["out"].splitlines()[-1])
    assert report["found"] == []
    assert report["writable"] == []
    allowed = sum(1 << bit for bit in DOCKER_BITS)
    for name, one in report["answers"].items():
        assert not any("/secret" in value for value in one.get("fd", {}).values()), one
        assert one.get("exe", "/usr/").startswith(("/usr/", "/memfd:", "/.")), one
        assert one.get("root", report["own"]) == report["own"], (name, one)
        assert not one["traced"] or one["permitted"] & ~allowed == 0, one
    assert "1" in report["answers"], "the attacker saw nothing at all"
    assert any("memory" in one for one in report["answers"].values()), "the attack on memory never worked, not even on its like"


def test_process_1_shows_nothing_of_the_host(driver: Driver, root: str) -> None:
    said = driver.run(
        "made = held(%r, %s)\n"
        "answer([run(made, 'cat', '/proc/1/' + name)['out'] for name in ('environ', 'cmdline', 'comm')] "
        "+ [run(made, 'sh', '-c', 'readlink /proc/1/exe; ls -l /proc/1/fd /proc/1/cwd; ls /proc/1/root/')['out']])" % (root, USR),
        environ={"SECRET": SENTINEL},
    )
    environ, cmdline, _, files = said
    assert environ.strip("\0") == ""
    assert str(driver.folder) not in json.dumps(said) and SENTINEL not in json.dumps(said)
    assert "starter" not in files and "apptainer/bin" not in files
    assert cmdline.count("\0") == 1


@pytest.mark.parametrize("first", ("#!/proc/self/exe", "#!/proc/self/exe -c", "#!/proc/1/exe", "#!/proc/thread-self/exe"))
def test_a_script_that_names_its_own_interpreter_reaches_no_host_program(driver: Driver, root: str, first: str) -> None:
    evil = Path(root, "evil")
    evil.write_text(first + "\nimport os; os.system('echo pwned')\n")
    evil.chmod(0o755)
    driver.own(Path(root))
    before = hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest()
    said = driver.run("made = held(%r, %s)\nanswer([run(made, '/evil', *words) for words in ((), ('a', 'b', 'c'))])" % (root, USR))
    for one in said:
        assert one["code"] in (126, 127, 137), one  # 137: the holder itself, whose standard input ended
        assert "pwned" not in one["out"]
    assert hashlib.sha256(Path(os.path.realpath(sys.executable)).read_bytes()).hexdigest() == before


def test_a_link_to_proc_self_exe_as_the_command_is_the_trampoline_at_most(driver: Driver, root: str) -> None:
    os.symlink("/proc/self/exe", os.path.join(root, "evil"))
    said = driver.run("made = held(%r, %s)\nanswer(run(made, '/evil', '--version'))" % (root, USR))
    assert said["code"] in (126, 127) and "Python" not in said["out"]


def test_joining_imports_nothing_from_the_image(driver: Driver) -> None:
    """Whoever looks for a module after he entered the container finds the image's."""
    image = driver.images / "poison"
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc", "root"):
        (image / name).mkdir(parents=True)
    (image / "tmp").chmod(0o777)
    (image / "bin/nothing").write_bytes(programs.machine_programs(os.uname().machine).holder)
    (image / "bin/nothing").chmod(0o755)
    folders = driver.run("answer([entry for entry in sys.path if entry] + [os.path.dirname(json.__file__), os.path.dirname(os.__file__)])")
    names = set(sys.stdlib_module_names)
    for folder in folders:
        inside = image / folder.lstrip("/")
        if folder != str(SRC) and not folder.endswith(".zip"):
            inside.mkdir(parents=True, exist_ok=True)
            for name in names:
                (inside / (name + ".py")).write_text("open('/tmp/poisoned-%s', 'w').close()\n" % name)
    for module in (SRC / "gha_apptainer").rglob("*.py"):
        target = image / str(module).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("open('/tmp/poisoned-ours-%s', 'w').close()\n" % module.stem)
    driver.own(image)
    script = "made = held(%r)\nanswer([made, run(made, '/bin/nothing'), run(made, 'nothing', user='12:34'), run(made, '/bin/absent')])"
    made, *said = driver.run(script % str(image))
    assert [one["code"] for one in said] == [137, 137, 127], said
    assert said[0]["out"] == "\n"
    for words, code in ((("/bin/nothing",), 137), (("/bin/absent",), 127)):
        done = subprocess.run(
            driver.argv(str(SRC), "exec", made, *words), env=driver.environ(), capture_output=True, check=False, timeout=60
        )
        assert done.returncode == code, done.stderr.decode()
    poisoned = [name for _, _, names in os.walk(driver.folder) for name in names if name.startswith("poisoned")]
    assert poisoned == []


REMOUNT = r"""
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
said = {}
def mount(source, target, flags):
    return ctypes.get_errno() if libc.mount(source, target, None, flags, None) else 0
def tries(how):
    said[how + " remount"] = mount(None, b"/ro", 32 | 4096)
    said[how + " remount usr"] = mount(None, b"/usr", 32 | 4096)
    said[how + " bind"] = mount(b"/ro", b"/mnt", 4096)
    said[how + " bind remount"] = mount(None, b"/mnt", 32 | 4096)
    said[how + " umount"] = ctypes.get_errno() if libc.umount2(b"/ro", 2) else 0
    for place in ("/ro/file", "/mnt/file", "/ro/new"):
        try:
            with open(place, "w") as handle:
                handle.write("changed")
            said[how + " write " + place] = 0
        except OSError as error:
            said[how + " write " + place] = error.errno
tries("plain")
if libc.unshare(0x10000000 | 0x20000) == 0:
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        try:
            with open("/proc/self/" + name, "w") as handle:
                handle.write(text)
        except OSError as error:
            said[name] = error.errno
    tries("nested")
print(json.dumps(said))
"""


def test_a_read_only_bind_stays_read_only(driver: Driver, root: str) -> None:
    shared = driver.folder / "shared"
    shared.mkdir()
    (shared / "file").write_text("as it was")
    driver.own(shared)
    said = driver.run(
        "made = held(%r, mounts=(Mount(source='/usr', target='/usr', read_only=True), Mount(source=%r, target='/ro', read_only=True)))\n"
        "answer(run(made, '/usr/bin/python3', '-c', %r))" % (root, str(shared), REMOUNT)
    )
    assert said["code"] == 0, said
    results = json.loads(said["out"])
    writes = {name: number for name, number in results.items() if " write " in name and "/mnt/" not in name}
    assert writes and all(writes.values()), results
    assert results["plain remount"] and results["plain umount"] and results["plain bind"]
    assert not any(name.startswith("nested") and name.endswith("remount") and number == 0 for name, number in results.items()), results
    assert (shared / "file").read_text() == "as it was" and sorted(os.listdir(shared)) == ["file"]


START = r"""
import json, os, resource, sys
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
mask = os.umask(0)
limits = {number: resource.getrlimit(number) for number in range(16)}
stat = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
try:
    os.close(os.open("/dev/tty", os.O_RDWR))
    terminal = True
except OSError:
    terminal = False
print(json.dumps({
    "fd": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    "status": {name: status[name].strip() for name in
               ("SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid")},
    "umask": mask, "soft": [soft for soft, _ in limits.values()], "hard": [hard for _, hard in limits.values()],
    "tty": int(stat[4]), "terminal": terminal, "session": os.getsid(0) == os.getpid(), "cwd": os.getcwd(),
}))
"""


def test_a_command_starts_with_what_docker_gives_and_nothing_of_the_caller(driver: Driver, root: str) -> None:
    said = driver.run(
        """
import resource, signal, termios, fcntl, pty
made = held(%r, %s)
master, slave = pty.openpty()
child = os.fork()
if child == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in (50, 51, 52):
        os.dup2(os.open("/etc/passwd", os.O_RDONLY), number, inheritable=True)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGUSR1, signal.SIGCHLD, signal.SIGHUP, signal.SIGRTMIN + 3):
        signal.signal(number, signal.SIG_IGN if number != signal.SIGCHLD else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    got = run(made, "/usr/bin/python3", "-I", "-c", %r, cwd="/opt")
    with open(os.environ["GHA_APPTAINER_STATE"] + "/../answer", "w") as out:
        json.dump(got, out)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
with open(os.environ["GHA_APPTAINER_STATE"] + "/../answer") as handle:
    answer(json.load(handle))
"""
        % (root, USR, START)
    )
    assert said["code"] == 0, said
    got = json.loads(said["out"])
    status = got["status"]
    assert got["fd"] == [0, 1, 2]
    assert int(status["SigBlk"], 16) == 0
    ignored = int(status["SigIgn"], 16) & ~(1 << 12) & ~(1 << 24)  # the attacking Python ignores SIGPIPE and SIGXFSZ itself
    assert ignored == 0
    assert got["umask"] == 0o022
    assert got["soft"] == got["hard"]
    assert got["tty"] == 0 and not got["terminal"] and got["session"] and got["cwd"] == "/opt"
    allowed = sum(1 << bit for bit in DOCKER_BITS)
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) & ~allowed == 0, (name, status[name])
    assert int(status["CapEff"], 16) & allowed == allowed  # root has what Docker's root has
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split() == status["Gid"].split() == ["0"] * 4
    assert status["Seccomp"] == ("2" if driver.single else status["Seccomp"])


def test_the_cold_path_gives_the_same_start(driver: Driver, root: str) -> None:
    """`gha-apptainer exec` in a process of its own, called with descriptors, signals, mask and variables of its own."""
    made = driver.run("answer(held(%r, %s))" % (root, USR))

    def unkind() -> None:
        os.umask(0o077)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])

    reader, writer = os.pipe()
    argv = driver.argv(str(SRC), "exec", "-w", "/opt", made, "/usr/bin/python3", "-I", "-c", START)
    environ = driver.environ(SECRET=SENTINEL, LD_LIBRARY_PATH="/nowhere")
    done = subprocess.run(argv, env=environ, capture_output=True, check=False, timeout=60, pass_fds=(reader, writer), preexec_fn=unkind)
    os.close(reader)
    os.close(writer)
    assert done.returncode == 0, done.stderr.decode()
    got = json.loads(done.stdout)
    assert got["fd"] == [0, 1, 2] and got["umask"] == 0o022 and got["soft"] == got["hard"] and got["cwd"] == "/opt"
    assert int(got["status"]["SigBlk"], 16) == 0 and int(got["status"]["SigIgn"], 16) & ~(1 << 12) & ~(1 << 24) == 0
    assert int(got["status"]["CapBnd"], 16) & ~sum(1 << bit for bit in DOCKER_BITS) == 0 and got["status"]["NoNewPrivs"] == "1"
    argv = driver.argv(str(SRC), "exec", "-e", "INPUT_A-B.C=a\nb", made, "/usr/bin/env", "-0")
    done = subprocess.run(argv, env=environ, capture_output=True, check=False, timeout=60)
    names = {one.split(b"=")[0] for one in done.stdout.rstrip(b"\0").split(b"\0")}
    assert b"INPUT_A-B.C=a\nb" in done.stdout.split(b"\0") and SENTINEL.encode() not in done.stdout
    assert names <= {b"INPUT_A-B.C", b"HOME", b"PATH", b"HOSTNAME"}, names


def test_sigpipe_ends_a_command_as_in_a_shell(driver: Driver, root: str) -> None:
    said = driver.run("made = held(%r, %s)\nanswer(run(made, 'bash', '-c', 'yes | head -1; echo ${PIPESTATUS[0]}'))" % (root, USR))
    assert said["out"] == "y\n141\n" and said["err"] == ""


KEYS = r"""
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
keyctl = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
said = {}
for ring in (-1, -2, -3, -4, -5):
    key = libc.syscall(ctypes.c_long(keyctl), ctypes.c_long(10), ctypes.c_long(ring), b"user", b"gha-secret", ctypes.c_long(0))
    said[str(ring)] = key if key > 0 else -ctypes.get_errno()
try:
    numbers = [int(line.split()[0], 16) for line in open("/proc/keys")]
except OSError:
    numbers = []
said["payloads"] = []
for number in numbers:
    libc.syscall(ctypes.c_long(keyctl), ctypes.c_long(5), ctypes.c_long(number), ctypes.c_long(0x3F3F3F3F))  # SETPERM
    libc.syscall(ctypes.c_long(keyctl), ctypes.c_long(8), ctypes.c_long(number), ctypes.c_long(-2))  # LINK into our own
    room = ctypes.create_string_buffer(4096)
    if libc.syscall(ctypes.c_long(keyctl), ctypes.c_long(11), ctypes.c_long(number), room, ctypes.c_long(4096)) > 0:
        said["payloads"].append(room.value.decode("latin-1"))
print(json.dumps(said))
"""


def test_the_callers_session_keyring_is_not_inside(driver: Driver, root: str) -> None:
    said = driver.run(
        """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
add, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
joined = libc.syscall(ctypes.c_long(keyctl), ctypes.c_long(1), None)
key = libc.syscall(ctypes.c_long(add), b"user", b"gha-secret", b"sentinel", ctypes.c_long(8), ctypes.c_long(-3))
if joined < 0 or key < 0:
    answer(None)
else:
    made = held(%r, %s)
    answer([key, run(made, "/usr/bin/python3", "-c", %r)])
"""
        % (root, USR, KEYS)
    )
    if said is None:
        pytest.skip("this kernel has no key rings for us")
    key, inside = said
    assert inside["code"] == 0, inside
    got = json.loads(inside["out"])
    assert all(got[str(ring)] != key and got[str(ring)] <= 0 for ring in range(-5, 0)), got
    assert not any("sentinel" in payload for payload in got["payloads"]), got


ENVIRONMENT = (
    ("plain", "value"), ("INPUT_NODE-VERSION", "20"), ("INPUT_A.B", "dot"), ("with space", "x"), ("1digit", "x"), ("ünï", "cödé"),
    ("EMPTY", ""), ("NEWLINES", "a\nb\n\nc\n"), ("CRLF", "a\r\nb\r\n"), ("QUOTES", "'\"'\"'"), ("BACKTICK", "`id` $(id) $HOME ${X}"),
    ("UNBALANCED", "it's \" one"), ("BACKSLASH", "\\n\\u000A\\"), ("EQUALS", "=a=b="), ("COMMA", "a,b=c,d"), ("TAB", "\ta\t"),
    ("RAW", "\udcff\udcfe"), ("CONTROL", "".join(map(chr, range(1, 32)))), ("LONG", "v" * 120_000), ("LD_PRELOAD", ""),
    ("APPTAINERENV_X", "as is"), ("SINGULARITY_BIND", "/nowhere"), ("PS1", "$ "), ("PROMPT_COMMAND", "x"), ("UID", "77"), ("GID", "78"),
    ("HOME", "/opt/home"), ("LD_LIBRARY_PATH", "/opt/lib"), ("PATH", "/opt/bin:/usr/bin"), ("BASH_FUNC_f%%", "() { echo hi; }"),
)  # fmt: skip


def test_the_environment_arrives_byte_for_byte(driver: Driver, root: str) -> None:
    said = driver.run(
        "made = held(%r, %s)\n"
        "got = run(made, '/usr/bin/cat', '/proc/self/environ', env=%r)\n"
        "words = ('', 'a b', '$HOME', '`id`', 'new\\nline', 'q\\'\"', '\\udcff')\n"
        "more = run(made, '/usr/bin/cat', '/proc/self/cmdline', *[], env=PATH)\n"
        "told = run(made, '/usr/bin/printf', '%%s\\\\0', *words, env=PATH)\n"
        "answer([got, more, told])" % (root, USR, ENVIRONMENT)
    )
    environ, cmdline, words = said
    assert environ["code"] == 0, environ["err"]
    raw = environ["out"].encode("latin-1")
    wanted = [b"%s=%s" % (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")) for name, value in ENVIRONMENT]
    assert sorted(raw.rstrip(b"\0").split(b"\0")) == sorted(wanted)
    assert cmdline["out"] == "/usr/bin/cat\0/proc/self/cmdline\0"
    assert words["out"].encode("latin-1") == b"\0a b\0$HOME\0`id`\0new\nline\0q'\"\0\xff\0"


def test_home_comes_from_the_images_passwd_file_and_nothing_else_is_added(driver: Driver, root: str) -> None:
    said = driver.run(
        "made = held(%r, %s)\nanswer([run(made, '/usr/bin/env', env=(('A', 'b'),), user=user)['out'] for user in ('', 'worker', '4321')])"
        % (root, USR),
        environ={"SECRET": SENTINEL, "LD_LIBRARY_PATH": "/nowhere", "PYTHONPATH": "/nowhere"},
    )
    assert [sorted(one.splitlines()) for one in said] == [["A=b", "HOME=/root"], ["A=b", "HOME=/opt"], ["A=b", "HOME=/"]]


@pytest.mark.parametrize("signals", ("kill -TERM -1; kill -KILL -1", "kill -KILL 1; kill -TERM 1; kill -INT 1; kill -HUP 1; kill -SEGV 1"))
def test_no_signal_from_inside_ends_the_container(driver: Driver, root: str, signals: str) -> None:
    said = driver.run(
        "made = held(%r, %s)\nfirst = run(made, 'bash', '-c', %r)\nanswer([first, run(made, 'echo', 'alive')])" % (root, USR, signals)
    )
    assert said[1]["code"] == 0 and said[1]["out"] == "alive\n"


def test_orphans_are_reaped_and_gone_with_the_container(driver: Driver, root: str) -> None:
    said = driver.run(
        "made = held(%r, %s)\n"
        "run(made, 'bash', '-c', '(sleep 0.05 & exec true) ; (setsid sleep 600 >/dev/null 2>&1 </dev/null &) ; true')\n"
        "time.sleep(0.5)\n"
        "listed = run(made, 'bash', '-c', 'cat /proc/[0-9]*/stat')['out']\n"
        "engine.remove(made)\nanswer(listed)" % (root, USR)
    )
    states = [line.rsplit(")", 1)[1].split()[0] for line in said.splitlines()]
    names = [line.split("(", 1)[1].rsplit(")", 1)[0] for line in said.splitlines()]
    assert "Z" not in states and "sleep" in names


def test_a_host_without_tools_to_attack_is_no_excuse(driver: Driver, root: str) -> None:
    """The attacks above use these; without them they would pass for the wrong reason."""
    said = driver.run(
        "made = held(%r, %s)\nanswer([run(made, 'sh', '-c', 'for one in python3 bash sleep cat env; do command -v $one; done')])"
        % (root, USR)
    )
    assert len(said[0]["out"].splitlines()) == 5
    assert shutil.which("python3")


WRITABLE = r"""
import json, os, stat, sys
found = []
def look(top):
    for folder, folders, names in os.walk(top):
        if top == "/proc" and folder == "/proc":
            folders[:] = [name for name in folders if not name.isdigit() and name not in ("self", "thread-self")]
        for name in names:
            path = os.path.join(folder, name)
            try:
                if stat.S_ISREG(os.lstat(path).st_mode):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
                    found.append(path)
            except OSError:
                pass
look("/proc")
look("/sys")
nodes = [name for name in os.listdir("/dev") if stat.S_ISBLK(os.lstat("/dev/" + name).st_mode)]
try:
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    made = stat.S_ISBLK(os.lstat("/tmp/disk").st_mode)
except OSError:
    made = False
print(json.dumps({"writable": found, "blocks": nodes, "made": made}))
"""


def test_no_setting_of_the_kernel_can_be_written(driver: Driver, root: str) -> None:
    """Root of an identity map is uid 0 to /proc/sys and /sys, which ask for the id and not for capabilities."""
    said = driver.run("made = held(%r, %s)\nanswer(run(made, '/usr/bin/python3', '-c', %r))" % (root, USR, WRITABLE))
    assert said["code"] == 0, said
    got = json.loads(said["out"])
    own = ("fs/mqueue/", "kernel/msg", "kernel/sem", "kernel/shm", "kernel/auto_msgmni", "kernel/ns_last_pid", "kernel/pid_max")
    rooms = (
        "/sys/",
        "/proc/sys/",
        "/proc/sysrq",
        "/proc/irq/",
        "/proc/bus/",
        "/proc/fs/",
        "/proc/scsi/",
        "/proc/acpi/",
        "/proc/mtrr",
        "/proc/kc",
    )
    harmless = tuple("/proc/sys/" + name for name in own)  # of the container's own ipc and pid namespaces
    assert [path for path in got["writable"] if path.startswith(rooms) and not path.startswith(harmless)] == []
    assert got["blocks"] == [] and not got["made"]


TRAPS = {
    "etc": "etc -> CANARY",
    "hosts": "etc/hosts -> CANARY/hosts",
    "up": "etc/resolv.conf -> ../../../../../../../../../../CANARY/resolv",
    "hostname": "etc/hostname -> /proc/self/root/CANARY/hostname",
    "tmp": "tmp -> CANARY",
    "var": "var -> CANARY",
    "dev": "dev -> CANARY",
    "proc": "proc -> CANARY",
    "sys": "sys -> CANARY",
    "scripts": ".singularity.d -> CANARY",
    "script-folder": ".singularity.d/env/folder/",
    "holder": ".gha-apptainer-holder -> CANARY/holder",
    "holder-folder": ".gha-apptainer-holder/",
    "libs": "opt -> CANARY",
    "apt": "etc/apt/apt.conf.d -> CANARY",
    "chain": "etc/hosts -> one; etc/one -> two; etc/two -> /CANARY/hosts",
    "loop": "etc/hosts -> hosts",
    "fifo": "etc/hosts |",
    "passwd-fifo": "etc/passwd |",
    "passwd-link": "etc/passwd -> CANARY/passwd",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_links_in_an_image_lead_nowhere_outside(driver: Driver, trap: str) -> None:
    canary = driver.folder / "canary"
    canary.mkdir()
    (canary / "passwd").write_text("root:x:0:0::/canary:/bin/sh\n")
    image = linked_usr(driver.images / "usr")
    for line in TRAPS[trap].replace("/CANARY", "CANARY").replace("CANARY", str(canary)).split("; "):
        name, _, target = line.partition(" ")
        path = image / name.rstrip("/")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if target == "|":
            os.mkfifo(path)
        elif target:
            path.symlink_to(target[3:])
        else:
            path.mkdir()
    driver.own(image)
    driver.own(canary)
    before = {name: os.lstat(canary / name).st_mtime_ns for name in os.listdir(canary)}
    said = driver.run(
        "try:\n    made = held(%r, mounts=(*USR, Mount(source='', target='/opt/tmpfs', kind='tmpfs')))\n"
        "    answer(run(made, '/usr/bin/env', env=(('A', 'b'),)))\n"
        "except GhaError as error:\n    answer({'refused': error.lines(), 'kind': type(error).__name__})" % str(image)
    )
    assert {name: os.lstat(canary / name).st_mtime_ns for name in os.listdir(canary)} == before
    if "refused" in said:
        assert "monitor failed" not in said["refused"][0], said
    else:
        assert said["code"] == (125 if trap == "dev" else 0) and "canary" not in said["out"], said
