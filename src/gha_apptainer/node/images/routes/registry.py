"""Route registry: resolve, fetch, unpack and publish in the store. One fetches, whoever else wants the same waits for it."""

from __future__ import annotations

from gha_apptainer.domain.image_plans import RouteStep
from gha_apptainer.domain.images import PULL_NEVER, Image
from gha_apptainer.node.images.forms import placement
from gha_apptainer.node.images.routes import Errand, Look, Question


class RegistryRoute:
    """The registry that the reference names."""

    def look(self, question: Question) -> Look:
        """Whether it may be asked at all; whether it answers is seen when it is."""
        if question.policy == PULL_NEVER:
            return Look(False, "policy never forbids to ask %s" % question.ref.registry)
        place = placement(question.settings, question.host)
        why = "%s asked %s" % (question.ref.registry, "over plain http" if plain_http(question) else "over https")
        return Look(True, why, "download, then unpack as %s: %s" % (place.form, place.why), place.store)

    def take(self, errand: Errand, step: RouteStep) -> Image:  # noqa: ARG002 - the protocol's shape
        """The image, by now in the store; it says `registry` if this call or one that we waited for fetched it."""
        from gha_apptainer.node.images.fetching import fetch_from_registry  # 40 ms of TLS and URLs that a warm start never needs

        return fetch_from_registry(errand)


def plain_http(question: Question) -> bool:
    """Whether the site lists the registry among those without https."""
    return question.ref.registry in question.settings.registries_http
