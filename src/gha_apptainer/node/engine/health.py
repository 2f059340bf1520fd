"""Health checks, with Docker's rules: a process beside the monitor that runs the check in the container and writes down what it found.

The rules are those of dockerd (https://docs.docker.com/reference/dockerfile/#healthcheck): the first check comes one interval after the
start; while the container is starting, within its start period, the interval is the start interval and failures do not count; `retries`
failures in a row make it unhealthy, one success makes it healthy again.
"""

from __future__ import annotations

import time
from typing import Callable

from gha_apptainer.domain.containers import EXITED, HEALTHY, RUNNING, STARTING, UNHEALTHY, Container, HealthState, Probe
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.images import Health
from gha_apptainer.domain.values import replace

INTERVAL, TIMEOUT, START_INTERVAL, RETRIES = 30.0, 30.0, 5.0, 3
"""Docker's defaults."""
OUTPUT_LIMIT = 4096
KEPT = 5
"""How many runs of a check are remembered."""
_LOOK_AGAIN = 0.05


def settled(check: Health) -> Health:
    """The check with Docker's defaults where it states none."""
    return replace(
        check,
        interval=check.interval or INTERVAL,
        timeout=check.timeout or TIMEOUT,
        retries=check.retries or RETRIES,
        start_interval=check.start_interval or START_INTERVAL,
    )


def pause(check: Health, state: HealthState, age: float) -> float:
    """Seconds until the next run of a settled check, in a container that started `age` seconds ago."""
    return check.start_interval if age < check.start_period and state.status == STARTING else check.interval


def judged(check: Health, state: HealthState, probe: Probe, since: float) -> HealthState:
    """The state after one more run of a settled check, in a container that started at `since`."""
    log = (*state.log, probe)[-KEPT:]
    if probe.exit_code == 0:
        return HealthState(HEALTHY, 0, log)
    if state.status == STARTING and probe.started - since < check.start_period:
        return HealthState(STARTING, state.failing, log)
    failing = state.failing + 1
    return HealthState(UNHEALTHY if failing >= check.retries else state.status, failing, log)


def wait(look: Callable[[], Container], timeout: float) -> str:
    """healthy, unhealthy or exited as soon as it is so; starting when `timeout` seconds are over."""
    deadline = time.monotonic() + timeout
    seen = False
    while True:
        try:
            found = look()
        except InputError:
            if not seen:
                raise
            return EXITED  # it ended and removed itself
        seen = True
        if found.state != RUNNING:
            return EXITED
        status = HEALTHY if found.health is None else found.health.status
        left = deadline - time.monotonic()
        if status != STARTING or left <= 0:
            return status
        time.sleep(min(_LOOK_AGAIN, left))
