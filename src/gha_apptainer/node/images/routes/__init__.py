"""The routes by which a reference becomes a root filesystem: one file each, one row each.

`look` tells whether the route can serve, without network; `take` does it, and raises NotServed where it turns out that it
cannot, so that the next route is tried. A route's file is loaded when the row cannot refuse by itself: a start of a container waits for it.
"""

from __future__ import annotations

import sys

from gha_apptainer.domain.errors import ImageFailed
from gha_apptainer.domain.image_plans import Login, RouteStep
from gha_apptainer.domain.image_refs import DOCKER, PATH
from gha_apptainer.domain.images import Digest, Image
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.images.remote import Question, RegistryRemote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Dict, Optional, Protocol, Tuple
else:
    Protocol = object

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


class _Row:
    """A route by its file. `refusal` says why it cannot serve where the question alone tells; empty where the route has to look."""

    def __init__(self, module: str, name: str, refusal: Callable[[Question], str]) -> None:
        self._module, self._name, self._refusal = module, name, refusal

    def look(self, question: Question) -> Look:
        why = self._refusal(question)
        return Look(False, why) if why else self._route().look(question)

    def take(self, errand: Errand, step: RouteStep) -> Image:
        return self._route().take(errand, step)

    def _route(self) -> Route:
        module = "%s.%s" % (__name__, self._module)
        __import__(module)  # loading importlib for it would cost more than the route itself
        route: Route = getattr(sys.modules[module], self._name)()
        return route


def _no_alias(question: Question) -> str:
    if question.ref.transport == PATH:
        return "a path has no alias"
    return "" if question.settings.aliases else "no alias for it in the settings"


def _no_path(question: Question) -> str:
    return "" if question.ref.transport == PATH else "not a path"


def _no_cvmfs(question: Question) -> str:
    if question.ref.transport != DOCKER:
        return "only docker:// images are unpacked there"
    return "" if cvmfs_places(question) else "no /cvmfs on this machine"


def cvmfs_places(question: Question) -> Tuple[str, ...]:
    """The configured directories of unpacked images that can exist here at all, judged without touching them."""
    settings = question.settings
    return tuple(
        base for base in settings.cvmfs_images
        if not base.startswith("/cvmfs/") or question.host.cvmfs or base.split("/")[2] in settings.cvmfs_aliases
    )  # fmt: skip


def _not_stored(question: Question) -> str:
    return "a path needs no store" if question.ref.transport == PATH else ""


def _not_registered(question: Question) -> str:
    return "a path is in no registry" if question.ref.transport == PATH else ""


_ROWS: Dict[str, Route] = {
    "alias": _Row("alias", "AliasRoute", _no_alias),
    "path": _Row("path", "PathRoute", _no_path),
    "cvmfs": _Row("cvmfs", "CvmfsRoute", _no_cvmfs),
    "store": _Row("store", "StoreRoute", _not_stored),
    "registry": _Row("registry", "RegistryRoute", _not_registered),
}


def table() -> Dict[str, Route]:
    """Every route by its name in the settings."""
    return _ROWS
