"""Which way an image will come: every route with its verdict, decided before anything is fetched."""

from __future__ import annotations

from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_refs import ImageRef
from gha_apptainer.domain.images import Digest
from gha_apptainer.domain.secrets import Secret
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.domain.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Tuple

CHOSEN, STANDBY, LOST = "chosen", "standby", "lost"
"""A route's verdict: taken; taken if the ones before it turn out not to hold; cannot serve."""

_NO_DIGEST = Digest()


@dataclass(frozen=True)
class Login:
    """Credentials for the registry of the image that is fetched with them."""

    username: str
    password: Secret


@dataclass(frozen=True)
class RouteStep:
    """One route's answer. `why` is a reason for people; `cost` what taking it costs; `path` the root filesystem if it is known already."""

    route: str
    verdict: str
    why: str
    cost: str = ""
    path: str = ""
    digest: Digest = _NO_DIGEST


@dataclass(frozen=True)
class RoutePlan:
    """The routes in the order in which they are tried, and all that `fetch` needs to take one."""

    ref: ImageRef
    policy: str
    steps: Tuple[RouteStep, ...]
    settings: NodeSettings
    host: HostFacts

    @property
    def chosen(self) -> Optional[RouteStep]:
        """The route that is taken, or None where none can serve."""
        for step in self.steps:
            if step.verdict == CHOSEN:
                return step
        return None


def explain_lines(plan: RoutePlan) -> Tuple[str, ...]:
    """The plan for people: one line a route."""
    lines = ["%s (pull: %s)" % (plan.ref, plan.policy)]
    width = max([len(step.route) for step in plan.steps] or [0])
    for step in plan.steps:
        text = "  %-*s  %-7s  %s" % (width, step.route, step.verdict, step.why)
        if step.verdict != LOST and step.cost:
            text += " [%s]" % step.cost
        lines.append(text)
    return tuple(lines)


def plan_document(plan: RoutePlan) -> Mapping[str, object]:
    """The plan for programs (`--json`): the reference and the routes, without settings and host."""
    return {
        "reference": str(plan.ref),
        "policy": plan.policy,
        "chosen": plan.chosen.route if plan.chosen else "",
        "routes": [
            {
                "route": step.route,
                "verdict": step.verdict,
                "why": step.why,
                "cost": step.cost,
                "path": step.path,
                "digest": step.digest.text,
                "digest_kind": step.digest.kind,
            }
            for step in plan.steps
        ],
    }
