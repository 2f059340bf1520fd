"""All checks in the order of the report, and how they are run: each in a process of its own, all at once, within one time limit."""

from __future__ import annotations

import json
from typing import Callable, List, Sequence

from gha_apptainer.domain.findings import FAIL, OK, SKIP, WARN, Finding
from gha_apptainer.domain.values import dataclass
from gha_apptainer.node.host import trying
from gha_apptainer.node.host.checks import kernel, programs, site, storage
from gha_apptainer.node.host.checks.answering import Patient, Said

LIMIT_S = 4.0
"""Seconds for all checks together."""


@dataclass(frozen=True)
class Check:
    """One check: its id, the function (whose docstring says what it does), and what is lost where it does not pass."""

    id: str
    run: Callable[[Patient], Said]
    matters: str

    @property
    def does(self) -> str:
        """What it tries, in one or two sentences."""
        return " ".join((self.run.__doc__ or "").split())


CATALOGUE = (
    Check("user-namespace", kernel.user_namespace, "everything: no container starts without"),
    Check("nested-user-namespace", kernel.nested_user_namespace, "everything: Apptainer makes one inside ours"),
    Check("fresh-proc", kernel.fresh_proc, "containers see the processes around them"),
    Check("join", kernel.joining, "everything: each command enters its container"),
    Check("seccomp", kernel.seccomp, "package managers in containers, for users without subordinate ids"),
    Check("network-none", kernel.private_network, "`--network none`"),
    Check("network-card", kernel.network_card, "`--network NAME`: containers that find each other by name"),
    Check("confinement", kernel.confinement, "told for diagnosis"),
    Check("cgroup", kernel.cgroups, "whether a kill for lack of memory is known or guessed"),
    Check("limits", kernel.limits, "builds and servers that open many files"),
    Check("subordinate-ids", kernel.subordinate_ids, "told for diagnosis: they are not needed"),
    Check("apptainer", programs.apptainer, "everything"),
    Check("fuse", programs.fuse, "SIF images without unpacking, writable containers of CVMFS images"),
    Check("squashfuse", programs.squashfuse, "SIF images without unpacking"),
    Check("fuse-overlayfs", programs.fuse_overlayfs, "writable containers of CVMFS images without a copy"),
    Check("squashfs-tools", programs.squashfs_tools, "keeping images as single files, and unpacking them where FUSE is missing"),
    Check("python", programs.python, "the start of every command"),
    Check("c-library", programs.c_library, "told for diagnosis"),
    Check("state", storage.state, "everything: records of containers, and their layers"),
    Check("store", storage.store, "pulled images"),
    Check("layers", storage.layers, "writable containers"),
    Check("overlay", storage.overlay, "the fast writable layer"),
    Check("overlay-in-memory", storage.overlay_in_memory, "writable containers where all disks are shared ones"),
    Check("temporary-files", storage.temporary, "pulls and builds"),
    Check("home", storage.home, "a private installation of Apptainer"),
    Check("work-folder", storage.workspace, "steps of a workflow"),
    Check("clock", storage.clock, "leases of images on shared storage"),
    Check("settings", site.settings, "everything: a wrong settings file is never ignored"),
    Check("cvmfs", site.cvmfs, "images and software on CVMFS"),
    Check("gpu-nvidia", site.nvidia, "`gpu: nvidia`"),
    Check("gpu-rocm", site.rocm, "`gpu: rocm`"),
    Check("proxy", site.proxies, "told for diagnosis"),
)
"""A row a check; an id, once published, keeps its meaning."""


def examine(patient: Patient, checks: Sequence[Check] = CATALOGUE, limit: float = LIMIT_S) -> List[Finding]:
    """One finding per check, in order. A check that crashes, hangs or is killed is a failed finding of its own and of no other."""
    answers = trying.answers([_work(one, patient) for one in checks], limit)
    return [_finding(one, answer) for one, answer in zip(checks, answers)]


def _work(check: Check, patient: Patient) -> Callable[[], str]:
    return lambda: json.dumps(check.run(patient))


def _finding(check: Check, answer: trying.Answer) -> Finding:
    if not answer.reason:
        status, finding, remedy = json.loads(answer.text)
        if status in (OK, WARN, FAIL, SKIP):
            return Finding(check.id, status, finding, remedy)
    reason = answer.reason or "it gave no status"
    return Finding(
        check.id, FAIL, "the check itself failed: %s" % reason, "report this with the whole output of: gha-apptainer doctor --json"
    )
