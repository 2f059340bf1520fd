"""A Dockerfile becomes an image, over the one engine and the one store.

Rule: `read_dockerfile` and `evaluate` decide without touching anything, one small executor acts, and nothing but `build` is anybody's
affair outside. What is not done is refused with file and line, before any work where that can be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Mapping, Optional, Tuple

from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import ImageRef
from gha_apptainer.domain.images import PULL_IF_NOT_PRESENT, Image

if TYPE_CHECKING:
    from gha_apptainer.domain.hosts import HostFacts
    from gha_apptainer.domain.settings import NodeSettings

__all__ = ["build"]


def _silent(_text: str) -> None:
    """Tell nobody."""


def _no_login(_ref: ImageRef) -> Optional[Login]:
    """Ask without credentials."""


def build(
    context: str,
    dockerfile: str = "",
    args: Optional[Mapping[str, str]] = None,
    *,
    settings: NodeSettings,
    host: HostFacts,
    target: str = "",
    tags: Tuple[str, ...] = (),
    labels: Tuple[Tuple[str, str], ...] = (),
    secrets: Optional[Mapping[str, bytes]] = None,
    cache: bool = True,
    pull: str = PULL_IF_NOT_PRESENT,
    login: Callable[[ImageRef], Optional[Login]] = _no_login,
    tell: Callable[[str], None] = _silent,
    output: int = -1,
    owner_scope: str = "cli",
) -> Image:
    """The image that a Dockerfile describes, in the store; built only as far as the cache does not have it.

    `context` is a directory, `dockerfile` a path ("" is `Dockerfile` in the context). `tags` are references under which `run` finds the
    image afterwards. `secrets` are contents by id. `login` gives the credentials for a registry. `tell` hears the progress, line by line;
    `output` is a descriptor for what commands print (-1: kept, its end goes into the error of a command that fails).
    The caller must have a single thread. Raises InputError or Refused naming file and line, ImageFailed for a failed command, DiskFull,
    HostUnfit.
    """
    from gha_apptainer.node.dockerfile.building import BuildOrder, build_image

    order = BuildOrder(
        context=context, dockerfile=dockerfile, args=dict(args or {}), target=target, tags=tags, labels=labels, secrets=dict(secrets or {}),
        cache=cache, pull=pull, output=output, owner_scope=owner_scope,
    )  # fmt: skip
    return build_image(order, settings, host, login, tell).image
