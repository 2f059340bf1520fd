"""How long containers take to start and to be entered here, beside Apptainer's own commands and Podman's, measured in one run.

usage: scripts/bench engine [--rounds N] [--image DIRECTORY] [--skip-output]

All subjects take turns within each round, so that what else the machine does hits them alike. Printed are median and spread (the
middle half), and ratios to baselines of the same run. A machine that was busy with other
work gives figures, but no verdict. As root, Apptainer's own commands
run in a user namespace with all ids mapped to themselves, as our containers do: plain Apptainer refuses a root that lacks capabilities.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
sys.path.insert(0, str(SRC))

from gha_apptainer.domain.hosts import HostFacts  # noqa: E402  # the path to it had to be set first
from gha_apptainer.node import apptainer, host  # noqa: E402  # the path to it had to be set first
from gha_apptainer.node.engine.namespaces import enter_own  # noqa: E402  # the path to it had to be set first

BUSY = 1.0
"""Above this much load by others no verdict is given."""
LIMIT_S = 120.0
ROUNDS = 30
OUTPUT_BYTES = 3 << 30
TRUE = "/bin/true"


@dataclass
class Subject:
    """One thing that is timed. `before` and `after` are its surroundings, not timed; `times` are milliseconds."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    wrapped: bool = False
    after: Callable[[], None] = lambda: None
    times: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Goal:
    """A ratio of medians that is to be reached."""

    what: str
    ours: str
    baseline: str
    at_most: float


class Spawner:
    """Starts and times programs; with `facts` from inside a namespace in which root's ids are mapped, entered once and not timed."""

    def __init__(self, facts: HostFacts | None, said: str) -> None:
        self._said = said
        ask_in, self._ask = os.pipe()
        self._told, tell_out = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                os.close(self._ask)
                if facts is not None:
                    enter_own(facts)
                self._serve(ask_in, tell_out)
            finally:
                os._exit(1)
        os.close(ask_in)
        os.close(tell_out)
        self._lines = os.fdopen(self._told, "r")

    def _serve(self, ask: int, tell: int) -> None:
        with os.fdopen(ask) as lines:
            for line in lines:
                argv, env = json.loads(line)
                before = time.perf_counter()
                null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1)]
                said = (os.POSIX_SPAWN_OPEN, 2, self._said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                child = os.posix_spawn(argv[0], argv, env, file_actions=[*null, said])
                _, status = os.waitpid(child, 0)
                took = 1000 * (time.perf_counter() - before)
                os.write(tell, (json.dumps([took, os.waitstatus_to_exitcode(status)]) + "\n").encode())
        os._exit(0)

    def run(self, argv: Sequence[str], env: Mapping[str, str]) -> tuple[float, int]:
        """Milliseconds and exit code."""
        os.write(self._ask, (json.dumps([list(argv), dict(env)]) + "\n").encode())
        took, code = json.loads(self._lines.readline())
        return float(took), int(code)

    def close(self) -> None:
        """End the process behind it."""
        os.close(self._ask)
        self._lines.close()
        os.kill(self._child, signal.SIGKILL)  # another of our children may hold the pipe whose end it waits for
        os.waitpid(self._child, 0)


class Bench:
    """One run of the benchmark in one state directory."""

    def __init__(self, image: str, work: Path) -> None:
        self.work = work
        self.python = python()
        self.env = {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME", "GHA_APPTAINER") if name in os.environ}
        self.env |= {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "GHA_APPTAINER_STATE": str(work / "state")}
        self.facts = host.probe(host.load_settings(self.env), self.env)
        if not self.facts.apptainer:
            raise SystemExit("no Apptainer works here: %s" % self.facts.apptainer_reason)
        self.image = image
        self.sif = str(work / "image.sif")
        self.subjects: list[Subject] = []
        self.left_out: list[str] = []
        self.podman_base: tuple[str, ...] = ()
        self.podman_flags: tuple[str, ...] = ()
        self.podman_image = ""
        self._plain = Spawner(None, str(work / "stderr"))
        self._mapped = Spawner(self.facts if os.geteuid() == 0 else None, str(work / "stderr"))
        self._made = 0

    def ours(self, *words: str) -> tuple[str, ...]:
        """Our command in a cold process, as hooks and the action start it."""
        return (self.python, "-I", "-S", str(SRC / "__main__.py"), *words)

    def call(self, argv: Sequence[str], *, wrapped: bool = False) -> None:
        """Run something that is not timed; a failure ends the benchmark."""
        _, code = (self._mapped if wrapped else self._plain).run(argv, self.env)
        if code:
            raise SystemExit("%s ended with %d: %s" % (" ".join(argv), code, self.said()))

    def said(self) -> str:
        """What the last program wrote on stderr."""
        return (self.work / "stderr").read_text(errors="replace").strip()

    def prepare(self) -> None:
        """The images, a held container, an instance, and every subject."""
        program, env = self.facts.apptainer, {**self.env, "APPTAINER_CONFIGDIR": str(self.work / "config")}
        self.env["APPTAINER_CONFIGDIR"] = env["APPTAINER_CONFIGDIR"]
        self.call((self.facts.mksquashfs, self.image, str(self.work / "squash"), "-comp", "zstd", "-quiet", "-no-progress", "-noappend"))
        self.call(apptainer.build_argv(program, self.image, self.sif, sandbox=False), wrapped=True)
        self.call(self.ours("run", "-d", "-q", "--name", "held", self.image, "/bin/sleep", "3600"))
        plain = (program, "-s", "exec")

        def baseline(name: str, *argv: str) -> None:
            self.subjects.append(Subject(name, argv, env, wrapped=True))

        baseline("apptainer exec SANDBOX", *plain, self.image, TRUE)
        baseline("apptainer exec -C SANDBOX", *plain, "-C", self.image, TRUE)
        if self.facts.fuse_reason:
            self.left_out.append("apptainer exec SIF: %s" % self.facts.fuse_reason)
        else:
            baseline("apptainer exec SIF", *plain, self.sif, TRUE)
        self._instance(env)
        self._podman()
        self._ours()

    def _instance(self, env: Mapping[str, str]) -> None:
        start = (self.facts.apptainer, "-s", "instance", "run", self.image, "bench")
        folder = self.work / "instance"
        # an unpacked tree has no start script, without which `instance start` dies; `instance run` takes a run script
        shutil.copytree(self.image, folder, symlinks=True, ignore=shutil.ignore_patterns("dev"))
        (folder / "dev").mkdir(exist_ok=True)
        (folder / ".singularity.d").mkdir(exist_ok=True)
        script = folder / ".singularity.d/runscript"
        script.write_text("#!/bin/sh\nexec /bin/sleep 3600\n")
        script.chmod(0o755)
        _, code = self._mapped.run((*start[:4], str(folder), "bench"), env)
        if code:
            self.left_out.append("apptainer exec instance://: the instance could not be started (exit code %d)" % code)
            return
        argv = (self.facts.apptainer, "-s", "exec", "instance://bench", TRUE)
        self.subjects.append(Subject("apptainer exec instance://", argv, env, wrapped=True))

    def _podman(self) -> None:
        found = shutil.which("podman")
        if not found:
            self.left_out.append("podman exec, podman run: Podman is not installed")
            return
        rootfs = self.podman_image = str(self.work / "podman")
        shutil.copytree(self.image, rootfs, symlinks=True, ignore=shutil.ignore_patterns("dev"))
        for base, flags in podman_ways(found, self.work):
            argv = (*base, "run", "-d", "--name", "held", "--network=host", *flags, "--rootfs", rootfs, "/bin/sleep", "3600")
            _, code = self._plain.run(argv, self.env)
            if code == 0:
                break
            self._plain.run((*base, "rm", "-f", "-t", "0", "held"), self.env)
        else:
            self.left_out.append("podman exec, podman run: it cannot run a container here: %s" % self.said()[-200:])
            return
        self.podman_base, self.podman_flags = base, flags
        run = (*base, "run", "--rm", "--network=host", *flags, "--rootfs", rootfs + ":O", TRUE)
        self.subjects.append(Subject("podman exec", (*base, "exec", "held", TRUE), self.env))
        self.subjects.append(Subject("podman run --rm", run, self.env))

    def _ours(self) -> None:
        raw = "import sys; sys.path.insert(0, %r); from gha_apptainer.node.engine import enter; sys.exit(enter.main(sys.argv[1:]))" % str(
            SRC
        )

        def ours(name: str, *argv: str, after: Callable[[], None] = lambda: None, env: Mapping[str, str] | None = None) -> None:
            self.subjects.append(Subject(name, argv, env or self.env, after=after))

        ours("python -I -S", self.python, "-I", "-S", "-c", "")
        ours("gha-apptainer exec", *self.ours("exec", "held", TRUE))
        ours("joiner alone", self.python, "-I", "-S", "-c", raw, "held", TRUE)
        ours("gha-apptainer run --rm SANDBOX", *self.ours("run", "--rm", "-q", self.image, TRUE))
        ours("gha-apptainer start, writable SANDBOX", *self.ours("start", "timed"), after=lambda: self._again(self.image))
        if not self.facts.fuse_reason:
            ours("gha-apptainer run --rm SIF", *self.ours("run", "--rm", "-q", self.sif, TRUE))
        self._again(self.image, first=True)
        if (SRC / "gha_apptainer/node/actions/main.py").exists():
            ours("the action, run: true", *self.ours("action"), env=self.action_env("true"))

    def _again(self, image: str, *, first: bool = False) -> None:
        """A new container of the same name for the next round."""
        if not first:
            self.call(self.ours("rm", "-f", "timed"))
        self.call(self.ours("create", "-q", "--name", "timed", image, "/bin/sleep", "3600"))

    def action_env(self, script: str) -> dict[str, str]:
        """What the action's step hands over, with a workspace of its own."""
        workspace = self.work / "workspace"
        for name in ("", "temp"):
            (workspace / name).mkdir(exist_ok=True)
        found = {"GITHUB_WORKSPACE": str(workspace), "RUNNER_TEMP": str(workspace / "temp"), "GITHUB_ACTIONS": "true", "CI": "true"}
        for name in ("OUTPUT", "ENV", "PATH", "STEP_SUMMARY", "STATE"):
            (workspace / ("file-" + name)).touch()
            found["GITHUB_" + name] = str(workspace / ("file-" + name))
        from gha_apptainer.domain.action_inputs import INPUTS

        found |= {row.variable: row.default for row in INPUTS}
        wanted = {"run": script, "image": self.image, "shell": "sh"}  # without bash in the image, the default shell would be tried first
        found |= {row.variable: wanted[row.name] for row in INPUTS if row.name in wanted}
        return {**self.env, **found}

    def rounds(self, count: int) -> None:
        """Every subject once a round, in an order that turns; one round before counts for nothing."""
        for number in range(count + 1):
            turn = number % len(self.subjects)
            for subject in self.subjects[turn:] + self.subjects[:turn]:
                took, code = (self._mapped if subject.wrapped else self._plain).run(subject.argv, subject.env)
                if code:
                    raise SystemExit("%s: %s ended with %d: %s" % (subject.name, " ".join(subject.argv), code, self.said()))
                subject.after()
                if number:
                    subject.times.append(took)

    def output(self, size: int) -> tuple[float, int]:
        """Seconds, and the largest memory (bytes) of any of our processes, while a container writes `size` bytes through us."""
        script = "head -c %d /dev/zero" % size
        argv = self.ours("run", "--rm", "-q", self.image, "/bin/sh", "-c", script)
        before = time.monotonic()
        child = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert child.stdout is not None
        largest = total = 0
        looked = 0.0
        while part := os.read(child.stdout.fileno(), 1 << 20):
            total += len(part)
            if time.monotonic() - looked > 0.05:
                looked = time.monotonic()
                largest = max(largest, *(peak(pid) for pid in [child.pid, *ours_running(str(self.work))]))
        code = child.wait(LIMIT_S)
        child.stdout.close()
        if code or total != size:
            raise SystemExit("the container wrote %d of %d bytes and ended with %d" % (total, size, code))
        return time.monotonic() - before, largest

    def close(self) -> None:
        """End what was started."""
        self._mapped.run((self.facts.apptainer, "-s", "instance", "stop", "bench"), self.env)
        self._plain.run(self.ours("rm", "-f", "held", "timed"), self.env)
        if self.podman_base:
            self._plain.run((*self.podman_base, "rm", "-f", "-t", "0", "--all"), self.env)
            # its storage stays mounted on itself, as for an ordinary installation
            self._plain.run((str(shutil.which("umount")), "-R", "-l", str(self.work / "podman-root" / "overlay")), self.env)
        self._plain.close()
        self._mapped.close()


def podman_ways(found: str, work: Path) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Ways to start Podman, its usual one first: global options, and those of run. crun refuses mixed control groups, and without
    CAP_SYS_RESOURCE limits can only be lowered.
    """
    places = ("--cgroup-manager=cgroupfs", "--root", str(work / "podman-root"), "--runroot", str(work / "podman-run"))
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    yield (found, *places), ("--cgroups=disabled",)
    yield (found, *places), ("--cgroups=disabled", *limits)
    if shutil.which("runc"):
        yield (found, "--runtime", "runc", *places), limits


def python() -> str:
    """The interpreter that the action would take on this machine: a named one, the system's if it is new enough, else ours."""
    for path in (os.environ.get("GHA_APPTAINER_PYTHON", ""), "/usr/bin/python3"):
        if os.access(path, os.X_OK):
            asks = [path, "-I", "-S", "-c", "import sys; sys.exit(sys.version_info < (3, 9))"]
            if subprocess.run(asks, check=False, timeout=LIMIT_S).returncode == 0:
                return path
    return sys.executable


def peak(pid: int) -> int:
    """The largest resident memory that a process ever had, in bytes; 0 if it is gone."""
    try:
        for line in Path("/proc/%d/status" % pid).read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def ours_running(mark: str) -> Iterator[int]:
    """Processes whose environment or command line names our work directory."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path("/proc", name, "environ").read_bytes() + Path("/proc", name, "cmdline").read_bytes():
                yield int(name)
        except OSError:
            continue


GOALS = (
    Goal("exec into a running container", "gha-apptainer exec", "apptainer exec instance://", 0.6),
    Goal("run --rm on a warm sandbox", "gha-apptainer run --rm SANDBOX", "apptainer exec SANDBOX", 1.5),
    Goal("start with a writable root", "gha-apptainer start, writable SANDBOX", "apptainer exec SANDBOX", 1.5),
    Goal("the action on a warm image", "the action, run: true", "apptainer exec SANDBOX", 3.0),
)


def table(subjects: Sequence[Subject]) -> list[str]:
    """One line a subject."""
    width = max(len(one.name) for one in subjects)
    lines = ["%s  %8s  %17s  %5s" % ("milliseconds".ljust(width), "median", "middle half", "n")]
    for one in subjects:
        low, middle, high = statistics.quantiles(one.times, n=4) if len(one.times) > 1 else one.times * 3
        lines.append("%s  %8.1f  %8.1f-%8.1f  %5d" % (one.name.ljust(width), middle, low, high, len(one.times)))
    return lines


def judged(subjects: Sequence[Subject], busy: str) -> list[str]:
    """One line a goal: the ratio, and whether it is reached; `busy` says why nothing can be said of that."""
    medians = {one.name: statistics.median(one.times) for one in subjects}
    lines = []
    for goal in GOALS:
        if goal.ours in medians and goal.baseline in medians:
            ratio = medians[goal.ours] / medians[goal.baseline]
            verdict = "not measured (%s)" % busy if busy else "reached" if ratio <= goal.at_most else "MISSED"
            lines.append("%-32s %.2f x %s, to reach %.1f: %s" % (goal.what, ratio, goal.baseline, goal.at_most, verdict))
        else:
            lines.append("%-32s left out: %s" % (goal.what, goal.baseline if goal.ours in medians else goal.ours))
    return lines


class Load:
    """The load at the start, and the processor time that others took during the run."""

    def __init__(self) -> None:
        self.at_start = os.getloadavg()[0]
        self._began, self._busy, self._own = time.monotonic(), self._busy_now(), self._own_now()

    @staticmethod
    def _busy_now() -> float:
        numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return (sum(numbers) - numbers[3] - numbers[4]) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own_now() -> float:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used)

    def told(self) -> tuple[str, str]:
        """A line for the reader, and why the machine counts as busy (empty: it does not)."""
        took = time.monotonic() - self._began
        during = (self._busy_now() - self._busy) / took
        line = "load at the start %.2f, at the end %.2f; %.2f processors busy on average, of %d" % (
            self.at_start, os.getloadavg()[0], during, os.cpu_count() or 1,
        )  # fmt: skip
        if self.at_start > BUSY:
            return line, "load %.1f at the start" % self.at_start
        return line, "%.1f processors busy" % during if during > BUSY + 0.5 else ""


@contextmanager
def image_directory(named: str) -> Iterator[str]:
    """The image of the run: the named one, else a small one made of packages."""
    if named:
        yield os.path.abspath(named)
        return
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SRC), "provision", "--quiet", "--image", "busybox"],
        stdout=subprocess.PIPE,
        timeout=300,
        check=True,
    )
    yield done.stdout.decode().strip()


def main() -> int:
    """Measure and print. 1 if a goal is missed on a quiet machine."""
    parser = argparse.ArgumentParser(prog="scripts/bench engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each subject is timed (default %(default)s)")
    parser.add_argument(
        "--image", default="", help="an unpacked image with /bin/true, /bin/sh, /bin/sleep and head (default: busybox from packages)"
    )
    parser.add_argument("--skip-output", action="store_true", help="leave out the 3 GB of output")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    load = Load()
    with image_directory(asked.image) as image, tempfile.TemporaryDirectory(prefix="gha-bench-") as folder:
        bench = Bench(image, Path(folder))
        try:
            bench.prepare()
            bench.rounds(asked.rounds)
            outputs = [] if asked.skip_output else [(size, *bench.output(size)) for size in (OUTPUT_BYTES // 30, OUTPUT_BYTES)]
        finally:
            bench.close()
        told, busy = load.told()
        who = "root, Apptainer's own commands in a namespace with all ids" if os.geteuid() == 0 else "an ordinary user"
        print(
            "%s, Linux %s, Apptainer %s, Python %s, as %s"
            % (os.uname().machine, os.uname().release, bench.facts.apptainer_version, bench.python, who)
        )
        print("image %s; %d rounds; %s" % (os.path.basename(image), asked.rounds, told))
        print(*table(bench.subjects), sep="\n")
        for text in bench.left_out:
            print("left out: %s" % text)
        for size, seconds, largest in outputs:
            print(
                "%.2f GB of output: %.1f s, %.0f MB/s, largest process %.1f MB" % (size / 1e9, seconds, size / 1e6 / seconds, largest / 1e6)
            )
        verdicts = judged(bench.subjects, busy)
        print(*verdicts, sep="\n")
        return int(any("MISSED" in line for line in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
