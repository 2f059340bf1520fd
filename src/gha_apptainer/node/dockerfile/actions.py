"""What a build does to files, as values: the cache hashes them, the executor does them. Pure."""

from __future__ import annotations

from typing import Optional, Tuple, Union

from gha_apptainer.domain.containers import Env
from gha_apptainer.domain.values import dataclass


@dataclass(frozen=True)
class RunMount:
    """One --mount of a RUN. `origin` is a stage or image ("" the context), `source` a path in it, `id` names a cache or a secret.

    `variable` is where a secret goes as an environment variable; its `target` is empty then unless both were asked for.
    """

    kind: str
    target: str
    source: str = ""
    origin: str = ""
    read_only: bool = True
    id: str = ""
    sharing: str = "shared"
    size: int = 0
    mode: int = -1
    owner: Tuple[int, int] = (0, 0)
    required: bool = False
    variable: str = ""


@dataclass(frozen=True)
class Run:
    """A command. `unseen` is environment that does not count for the cache; `script` a here-document that is executed itself."""

    argv: Tuple[str, ...]
    env: Env
    cwd: str
    user: str
    network: str = "default"
    mounts: Tuple[RunMount, ...] = ()
    script: str = ""
    unseen: Env = ()


@dataclass(frozen=True)
class Copy:
    """Files to be copied. `origin` as for RunMount; `files` are here-documents, by name; `add` is ADD's: archives and addresses."""

    sources: Tuple[str, ...]
    target: str
    origin: str = ""
    owner: str = ""
    mode: str = ""
    parents: bool = False
    exclude: Tuple[str, ...] = ()
    files: Tuple[Tuple[str, str], ...] = ()
    add: bool = False
    checksum: str = ""
    unpack: Optional[bool] = None


@dataclass(frozen=True)
class MakeDirectory:
    """WORKDIR: the directory exists afterwards."""

    path: str


Action = Union[Run, Copy, MakeDirectory]
