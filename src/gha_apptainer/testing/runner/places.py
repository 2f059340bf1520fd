"""Where the runner's directories lie, on the host and in containers, and how paths in variables are translated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOCKET = "/var/run/docker.sock"


def mount(source: str, target: str, *, read_only: bool = False, written: str | None = None) -> dict[str, Any]:
    """One mount as it goes over the wire."""
    return {"userProvidedValue": written, "sourceVolumePath": source or None, "targetVolumePath": target, "readOnly": read_only}


def volume(text: str) -> dict[str, Any]:
    """A volume as a workflow writes it: `t`, `t:ro`, `s:t`, `s:t:x`; of other flags than `ro` nothing is left."""
    parts = text.split(":")
    if len(parts) == 1:
        return mount("", parts[0], written=text)
    if len(parts) == 2:
        return mount("", parts[0], read_only=True, written=text) if parts[1] == "ro" else mount(parts[0], parts[1], written=text)
    if len(parts) == 3:
        return mount(parts[0], parts[1], read_only=parts[2] == "ro", written=text)
    return mount("", text, written=text)


@dataclass(frozen=True)
class Places:
    """The runner's directories on the host."""

    work: Path
    externals: Path
    repository: str

    @property
    def workspace(self) -> Path:
        """The job's workspace."""
        name = self.repository.rpartition("/")[2]
        return self.work / name / name

    @property
    def temp(self) -> Path:
        """The directory for temporary files, new for each job."""
        return self.work / "_temp"

    @property
    def commands(self) -> Path:
        """Where the files lie by which steps tell things."""
        return self.temp / "_runner_file_commands"

    def make(self) -> None:
        """What a runner makes before a job. `_actions` is there only where an action was downloaded."""
        for path in (self.workspace, self.commands, self.temp / "_github_home", self.temp / "_github_workflow", self.work / "_tool"):
            path.mkdir(parents=True, exist_ok=True)

    def job_mounts(self) -> list[dict[str, Any]]:
        """The job container's own mounts, in the runner's order."""
        return [
            mount(SOCKET, SOCKET),
            mount(str(self.work), "/__w"),
            mount(str(self.externals), "/__e", read_only=True),
            mount(str(self.temp), "/__w/_temp"),
            mount(str(self.work / "_actions"), "/__w/_actions"),
            mount(str(self.work / "_tool"), "/__w/_tool"),
            mount(str(self.temp / "_github_home"), "/github/home"),
            mount(str(self.temp / "_github_workflow"), "/github/workflow"),
        ]

    def step_mounts(self) -> list[dict[str, Any]]:
        """A container step's own mounts."""
        return [
            mount(SOCKET, SOCKET),
            mount(str(self.temp), "/github/runner_temp"),
            mount(str(self.temp / "_github_home"), "/github/home"),
            mount(str(self.temp / "_github_workflow"), "/github/workflow"),
            mount(str(self.commands), "/github/file_commands"),
            mount(str(self.workspace), "/github/workspace"),
        ]

    def in_job(self, value: str) -> str:
        """A value as the job container sees it."""
        return _translated(
            value,
            (
                (self.temp / "_github_workflow", "/github/workflow"),
                (self.temp / "_github_home", "/github/home"),
                (self.work, "/__w"),
                (self.externals, "/__e"),
            ),
        )

    def in_step(self, value: str) -> str:
        """A value as a container step sees it."""
        return _translated(
            value,
            (
                (self.workspace, "/github/workspace"),
                (self.commands, "/github/file_commands"),
                (self.temp / "_github_workflow", "/github/workflow"),
                (self.temp / "_github_home", "/github/home"),
                (self.temp, "/github/runner_temp"),
            ),
        )


def _translated(value: str, rows: tuple[tuple[Path, str], ...]) -> str:
    for host, inside in rows:
        if value == str(host):
            return inside
        if value.startswith(str(host) + "/"):
            return inside + value[len(str(host)) :]
    return value


def translated(env: Mapping[str, str], how: Any) -> dict[str, str]:
    """All values of an environment, translated."""
    return {name: how(value) for name, value in env.items()}
