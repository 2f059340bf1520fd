"""How long a two-stage Dockerfile takes to build, with nothing cached and with everything, beside buildah or podman where one is installed.

usage: scripts/bench build [--rounds N] [--image DIRECTORY]

Each build is a cold process of ours, as hooks and people start it. The Dockerfile copies a context of 200 files, runs two commands,
takes what they made into a second stage, and runs one more. The base image is there already for all subjects. Subjects take turns within
each round; printed are median and the middle half. On a machine that is busy with other work there is no verdict.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine import SRC, Load, image_directory

LIMIT_S = 300.0
ROUNDS = 10
FILES = 200
DOCKERFILE = """FROM base AS made
ARG LEVEL=1
COPY source/ /source/
RUN mkdir /made && cat /source/* > /made/all
RUN echo "level $LEVEL" >> /made/all
FROM base
ENV WHERE=/srv/app
WORKDIR $WHERE
COPY --from=made /made/ ./
RUN wc -c all > count
CMD ["cat", "/srv/app/count"]
"""
COLD, CACHED = "cold", "cached"
OURS = "gha-apptainer build"


@dataclass
class Subject:
    """One builder in one state of its cache; times in seconds."""

    name: str
    state: str
    argv: Sequence[str]
    times: list[float] = field(default_factory=list)

    def fresh(self) -> Sequence[str]:
        """Its command; a cold one makes another image each time, as the first build of a file does."""
        return (*self.argv[:-1], "--build-arg", "LEVEL=%d" % len(self.times), self.argv[-1]) if self.state == COLD else self.argv

    @property
    def median(self) -> float:
        """The middle time."""
        return statistics.median(self.times)


class Bench:
    """One run in one directory."""

    def __init__(self, image: str, work: Path) -> None:
        self._image, self._work = image, work
        self.context = work / "context"
        (self.context / "source").mkdir(parents=True)
        for number in range(FILES):
            (self.context / "source" / ("file%03d" % number)).write_bytes(os.urandom(4096))
        (self.context / "Dockerfile").write_text(DOCKERFILE)
        settings = work / "settings.json"
        settings.write_text(json.dumps({"version": 1, "aliases": {"base": image, "localhost/base": image}, "cvmfs_images": []}))
        self._env = {name: os.environ[name] for name in ("HOME", "XDG_CACHE_HOME", "GHA_APPTAINER") if name in os.environ}
        self._env |= {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "GHA_APPTAINER_STATE": str(work / "state"),
            "GHA_APPTAINER_SETTINGS": str(settings),
        }
        self.subjects = [
            Subject(OURS, COLD, self._ours("--no-cache")),
            Subject(OURS, CACHED, self._ours()),
        ]
        self.left_out: list[str] = []
        for name in ("buildah", "podman"):
            self._add_peer(name)

    def _ours(self, *words: str) -> tuple[str, ...]:
        """Our command in a cold process."""
        return (sys.executable, "-I", "-S", str(SRC), "build", "-q", "-t", "bench", *words, str(self.context))

    def _add_peer(self, name: str) -> None:
        """The same file by another builder, if it is here: with its overlay where that works, else with whole copies."""
        program = shutil.which(name, path=self._env["PATH"])
        if program is None:
            self.left_out.append("%s is not installed" % name)
            return
        why = ""
        for driver in ("overlay", "vfs"):
            try:
                self.subjects += self._peer(program, name, driver)
                return
            except (subprocess.CalledProcessError, SystemExit) as error:
                why = str(error)[-200:]
        self.left_out.append("%s cannot build here: %s" % (name, why))

    def _peer(self, program: str, name: str, driver: str) -> list[Subject]:
        """A peer with its base image made and everything built once."""
        place = self._work / name / driver
        place.mkdir(parents=True)
        start = (program, "--root", str(place / "root"), "--runroot", str(place / "run"), "--storage-driver", driver)
        build = (*start, "build", "--isolation", "chroot", "--layers", "-q", "-t", "bench")
        file = place / "Dockerfile"
        file.write_text(DOCKERFILE.replace("FROM base", "FROM localhost/base"))
        base = place / "base"
        base.mkdir()
        (base / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        subprocess.run(["tar", "-C", self._image, "-cf", str(base / "base.tar"), "."], check=True, timeout=LIMIT_S)
        self._call((*start, "build", "--isolation", "chroot", "-q", "-t", "localhost/base", str(base)))
        self._call((*build, "-f", str(file), str(self.context)))
        title = "%s build, %s" % (name, driver)
        return [
            Subject(title, COLD, (*build, "--no-cache", "-f", str(file), str(self.context))),
            Subject(title, CACHED, (*build, "-f", str(file), str(self.context))),
        ]

    def _call(self, argv: Sequence[str]) -> float:
        """Seconds that a build takes; a failure ends the benchmark."""
        before = time.perf_counter()
        done = subprocess.run(argv, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False)
        took = time.perf_counter() - before
        if done.returncode:
            raise SystemExit("%s ended with %d: %s" % (" ".join(argv[:3]), done.returncode, done.stderr.decode("utf-8", "replace")))
        return took

    def rounds(self, count: int) -> None:
        """Every subject once, not counted, then all in turn. After a cold build of everybody everything is cached again."""
        for subject in self.subjects:
            self._call(subject.argv)
        for _ in range(count):
            for subject in self.subjects:
                subject.times.append(self._call(subject.fresh()))

    def sizes(self) -> tuple[int, int]:
        """What one more build of the same takes on disk: bytes of the store, and what its images would take without shared files."""
        seen: set[tuple[int, int]] = set()
        held = apparent = 0
        for path in (self._work / "state" / "store").rglob("*"):
            state = path.lstat()
            apparent += state.st_blocks * 512
            if (state.st_dev, state.st_ino) not in seen:
                seen.add((state.st_dev, state.st_ino))
                held += state.st_blocks * 512
        return held, apparent


def table(subjects: Sequence[Subject]) -> list[str]:
    """The figures as lines."""
    lines = ["%-24s %-8s %10s %22s" % ("builder", "cache", "median s", "middle half s")]
    for one in subjects:
        parts = statistics.quantiles(one.times, n=4) if len(one.times) > 1 else [one.median] * 3
        lines.append("%-24s %-8s %10.2f %22s" % (one.name, one.state, one.median, "%.2f to %.2f" % (parts[0], parts[2])))
    return lines


def judged(subjects: Sequence[Subject], busy: str) -> list[str]:
    """Ours against each peer, and cached against cold."""
    by_name: dict[tuple[str, str], Subject] = {(one.name, one.state): one for one in subjects}

    def told(ratio: float) -> str:
        return "not measured: " + busy if busy else "%.2f" % ratio

    ours = {state: by_name[OURS, state].median for state in (COLD, CACHED)}
    lines = ["cached against cold: %s" % told(ours[CACHED] / ours[COLD])]
    for (name, state), one in by_name.items():
        if name != OURS:
            lines.append("%s, against %s: %s" % (state, name, told(ours[state] / one.median)))
    return lines


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench build", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each subject is timed (default %(default)s)")
    parser.add_argument("--image", default="", help="an unpacked image with /bin/sh, cat, mkdir and wc (default: busybox from packages)")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    load = Load()
    with image_directory(asked.image) as image, tempfile.TemporaryDirectory(prefix="gha-bench-") as folder:
        bench = Bench(image, Path(folder))
        bench.rounds(asked.rounds)
        told, busy = load.told()
        held, apparent = bench.sizes()
        print("%s, Linux %s, as %s" % (os.uname().machine, os.uname().release, "root" if os.geteuid() == 0 else "an ordinary user"))
        print("image %s; %d rounds; %s" % (os.path.basename(image), asked.rounds, told))
        print(*table(bench.subjects), sep="\n")
        for text in bench.left_out:
            print("left out: %s" % text)
        print("store: %.1f MB on disk, %.1f MB if files were not shared" % (held / 1e6, apparent / 1e6))
        print(*judged(bench.subjects, busy), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
