"""Plan and fetch: which route an image takes, and taking it."""

from __future__ import annotations

from gha_apptainer.domain.errors import GhaError, ImageFailed, InputError, disk_full, is_disk_full
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import CHOSEN, LOST, STANDBY, Login, RoutePlan, RouteStep
from gha_apptainer.domain.image_refs import PATH, ImageRef
from gha_apptainer.domain.images import PULL_NEVER, Image, check_pull_policy
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node.images.remote import RegistryRemote
from gha_apptainer.node.images.routes import Errand, NotServed, Question, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, List, Optional


def _silent(_text: str) -> None:
    """Tell nobody."""


def plan(ref: ImageRef, policy: str, settings: NodeSettings, host: HostFacts) -> RoutePlan:
    """What each route of the settings says to `ref`, in their order; the first that can serve is chosen, later ones stand by.

    No network is used; local and CVMFS paths are looked at, CVMFS with a time limit. Raises InputError for a route that does not
    exist, ImageFailed for an unknown policy.
    """
    question = Question(ref, check_pull_policy(policy), settings, host)
    rows = table()
    steps: List[RouteStep] = []
    chosen = ""
    for name in settings.routes:
        if name not in rows:
            raise InputError("setting routes: there is no image route %r" % name, remedy="known routes: " + ", ".join(rows))
        found = rows[name].look(question)
        verdict = LOST if not found.can else STANDBY if chosen else CHOSEN
        why = "%s (comes after %s)" % (found.why, chosen) if verdict == STANDBY else found.why
        if verdict == CHOSEN:
            chosen = name
        steps.append(RouteStep(name, verdict, why, found.cost, found.path, found.digest))
    return RoutePlan(ref, policy, tuple(steps), settings, host)


def fetch(chosen: RoutePlan, login: Optional[Login] = None, tell: Callable[[str], None] = _silent) -> Image:
    """The image by the first planned route that holds what it promised; says by `tell` which route and digest it was.

    Raises ImageFailed naming image and reason of every route, or what else ended the work: DiskFull, HostUnfit, TimedOut.
    """
    question = Question(chosen.ref, chosen.policy, chosen.settings, chosen.host)
    errand = Errand(question, login, RegistryRemote(question, login, tell), tell)
    rows = table()
    reasons = ["%s: %s" % (step.route, step.why) for step in chosen.steps if step.verdict == LOST]
    for step in chosen.steps:
        if step.verdict == LOST:
            continue
        try:
            image = rows[step.route].take(errand, step)
        except NotServed as error:
            tell("%s: not by route %s: %s" % (chosen.ref, step.route, error.what))
            reasons.append("%s: %s" % (step.route, error.what))
            continue
        except OSError as error:
            raise _translated(error, chosen, step) from error
        tell("%s: route %s, %s, %s %s" % (chosen.ref, image.route, image.digest.text or "no digest", image.form, image.rootfs))
        return image
    if chosen.ref.transport == PATH:
        reasons = [reason for reason in reasons if reason.startswith("path: ")] or reasons
    raise ImageFailed("no route leads to image %s" % chosen.ref, cause="; ".join(reasons), remedy=_remedy(chosen))


def _translated(error: OSError, chosen: RoutePlan, step: RouteStep) -> GhaError:
    """A failure of the file system, met anywhere on the way, as one of ours that names the path."""
    path = str(error.filename or step.path or step.route)
    if is_disk_full(error):
        return disk_full(error, path)
    return ImageFailed("%s, route %s: %s: %s" % (chosen.ref, step.route, path, error.strerror or error))


def _remedy(chosen: RoutePlan) -> str:
    if chosen.ref.transport == PATH:
        return "check the path; a bare NAME or NAME:TAG is taken from a registry"
    if chosen.policy == PULL_NEVER:
        return "fetch it before (gha-apptainer image pull), or use pull: if-not-present"
    return "gha-apptainer image resolve --explain shows every route"
