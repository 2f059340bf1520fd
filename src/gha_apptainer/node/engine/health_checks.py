"""The process that runs a container's health check, again and again, until its monitor closes the pipe."""

from __future__ import annotations

import os
import select
import signal
import time

from gha_apptainer.domain.containers import ContainerSpec, Probe
from gha_apptainer.domain.documents import to_json
from gha_apptainer.domain.images import Health
from gha_apptainer.domain.values import replace
from gha_apptainer.node import files, process
from gha_apptainer.node.engine import health, join, kernel
from gha_apptainer.node.engine.flat import JoinRecord
from gha_apptainer.node.engine.records import Records
from gha_apptainer.node.engine.signals import signal_session

_END_LIMIT = 5.0


def serve(records: Records, identity: str, spec: ContainerSpec, record: JoinRecord, since: float, life: int) -> None:
    """In a fresh child of the monitor. Never returns."""
    code = 0
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        kernel.close_others({0, 1, 2, life})
        _watch(records, identity, spec, record, since, life)
    except BaseException:  # noqa: BLE001  # the only way out of a forked process; its monitor starts another one
        code = 70
    os._exit(code)


def _watch(records: Records, identity: str, spec: ContainerSpec, record: JoinRecord, since: float, life: int) -> None:
    assert spec.health is not None
    check = health.settled(spec.health)
    state = records.health(identity)  # what an earlier one of us has found
    records.write(identity, "health.json", to_json(state))
    while True:
        if select.select([life], [], [], health.pause(check, state, time.time() - since))[0]:
            return
        state = health.judged(check, state, probe(spec, check, record, life), since)
        records.write(identity, "health.json", to_json(state))


def probe(spec: ContainerSpec, check: Health, record: JoinRecord, life: int) -> Probe:
    """One run of the check, as the container's own user and with its environment. What it wrote beyond the limit is read and dropped."""
    kind, *words = check.test
    request = replace(spec.main or spec.usual, argv=("/bin/sh", "-c", *words) if kind == "CMD-SHELL" else tuple(words))
    started = time.time()
    deadline = time.monotonic() + check.timeout
    inner, outer = os.pipe2(os.O_CLOEXEC)
    try:
        command = join.Command(request.argv, request.env, request.cwd, request.user, -1, outer, outer)
        try:
            pid = join.spawn(record, command)
        except join.JoinFailed as failed:
            return Probe(started, time.time(), -1 if failed.code == join.OURS else failed.code, failed.text)
        finally:
            os.close(outer)
        born = process.start_time(pid)
        output = b""
        open_ends = {inner, life}
        while True:
            left = deadline - time.monotonic()
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return Probe(started, time.time(), join.exit_code(status), _text(output + _rest(inner)))
            if left <= 0:
                signal_session(pid, born, signal.SIGKILL)
                process.reap(pid, _END_LIMIT)
                return Probe(started, time.time(), -1, "Health check exceeded timeout (%gs)" % check.timeout)
            ready = select.select(open_ends, [], [], min(left, 0.05))[0]
            if life in ready:
                open_ends.discard(life)  # the container has ended, and the check with it
            if inner in ready:
                data = os.read(inner, 1 << 16)
                if not data:
                    open_ends.discard(inner)
                output = (output + data)[: health.OUTPUT_LIMIT + 1]
    finally:
        os.close(inner)


def _rest(inner: int) -> bytes:
    """What stands in the pipe just now; a process that the check left behind may hold it open for ever."""
    os.set_blocking(inner, False)
    try:
        return os.read(inner, health.OUTPUT_LIMIT + 1)
    except BlockingIOError:
        return b""


def _text(output: bytes) -> str:
    cut = output[: health.OUTPUT_LIMIT]
    return files.decode(cut)
