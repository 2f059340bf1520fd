"""A monitor's process that is made before it is known what it will watch.

Half of what a start costs before Apptainer runs is loading modules: the caller's, which read the command line and find the image, and the
monitor's, which mount and fork. `begin` forks when a command that will start a container begins, so that both are loaded at the same
time on two processors. The process then waits for an order; if its caller ends without one, so does it. Without `begin`, or
where an order cannot be given this way, the monitor is forked when it is needed (`containers.ApptainerEngine`), and does the same.
"""

from __future__ import annotations

import os

from gha_apptainer.domain.containers import Stdio
from gha_apptainer.domain.documents import from_json, to_json
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files, process  # loaded here because both processes will need it
from gha_apptainer.node.engine import channel as channels
from gha_apptainer.node.interpreter import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Optional, Tuple

    from gha_apptainer.node.interpreter import socket

__all__ = ["abandon", "begin", "files", "give", "process"]

_waiting: Optional[Tuple[int, socket.socket]] = None


def begin() -> None:
    """Fork the process that waits. Of use only where it does not take the caller's own processor."""
    global _waiting
    if _waiting is not None or len(os.sched_getaffinity(0)) < 2:
        return
    ours, theirs = channels.pair()
    child = os.fork()
    if child == 0:
        ours.close()
        _wait(theirs)
    theirs.close()
    _waiting = child, ours


def give(
    identity: str, host: HostFacts, settings: NodeSettings, stdio: Optional[Stdio], *, attached: bool
) -> Optional[Tuple[int, socket.socket]]:
    """Order a recorded container from the process that waits: its pid and our end of the channel; None where there is none or it cannot.

    It has the standard streams that we had when it was made, and no other descriptor of ours.
    """
    global _waiting
    if _waiting is None or (stdio is not None and not {stdio.stdin, stdio.stdout, stdio.stderr} <= {-1, 0, 1, 2}):
        return None
    (pid, channel), _waiting = _waiting, None
    streams = "" if stdio is None else "%d %d %d" % (stdio.stdin, stdio.stdout, stdio.stderr)
    try:
        channel.send(channels.whole_message(identity, str(attached), streams, to_json(host), to_json(settings)))
    except OSError:  # it is gone, or the settings are too long for a packet
        channel.close()
        _end(pid)
        return None
    return pid, channel


def abandon() -> None:
    """End the process that waits, if it still does."""
    global _waiting
    if _waiting is not None:
        (pid, channel), _waiting = _waiting, None
        channel.close()
        _end(pid)


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.reap(pid, 10.0)


def _wait(channel: socket.socket) -> NoReturn:
    """In the forked process: load, wait, become the monitor. A signal to the caller's job is the caller's to hand on."""
    try:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(one, signal.SIG_IGN)
        from gha_apptainer.node.engine import monitor

        data = channel.recv(channels.MESSAGE)
        if data:
            identity, attached, streams, host, settings = channels.read_message(data)
            stdio = Stdio(*map(int, streams.split(" "))) if streams else None
            monitor.become(
                identity, None, from_json(HostFacts, host), from_json(NodeSettings, settings), channel, stdio, attached=attached == "True"
            )
    finally:
        os._exit(70)
