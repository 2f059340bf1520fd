"""prepare_job, run_container_step and cleanup_job: the calls that may take their time to load what they need."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Dict, Mapping

from gha_apptainer.domain.errors import DOCKER_FAILURE, GhaError, disk_full, is_disk_full
from gha_apptainer.domain.hook_requests import CLEANUP, CONTAINER, PREPARE, HookRequest, read_request, response
from gha_apptainer.node import files
from gha_apptainer.node.hooks.answering import write_response
from gha_apptainer.node.hooks.cancelling import SIGNALS, Watch
from gha_apptainer.node.hooks.surroundings import Surroundings
from gha_apptainer.node.report import Report

if TYPE_CHECKING:
    from gha_apptainer.node.hooks.door import Call


def serve(raw: Mapping[str, Any], call: Call, watch: Watch) -> int:
    """Serve a call; its exit code. Every error is told here, once, before the runner's own line."""
    report = Report(github=True)
    try:
        around = Surroundings(_environment(), report, policy=call.policy, owner=call.owner)
        return dispatch(read_request(raw), around, watch)
    except OSError as error:
        if not is_disk_full(error):
            raise
        report.failed(disk_full(error, str(error.filename or "a file")))
    except GhaError as error:
        report.failed(error)
    return DOCKER_FAILURE


def _environment() -> Mapping[str, str]:
    """The caller's environment as our text, whatever the locale says."""
    return {files.decode(name): files.decode(value) for name, value in os.environb.items()}


def dispatch(request: HookRequest, around: Surroundings, watch: Watch) -> int:
    """The call's exit code; the response is written last, and only where everything has succeeded."""
    if request.command == PREPARE:
        from gha_apptainer.node.hooks import prepare

        answer = prepare.prepare(request, around)
        try:
            deaf()
            _respond(request, response(answer))
        except BaseException:
            prepare.undo(answer.job, around)
            raise
        return 0
    if request.command == CONTAINER:
        from gha_apptainer.node.hooks import container_step

        return container_step.run(request, around, watch)
    assert request.command == CLEANUP
    from gha_apptainer.node.hooks import cleanup

    deaf()
    return cleanup.clean(request, around)


def _respond(request: HookRequest, answer: Dict[str, object]) -> None:
    write_response(request.response_file, answer)


def deaf() -> None:
    """From here on signals are let pass: what is left to do takes no time, or must not be broken off."""
    for one in SIGNALS:
        signal.signal(one, _ignore)


def _ignore(_number: int, _frame: object) -> None:
    """A function, not SIG_IGN: children would inherit that."""
