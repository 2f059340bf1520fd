"""How long the runner's container hooks take, beside Apptainer's own instances and Podman's commands, measured in one run.

usage: scripts/bench hooks [--rounds N] [--jobs N] [--image DIRECTORY]

In each round every subject has its turn: a whole job through the hooks (prepare_job with one service, a step, cleanup_job), the peers'
commands for the same. A step's overhead is counted without the shim's own cold start (node's or bash's), which is printed too. At the
end many jobs prepare at once. A machine that was busy with other work gives figures, but no verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import Bench, Goal, Load, Subject, image_directory, table

from gha_apptainer.node.hooks import install, shims

LIMIT_S = 120.0
ROUNDS = 30
JOBS = 32
STEP, INSTANCE, PODMAN = "run_script_step", "apptainer exec instance://", "podman exec"
PREPARE, PODMAN_PREPARE, CLEANUP = "prepare_job, one service", "podman: network, two containers", "cleanup_job"
GOALS = (
    Goal("a step in a job container", STEP, INSTANCE, 0.6),
    Goal("the same, beside Podman", STEP, PODMAN, 1.0),
    Goal("preparing a job with one service", PREPARE, PODMAN_PREPARE, 0.5),
)
CLEANUP_LIMIT_MS = 1000.0


class Job:
    """One job's directories and requests."""

    def __init__(self, top: Path, image: str) -> None:
        self.work = top / ("_work-" + uuid.uuid4().hex[:8])
        self.image = image
        for name in ("_temp/_runner_hook_responses", "_temp/_github_home", "_temp/_runner_file_commands", "r/r"):
            (self.work / name).mkdir(parents=True)
        self.state: object = None
        self.env = {
            "RUNNER_TRACKING_ID": str(uuid.uuid4()),
            "RUNNER_TEMP": str(self.work / "_temp"),
            "GITHUB_WORKSPACE": str(self.work / "r/r"),
            "GITHUB_ACTIONS": "true",
        }

    def request(self, command: str, args: Mapping[str, object]) -> tuple[bytes, Path]:
        """A request, and where its answer goes."""
        response = self.work / "_temp/_runner_hook_responses" / ("%s.json" % uuid.uuid4())
        response.touch()
        wanted = {"command": command, "responseFile": str(response), "args": args, "state": self.state}
        return json.dumps(wanted).encode() + b"\n", response

    def prepare(self, *, service: bool = True) -> tuple[bytes, Path]:
        """prepare_job, with a service without a health check."""
        mounts = [
            (str(self.work), "/__w"),
            (str(self.work / "_temp"), "/__w/_temp"),
            (str(self.work / "_temp/_github_home"), "/github/home"),
        ]
        system = [{"sourceVolumePath": source, "targetVolumePath": target, "readOnly": False} for source, target in mounts]
        container = {"image": self.image, "workingDirectory": "/__w/r/r", "environmentVariables": {"HOME": "/github/home"}}
        one = {"image": self.image, "entryPoint": "/bin/sleep", "entryPointArgs": ["3600"]}
        return self.request("prepare_job", {"container": {**container, "systemMountVolumes": system}, "services": [one] if service else []})

    def step(self) -> bytes:
        """run_script_step: as little as a command can do."""
        args = {"entryPoint": "/bin/true", "entryPointArgs": [], "environmentVariables": {"A": "1"}, "workingDirectory": "/__w/r/r"}
        return self.request("run_script_step", args)[0]

    def cleanup(self) -> bytes:
        """cleanup_job."""
        return self.request("cleanup_job", {})[0]


class Hooks:
    """Times calls of the hooks: the interpreter with our program, and the shims around it."""

    def __init__(self, bench: Bench, top: Path) -> None:
        self.bench, self.top = bench, top
        policy = top / "policy.json"
        policy.write_text(json.dumps({"version": 1, "host_paths": [bench.image]}))
        done = install.install(str(top / "hooks"), str(policy), bench.env, bench.facts.apptainer)
        settings = shims.Settings(install.interpreter(), install.source(), str(policy))
        self.plain = (settings.python, *shims.arguments(settings), "--owner", str(os.getpid()))
        self.shell = ("/bin/bash", "-e", done.shell)
        node = shutil.which("node")
        self.node = (node, done.javascript) if node else None
        self.times: dict[str, list[float]] = {}

    def call(self, argv: Sequence[str], data: bytes, job: Job) -> float:
        """Milliseconds of one call that must succeed."""
        env = {**self.bench.env, **job.env}
        with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as out:
            file.write(data)
            file.seek(0)
            before = time.perf_counter()
            child = subprocess.Popen(argv, stdin=file, stdout=out, stderr=out, env=env, cwd="/")
            signal.alarm(int(LIMIT_S))  # a wait with a limit of its own would look only every few milliseconds
            code = child.wait()
            signal.alarm(0)
            took = 1000 * (time.perf_counter() - before)
            if code:
                out.seek(0)
                raise SystemExit("%s ended with %d: %s" % (argv[-1], code, out.read().decode("utf-8", "replace")))
        return took

    def note(self, name: str, took: float) -> None:
        """Keep a time."""
        self.times.setdefault(name, []).append(took)

    def round(self, *, counts: bool) -> None:
        """One job through the hooks."""
        job = Job(self.top, self.bench.image)
        data, response = job.prepare()
        found = {PREPARE: self.call(self.plain, data, job)}
        job.state = json.loads(response.read_text())["state"]
        found[STEP] = self.call(self.plain, job.step(), job)
        found["run_script_step through .sh"] = self.call(self.shell, job.step(), job)
        if self.node:
            found["run_script_step through .js"] = self.call(self.node, job.step(), job)
        found[CLEANUP] = self.call(self.plain, job.cleanup(), job)
        shutil.rmtree(job.work)
        if counts:
            for name, took in found.items():
                self.note(name, took)

    def at_once(self, count: int) -> tuple[float, int]:
        """Seconds until so many jobs have prepared at once, and how many failed."""
        jobs = [Job(self.top, self.bench.image) for _ in range(count)]
        began = time.monotonic()
        started = []
        for job in jobs:
            data, response = job.prepare(service=False)
            env = {**self.bench.env, **job.env}
            child = subprocess.Popen(
                self.plain, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, cwd="/"
            )
            assert child.stdin is not None
            child.stdin.write(data)
            child.stdin.close()
            started.append((job, child, response))
        failed = 0
        for job, child, response in started:
            if child.wait(LIMIT_S * 4):
                failed += 1
            else:
                job.state = json.loads(response.read_text())["state"]
        took = time.monotonic() - began
        for job in jobs:
            self.call(self.plain, job.cleanup(), job)
        return took, failed


class Peers(Bench):
    """The peers' own commands, as in the engine's benchmark, and what Podman does for a job with a service."""

    def prepare(self) -> None:
        """An instance, and Podman's containers where Podman is installed."""
        env = {**self.env, "APPTAINER_CONFIGDIR": str(self.work / "config")}
        self.env["APPTAINER_CONFIGDIR"] = env["APPTAINER_CONFIGDIR"]
        self._instance(env)
        self._podman()
        self.subjects = [one for one in self.subjects if one.name in (INSTANCE, PODMAN)]
        self.subjects.append(Subject("bash, to its first line", ("/bin/bash", "-ec", ":"), self.env))
        self.subjects.append(Subject("python -I -S", (sys.executable, "-I", "-S", "-c", ""), self.env))
        node = shutil.which("node")
        if node:
            self.subjects.append(Subject("node, to its first line", (node, "-e", "0"), self.env))

    def podman_job(self) -> float | None:
        """Milliseconds of a network and two containers in it, as the runner makes them; None where Podman cannot."""
        if not self.podman_base:
            return None
        base = self.podman_base
        name = "job" + uuid.uuid4().hex[:8]
        rootfs = self.podman_image + ":O"
        run = ("run", "-d", *self.podman_flags, "--network", name)
        total = 0.0
        for words in (("network", "create", name), (*run, "--name", name + "a", "--rootfs", rootfs, "/bin/sleep", "3600"),
                      (*run, "--name", name + "b", "--rootfs", rootfs, "/bin/sleep", "3600")):  # fmt: skip
            took, code = self._plain.run((*base, *words), self.env)
            total += took
            if code:
                self.left_out.append("podman: %s ended with %d: %s" % (" ".join(words[:2]), code, self.said()[:200]))
                return None
        self._plain.run((*base, "rm", "-f", "-t", "0", name + "a", name + "b"), self.env)
        self._plain.run((*base, "network", "rm", "-f", name), self.env)
        return total


def verdicts(medians: Mapping[str, float], busy: str) -> list[str]:
    """One line a goal."""
    lines = []
    for goal in GOALS:
        if goal.ours not in medians or goal.baseline not in medians:
            lines.append("%-34s left out: %s" % (goal.what, goal.baseline))
            continue
        ratio = medians[goal.ours] / medians[goal.baseline]
        word = "not measured (%s)" % busy if busy else "reached" if ratio <= goal.at_most else "MISSED"
        lines.append("%-34s %.2f x %s, to reach %.1f: %s" % (goal.what, ratio, goal.baseline, goal.at_most, word))
    took = medians[CLEANUP]
    word = "not measured (%s)" % busy if busy else "reached" if took <= CLEANUP_LIMIT_MS else "MISSED"
    lines.append("%-34s %.0f ms, to stay below %.0f: %s" % ("cleaning up", took, CLEANUP_LIMIT_MS, word))
    return lines


def main() -> int:
    """Measure and print. 1 if a goal is missed on a quiet machine, or a job failed."""
    parser = argparse.ArgumentParser(prog="scripts/bench hooks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each subject is timed (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=JOBS, help="how many jobs prepare at once (default %(default)s)")
    parser.add_argument(
        "--image", default="", help="an unpacked image with /bin/true, /bin/sh and /bin/sleep (default: busybox from packages)"
    )
    asked = parser.parse_args()
    load = Load()
    with image_directory(asked.image) as image, tempfile.TemporaryDirectory(prefix="gha-bench-") as folder:
        peers = Peers(image, Path(folder))
        try:
            peers.prepare()
            hooks = Hooks(peers, Path(folder))
            for number in range(asked.rounds + 1):
                hooks.round(counts=number > 0)
                for subject in peers.subjects:
                    took, code = (peers._mapped if subject.wrapped else peers._plain).run(subject.argv, subject.env)  # noqa: SLF001  # our own base class
                    if code:
                        raise SystemExit("%s ended with %d: %s" % (subject.name, code, peers.said()))
                    if number:
                        subject.times.append(took)
                podman = peers.podman_job()
                if podman is not None and number:
                    hooks.note(PODMAN_PREPARE, podman)
            seconds, failed = hooks.at_once(asked.jobs)
        finally:
            peers.close()
        told, busy = load.told()
        subjects: list[Subject] = [*peers.subjects]
        for name, times in hooks.times.items():
            one: Any = Subject(name, (), {})
            one.times = times
            subjects.append(one)
        print(
            "%s, Linux %s, Apptainer %s, Python %s"
            % (os.uname().machine, os.uname().release, peers.facts.apptainer_version, sys.version.split()[0])
        )
        print("image %s; %d rounds; %s" % (os.path.basename(image), asked.rounds, told))
        print(*table(subjects), sep="\n")
        for text in dict.fromkeys(peers.left_out):
            print("left out: %s" % text)
        print("%d jobs preparing at once: %.1f s, %d failed" % (asked.jobs, seconds, failed))
        lines = verdicts({one.name: statistics.median(one.times) for one in subjects}, busy)
        print(*lines, sep="\n")
        return int(failed > 0 or any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
