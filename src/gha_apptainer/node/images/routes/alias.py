"""Route alias: the site says which path stands for a reference."""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.image_plans import RouteStep
from gha_apptainer.domain.image_refs import parse
from gha_apptainer.domain.images import Image
from gha_apptainer.node.images.routes import Errand, Look, Question

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple


class AliasRoute:
    """The setting `aliases`: image reference -> path of a SIF or an unpacked directory."""

    def look(self, question: Question) -> Look:
        """Whether the site has an alias for exactly this image, and whether it is there."""
        ref = question.ref
        spelled, path = self._alias(question)
        if not spelled:
            return Look(False, "no alias for it in the settings")
        if ref.pinned:
            return Look(False, "the alias %s cannot prove the digest that is asked for" % spelled)
        if not os.path.isabs(path):
            return Look(False, "the alias %s is no absolute path: %s" % (spelled, path))
        from gha_apptainer.node.images.routes.path import look_at  # only now: most references have no alias

        found = look_at(path)
        return Look(found.can, "the site's alias %s: %s" % (spelled, found.why), found.cost, found.path)

    def take(self, errand: Errand, step: RouteStep) -> Image:
        """The image at the alias's path."""
        from gha_apptainer.node.images.routes.path import image_at

        return image_at(step.path, str(errand.question.ref), "alias", errand.question.host)

    def _alias(self, question: Question) -> Tuple[str, str]:
        """The alias's spelling in the settings and its path; spellings are compared by what they mean."""
        for spelled, path in question.settings.aliases.items():
            try:
                if parse(spelled) == question.ref:
                    return spelled, path
            except InputError as error:
                raise InputError("setting aliases: " + error.what, remedy=error.remedy) from error
        return "", ""
