"""Play one job and print its result: the test runner as a program, so that a test can kill it as a runner is killed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from gha_apptainer.testing.runner.documents import read_job
from gha_apptainer.testing.runner.hooks import Caller
from gha_apptainer.testing.runner.worker import Worker


def main() -> int:
    """Play the job; 0 if it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m gha_apptainer.testing.runner", description=__doc__, allow_abbrev=False)
    parser.add_argument("job", type=Path, help="the job, a JSON file")
    parser.add_argument("--hook", type=Path, required=True, help="what ACTIONS_RUNNER_CONTAINER_HOOKS names")
    parser.add_argument("--work", type=Path, required=True, help="the runner's work directory")
    parser.add_argument("--externals", type=Path, required=True, help="the runner's externals: nodeNN/bin/node")
    parser.add_argument("--progress", action="store_true", help="name each step on stderr as it begins")
    asked = parser.parse_args()
    worker = Worker(
        read_job(asked.job.read_text(encoding="utf-8")),
        Caller(asked.hook.absolute(), asked.work.absolute(), asked.externals.absolute()),
        dict(os.environ),
        before=lambda name, _: _progress(name) if asked.progress else None,
    )
    signal.signal(signal.SIGUSR1, lambda *_: worker.cancel())
    result = worker.run()
    sys.stdout.write(json.dumps(result.plain(), indent=2) + "\n")
    return 0 if result.result == "success" else 1


def _progress(name: str) -> None:
    sys.stderr.write(name + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
