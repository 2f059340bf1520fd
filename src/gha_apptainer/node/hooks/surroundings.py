"""What a hook works with besides the request: policy, settings, facts, images, engine and jobs, each made when first needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Mapping, Optional

from gha_apptainer.domain.documents import from_json
from gha_apptainer.domain.errors import GhaError, InputError
from gha_apptainer.domain.hook_policy import HookPolicy, check_policy
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.image_plans import Login
from gha_apptainer.domain.image_refs import ImageRef
from gha_apptainer.domain.images import Image
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files
from gha_apptainer.node.engine.machine import Machine
from gha_apptainer.node.hooks import flat
from gha_apptainer.node.hooks.jobs import Jobs
from gha_apptainer.node.report import Progress, Report

if TYPE_CHECKING:
    from gha_apptainer.node.engine.protocol import Engine


def read_policy(path: str) -> HookPolicy:
    """The policy in a file that `gha-apptainer config compile` wrote; without a path the defaults. Raises InputError or Untrusted."""
    if not path:
        return HookPolicy()
    try:
        text = files.decode(files.read_whole(path, limit=1 << 20))
    except OSError as error:
        raise InputError(
            "cannot read the policy %s: %s" % (path, error.strerror),
            remedy="write it with: gha-apptainer config compile --policy FILE.yaml",
        ) from error
    try:
        return check_policy(from_json(HookPolicy, text), path)
    except GhaError as error:
        raise type(error)("%s: %s" % (path, error.what), cause=error.cause, remedy=error.remedy) from error


class Surroundings(Machine):
    """One call's surroundings. Tests give an engine, facts and settings of their own."""

    def __init__(
        self,
        environ: Mapping[str, str],
        report: Report,
        *,
        policy: str = "",
        owner: int = 0,
        engine: Optional[Engine] = None,
        host: Optional[HostFacts] = None,
        settings: Optional[NodeSettings] = None,
    ) -> None:
        super().__init__(environ, engine=engine, host=host, settings=settings, tell=report.line)
        self.report, self.owner = report, owner
        self.scope = flat.scope_of(dict(environ))
        self._policy_path = policy
        self._policy: Optional[HookPolicy] = None
        self._jobs: Optional[Jobs] = None

    @property
    def policy(self) -> HookPolicy:
        """The site's word."""
        if self._policy is None:
            self._policy = read_policy(self._policy_path)
        return self._policy

    @property
    def jobs(self) -> Jobs:
        """The jobs of this user on this machine."""
        if self._jobs is None:
            self._jobs = Jobs(self.host.state_dir)
        return self._jobs

    def image(self, ref: ImageRef, pull: str, login: Optional[Login]) -> Image:
        """The image, by the routes that the site has set."""
        from gha_apptainer.node import images

        plan = images.plan(ref, pull, self.settings, self.host)
        return images.fetch(plan, login, Progress(self.report, terminal=False))

    def debug(self, text: str) -> None:
        """A line that only shows where the runner was asked for debugging."""
        if self.environ.get("RUNNER_DEBUG") == "1":
            self.report.debug(text)


def memory_of_machine() -> int:
    """The bytes of memory that this machine has, 0 if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
