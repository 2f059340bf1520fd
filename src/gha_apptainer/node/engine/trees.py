"""Work on the files of images without a container: in a child of ours, with the ids and the overlay that containers have.

What runs there is our own code, never a program of an image; in it root of an image is root, and nothing that it mounts is seen outside.
"""

from __future__ import annotations

import json
import os
import select
import signal
from typing import Any, Callable, List, Tuple

from gha_apptainer.domain.errors import EngineFailed, GhaError, TimedOut, disk_full, is_disk_full
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.node import process
from gha_apptainer.node.engine import kernel, layers, namespaces
from gha_apptainer.node.engine.channel import error_named
from gha_apptainer.node.engine.layers import RootPlan

_LIMIT = 4 * 3600  # seconds for one piece of work; copies of large images on slow disks are real
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def in_namespace(host: HostFacts, act: Callable[[bool], Any]) -> Any:
    """What `act` gives (as JSON has it), called in a child with a user and mount namespace of its own; its argument tells whether only one
    id is mapped there. The caller must have a single thread. The child ends with us. Raises what `act` raised.
    """
    answer_in, answer_out = os.pipe2(os.O_CLOEXEC)
    me = os.getpid()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.close(answer_in)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            if os.getppid() == me:
                _say(answer_out, _answer(host, act))
                code = 0
        finally:
            os._exit(code)
    os.close(answer_out)
    try:
        said = _hear(answer_in)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(answer_in)
        process.reap(child, 60.0)
    if not said:
        raise EngineFailed("the process that worked on an image's files was lost", cause="killed, or the machine is out of memory")
    words = json.loads(said)
    if "error" in words:
        raise error_named(**words["error"])
    return words["result"]


def change(host: HostFacts, plan: RootPlan, place: str, act: Callable[[str, bool], Any], tell: Callable[[str], None]) -> Any:
    """Call `act` with a root mounted (or copied) below `place`, as `plan` says; what it changed is in `place`/upper (or merged) then."""

    def inside(single: bool) -> Any:
        root = layers.mount_root(plan, host, place, single=single, tell=tell)
        try:
            return act(root.merged, single)
        finally:
            layers.unmount_root(root, keep=True)

    return in_namespace(host, inside)


def _answer(host: HostFacts, act: Callable[[bool], Any]) -> bytes:
    try:
        os.umask(0o022)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # id maps can only be written so
        return json.dumps({"result": act(namespaces.enter_own(host))}).encode("ascii")
    except GhaError as error:
        return _failure(type(error).__name__, error.what, error.cause, error.remedy)
    except OSError as error:
        if is_disk_full(error):
            full = disk_full(error, str(error.filename or "a file of the image"))
            return _failure("DiskFull", full.what, full.cause, full.remedy)
        return _failure("EngineFailed", "%s: %s" % (error.filename or "a file of the image", error.strerror or error), "", "")
    except Exception as error:  # noqa: BLE001  # the only way out of a forked process is a report
        return _failure("GhaError", "%s: %s" % (type(error).__name__, error), "", "")


def _failure(kind: str, what: str, cause: str, remedy: str) -> bytes:
    return json.dumps({"error": {"kind": kind, "what": what, "cause": cause, "remedy": remedy}}).encode("ascii")


def _say(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _hear(handle: int) -> bytes:
    parts: List[bytes] = []
    while True:
        if not select.select([handle], [], [], _LIMIT)[0]:
            raise TimedOut("work on an image's files did not end within %d s" % _LIMIT, cause="a dead mount, or very slow storage")
        part = os.read(handle, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)


def plan_for(image: str, above: Tuple[str, ...], reason: str) -> RootPlan:
    """The kernel's overlay over an image directory of ours and saved layers; a copy where `reason` says that the overlay does not work."""
    return RootPlan(layers.COPY, image, False, why=reason) if reason else RootPlan(layers.KERNEL, image, False, above=above)
