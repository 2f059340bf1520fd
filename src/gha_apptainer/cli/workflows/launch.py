"""Run act to its end, with everything that it starts, and read what it and the container steps say."""

from __future__ import annotations

import ctypes
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from gha_apptainer.cli.workflows.commands import Scratch
from gha_apptainer.cli.workflows.outcomes import ContainerResult
from gha_apptainer.domain.documents import from_json
from gha_apptainer.domain.errors import GhaError, HostUnfit
from gha_apptainer.domain.step_records import StepRecord
from gha_apptainer.domain.verdicts import Word
from gha_apptainer.node import files, process

ACT_VERSION = "0.2.89"
"""The release of act that the launcher was tried with, the one that the `workflow` extra installs."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CANCEL_GRACE = 60.0  # `if: always()` steps still run after a cancel
_LEFTOVER_GRACE = 10.0  # a container ends by itself when the step that owns it is gone
_LINE_LIMIT = 4 << 20
_RECORD_LIMIT = 1 << 20
_PR_SET_CHILD_SUBREAPER = 36
_STAGED = ("action.yml", "container", "workflow", "src")


def find_act(environ: Mapping[str, str]) -> str:
    """act beside our own Python, else on PATH. Raises HostUnfit."""
    beside = Path(sysconfig.get_path("scripts")) / "act"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("act", path=environ.get("PATH"))
    if found is None:
        raise HostUnfit("act is not installed", remedy="start with scripts/run, or: pip install 'gha-apptainer[workflow]'")
    return found


def act_version(act: str) -> str:
    """The version that act reports, empty if it reports none."""
    done = process.run((act, "--version"), timeout=30)
    return done.stdout.decode("utf-8", "replace").strip().rpartition(" ")[2]


def checkout() -> Path | None:
    """The checkout that this program runs from, None where it was installed without one."""
    top = Path(__file__).resolve().parents[4]
    return top if (top / "container" / "action.yml").is_file() or (top / "examples").is_dir() else None


def stage_checkout(top: Path, target: Path) -> None:
    """Copy what an action needs of the checkout: act copies the whole directory for every job, hidden folders and all."""
    for name in _STAGED:
        source = top / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache", "*.pyc"), symlinks=True)
        elif source.is_file():
            target.mkdir(exist_ok=True)
            shutil.copy2(source, target / name)


def git_facts(path: Path) -> tuple[str, str]:
    """git's top level for a directory and the address of its `origin`, empty where there is none."""
    git = shutil.which("git")
    if git is None:
        return "", ""
    env = (*process.minimal_env(), ("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"))
    env = (*env, ("GIT_CONFIG_VALUE_0", "*"))
    top = process.run((git, "-C", str(path), "rev-parse", "--show-toplevel"), env=env, timeout=30)
    if top.code:
        return "", ""
    origin = process.run((git, "-C", str(path), "remote", "get-url", "origin"), env=env, timeout=30)
    return files.decode(top.stdout).rstrip("\n"), files.decode(origin.stdout).strip() if origin.code == 0 else ""


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def scratch(environ: Mapping[str, str]) -> Iterator[Scratch]:
    """A private directory on local disk for one run, gone afterwards whatever happened."""
    base = environ.get("TMPDIR", "")
    top = Path(tempfile.mkdtemp(prefix="gha-workflow-", dir=base if base and os.access(base, os.W_OK) else "/tmp"))
    try:
        found = Scratch(top)
        for folder in (found.cache, found.home / ".config", found.results):
            folder.mkdir(parents=True, mode=0o700)
        yield found
    finally:
        files.remove_tree(str(top))


class Stopped(Exception):
    """A signal came before act was started."""


class Cancel:
    """Turns SIGINT, SIGTERM and SIGHUP into `Stopped` before act runs, and then into a wish to stop that its loop sees.

    `number` is the first signal that came, `count` how many did.
    """

    def __init__(self) -> None:
        self.number = 0
        self.count = 0
        self.raises = True
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Cancel:
        for one in _SIGNALS:
            if one != signal.SIGHUP or signal.getsignal(one) != signal.SIG_IGN:  # nohup means that it shall not count
                self._before[one] = signal.signal(one, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)  # type: ignore[arg-type]  # what signal.signal gave back before

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        self.count += 1
        if self.raises:
            raise Stopped


def run(command: Sequence[str], env: Mapping[str, str], line: Callable[[str], None], cancel: Cancel) -> int | None:
    """Run act to its end, giving every line that it writes to `line`; the exit code, negative for a signal, None if unknown.

    act gets its own session, so that only we decide what a Ctrl-C means: the first asks it to end (its `always()` steps still run, for at
    most a minute), a second kills. Afterwards nothing that it started is left: we are the reaper of its orphans.
    """
    _become_reaper()
    cancel.raises = False
    child = subprocess.Popen(
        list(command),
        env=dict(env),
        cwd=env["HOME"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _pump(child, line, cancel)
        return child.poll()
    finally:
        if child.poll() is None:
            process.end_group(child.pid)
            child.wait(30)
        if child.stdout is not None:
            child.stdout.close()
        _end_leftovers()


def _become_reaper() -> None:
    """Orphans of the run become our children, so that they can be found (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _pump(child: subprocess.Popen[bytes], line: Callable[[str], None], cancel: Cancel) -> None:
    stream = child.stdout
    assert stream is not None
    os.set_blocking(stream.fileno(), False)
    pending = b""
    told = 0
    deadline = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if cancel.count > told:
                told = cancel.count
                deadline = deadline or time.monotonic() + _CANCEL_GRACE
                child.send_signal(signal.SIGINT if told == 1 else signal.SIGKILL)
            if deadline and time.monotonic() > deadline:
                child.kill()
            ended = child.poll() is not None  # asked before reading: what it wrote before its end is in the pipe by then
            data = b"" if not selector.select(0 if ended else 0.5) else stream.read(1 << 20)
            if data:
                *lines, pending = (pending + data).split(b"\n")
                for one in lines:
                    line(files.decode(one))
                if len(pending) > _LINE_LIMIT:
                    line(files.decode(pending))
                    pending = b""
            elif ended:
                break
    if pending:
        line(files.decode(pending))


def _end_leftovers() -> None:
    """Wait for what the run left behind, then kill it. Our own children from before the run there are none."""
    deadline = time.monotonic() + _LEFTOVER_GRACE
    asked = False
    while True:
        _reap()
        left = _descendants(os.getpid())
        if not left:
            return
        if time.monotonic() > deadline:
            for pid in left:
                _kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 1.0
        elif not asked:
            asked = True
            for pid in left:
                _kill(pid, signal.SIGTERM)
        time.sleep(0.02)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _descendants(pid: int) -> list[int]:
    found = []
    for child in process.children(pid):
        found += [child, *_descendants(child)]
    return found


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def read_results(folder: Path) -> tuple[ContainerResult, ...]:
    """The records that container steps left, in the order in which they ended. What is no record is an unknown result, not none."""
    found = []
    for path in sorted(folder.glob("*.json"), key=lambda one: (one.stat().st_mtime_ns, one.name)):
        try:
            record = from_json(StepRecord, files.read_whole(str(path), limit=_RECORD_LIMIT).decode("ascii"))
        except (GhaError, OSError, UnicodeDecodeError):
            found.append(ContainerResult(step="", image="unknown", digest="", route="", exit_code=None))
            continue
        proved = record.exit_code != 0 or record.word == Word.SUCCEEDED.name
        found.append(ContainerResult(record.step, record.image, record.digest, record.route, record.exit_code if proved else None))
    return tuple(found)


def is_terminal() -> bool:
    """Whether a person looks at the log as it is written."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
