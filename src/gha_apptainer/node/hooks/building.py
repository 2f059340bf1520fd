"""Dockerfile actions: with hooks on the runner builds nothing, so the image is built where the action runs, once for each content."""

from __future__ import annotations

import os
from typing import Optional

from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.hook_policy import check_image
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import ImageRef
from gha_apptainer.domain.images import Image
from gha_apptainer.node.hooks.surroundings import Surroundings


def build_action(dockerfile: str, around: Surroundings) -> Image:
    """The image of an action's Dockerfile; its directory is the context, as `docker build` gets it from the runner.

    Raises InputError or Refused naming file and line, ImageFailed for a command that fails.
    """
    from gha_apptainer.node.dockerfile import build

    if not os.path.isfile(dockerfile):
        raise InputError(
            "the action's Dockerfile is not there: %s" % dockerfile,
            remedy="check `image:` in its action.yml; an action of this repository needs a checkout before",
        )
    policy = around.policy

    def login(ref: ImageRef) -> Optional[Login]:
        check_image(policy, ref)  # asked for every base image, and the site's list holds for those too
        if not policy.logins:
            return None
        from gha_apptainer.node.images.credentials import read_login

        return read_login(policy.logins, ref)

    with around.report.group("Build %s" % dockerfile):
        return build(
            os.path.dirname(dockerfile),
            dockerfile,
            settings=around.settings,
            host=around.host,
            pull=policy.pull,
            login=login,
            tell=around.report.line,
            output=1,
            owner_scope="hook:build",
        )
