"""Several pieces of work at once, each in a child of ours: the engine forks, and only a process of one thread may.

A child ends with us, whatever happens to us; what it found comes back as a document, an error as the class that it was there.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from typing import Callable, Dict, List, NoReturn, Sequence, Tuple, Union

from gha_apptainer.domain.errors import EngineFailed, GhaError, TimedOut, disk_full, is_disk_full
from gha_apptainer.node.engine import kernel
from gha_apptainer.node.engine.channel import error_named

Result = Union[str, GhaError]


def run(tasks: Sequence[Callable[[], str]], limit: float) -> List[Result]:
    """The text that each task gives, or the error that it met, in order. Raises TimedOut after `limit` seconds; nothing runs on then."""
    if len(tasks) == 1:
        return [_guarded(tasks[0])]
    running: Dict[int, Tuple[int, int, List[bytes]]] = {}
    results: List[Result] = [EngineFailed("it was lost")] * len(tasks)
    try:
        for index, task in enumerate(tasks):
            source, target = os.pipe2(os.O_CLOEXEC)
            us = os.getpid()
            child = os.fork()
            if child == 0:
                _in_child(task, target, us)
            os.close(target)
            running[source] = (index, child, [])
        deadline = time.monotonic() + limit
        while running:
            ready = select.select(list(running), [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                raise TimedOut("the job's containers are not ready within %d s" % limit)
            for handle in ready:
                part = os.read(handle, 1 << 16)
                index, child, parts = running[handle]
                if part:
                    parts.append(part)
                    continue
                os.close(handle)
                del running[handle]
                os.waitpid(child, 0)
                results[index] = _result(b"".join(parts))
        return results
    finally:
        for handle, (_, child, _parts) in running.items():
            os.close(handle)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _guarded(task: Callable[[], str]) -> Result:
    try:
        return task()
    except GhaError as error:
        return error


def _in_child(task: Callable[[], str], target: int, parent: int) -> NoReturn:
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        if os.getppid() == parent:
            _write(target, json.dumps({"done": task()}))
    except OSError as error:
        told = disk_full(error, str(error.filename or "a file")) if is_disk_full(error) else EngineFailed(str(error))
        _write(target, _failure(told))
    except GhaError as error:
        _write(target, _failure(error))
    except BaseException as error:  # noqa: BLE001  # the only way out of a forked process is a report
        _write(target, _failure(GhaError("internal error: %s: %s" % (type(error).__name__, error))))
    finally:
        os._exit(0)


def _failure(error: GhaError) -> str:
    return json.dumps({"kind": type(error).__name__, "what": error.what, "cause": error.cause, "remedy": error.remedy})


def _write(handle: int, text: str) -> None:
    data = text.encode("ascii")
    while data:
        data = data[os.write(handle, data) :]


def _result(data: bytes) -> Result:
    if not data:
        return EngineFailed("a helper of this hook was lost", cause="killed, or the machine is out of memory")
    words = json.loads(data.decode("ascii"))
    if "done" in words:
        return str(words["done"])
    return error_named(**words)
