"""The routes by which a reference becomes a root filesystem: one file each, one row each.

`look` tells whether the route can serve, without network; `take` does it, and raises NotServed where it turns out that it
cannot, so that the next route is tried.
"""

from __future__ import annotations

from typing import Callable, Dict, Optional, Protocol

from gha_apptainer.domain.errors import ImageFailed
from gha_apptainer.domain.image_plans import Login, RouteStep
from gha_apptainer.domain.images import Digest, Image
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.images.remote import Question, RegistryRemote

_NO_DIGEST = Digest()

__all__ = ["Errand", "Look", "NotServed", "Question", "Route", "table"]


class NotServed(ImageFailed):
    """A route that seemed able to serve turned out not to; the next one has its turn."""


@dataclass(frozen=True)
class Look:
    """What a route says before anything is fetched: whether it can serve, why or why not, at what cost, and what it knows already."""

    can: bool
    why: str
    cost: str = ""
    path: str = ""
    digest: Digest = _NO_DIGEST


@dataclass(frozen=True)
class Errand:
    """A question with what it takes to fetch: login, registry and a place for messages."""

    question: Question
    login: Optional[Login]
    remote: RegistryRemote
    tell: Callable[[str], None]


class Route(Protocol):
    """One way to a root filesystem."""

    def look(self, question: Question) -> Look:
        """Whether this route can serve; no network."""

    def take(self, errand: Errand, step: RouteStep) -> Image:
        """The image by this route. Raises NotServed, or another GhaError that ends the fetch."""


def table() -> Dict[str, Route]:
    """Every route by its name in the settings."""
    from gha_apptainer.node.images.routes import alias, cvmfs, path, registry, store

    return {
        "alias": alias.AliasRoute(),
        "path": path.PathRoute(),
        "cvmfs": cvmfs.CvmfsRoute(),
        "store": store.StoreRoute(),
        "registry": registry.RegistryRoute(),
    }
