"""The one act command of a run, and the environment it starts with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gha_apptainer.cli.workflows.options import ActOptions
from gha_apptainer.cli.workflows.plans import RunPlan

PASSED_ON = (
    # how this machine is used
    "PATH", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "TMPDIR",
    # how it reaches the network, in the spellings of the common tools
    "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS",
    "PIP_CERT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "NPM_CONFIG_REGISTRY", "GOPROXY",
    # which GPUs a batch system gave
    "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK",
)  # fmt: skip
"""What of the caller's environment a workflow sees, with every LC_ and GHA_APPTAINER variable; nothing else."""


@dataclass(frozen=True)
class Scratch:
    """The private directories of one run, below `top`; all of it goes away at the end."""

    top: Path

    @property
    def cache(self) -> Path:
        """act's cache: workspaces, RUNNER_TEMP, copies of actions."""
        return self.top / "act"

    @property
    def home(self) -> Path:
        """HOME and XDG_CONFIG_HOME of act and of every step, empty at the start, so that no actrc is found."""
        return self.top / "home"

    @property
    def checkout(self) -> Path:
        """What `uses: OWNER/apptainer-gha-runner@REF` means."""
        return self.top / "checkout"

    @property
    def results(self) -> Path:
        """Where container steps leave one record each."""
        return self.top / "results"

    @property
    def secrets(self) -> Path:
        """The secrets of the command line, as a file that only the user may read."""
        return self.top / "secrets.yaml"

    @property
    def settings(self) -> Path:
        """The node settings of a bundled example that runs without a registry."""
        return self.top / "node.json"


def act_command(
    act: str, plan: RunPlan, options: ActOptions, scratch: Scratch, *, repository: str = "", actor: str = "", port: int = 0
) -> tuple[str, ...]:
    """The argument list. `repository` is the name for a directory that has no remote, `port` the artifact server's.

    Every label is mapped to this machine, every listener is on the loopback address, and no file of a habitual place is read.
    """
    command = [
        act, plan.event, "--json", "--rm", "--directory", str(plan.root), "--workflows", str(plan.workflow.path), "--no-recurse",
        "--action-cache-path", str(scratch.cache), "--use-new-action-cache", "--pull=false", "--container-daemon-socket", "-",
        "--artifact-server-addr", "127.0.0.1", "--cache-server-addr", "127.0.0.1",
    ]  # fmt: skip
    if plan.artifacts:
        command += ["--artifact-server-port", str(port)]
        if not options.given("--artifact-server-path"):
            command += ["--artifact-server-path", str(scratch.top / "artifacts")]
    command += ["--cache-server-path", str(scratch.top / "actcache")] if plan.cache else ["--no-cache-server"]
    for option in ("--env-file", "--var-file", "--input-file"):
        if not options.given(option):
            command += [option, "/dev/null"]
    if not options.given("--secret-file"):
        command += ["--secret-file", str(scratch.secrets) if options.secrets else "/dev/null"]
    if plan.job:
        command += ["--job", plan.job]
    for label in plan.labels:
        command += ["--platform", f"{label}=-self-hosted"]
    for name, folder in options.repositories:
        command += ["--local-repository", f"{name}={folder}"]
    for name in plan.repositories:
        command += ["--local-repository", f"{name}={scratch.checkout}"]
    if repository:
        command += ["--env", f"GITHUB_REPOSITORY={repository}"]
    if actor and not options.given("--actor"):
        command += ["--actor", actor]
    return (*command, *options.passed)


def act_environment(environ: Mapping[str, str], options: ActOptions, scratch: Scratch, settings: Path | None = None) -> dict[str, str]:
    """What act, and with it every step, starts with. Images and private installs stay where the caller has them."""
    kept = {name: value for name, value in environ.items() if name in PASSED_ON or name.startswith(("LC_", "GHA_APPTAINER"))}
    home = environ.get("HOME", "")
    cache = environ.get("XDG_CACHE_HOME") or (f"{home}/.cache" if home else "")
    kept.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
    kept.update(HOME=str(scratch.home), XDG_CONFIG_HOME=str(scratch.home / ".config"), GHA_APPTAINER_RESULTS=str(scratch.results))
    if cache:
        kept["XDG_CACHE_HOME"] = cache
    if settings is not None:
        kept["GHA_APPTAINER_SETTINGS"] = str(settings)
    kept.update(options.env)
    return kept


def secrets_text(options: ActOptions) -> str:
    """The secrets as the YAML that act reads, values with any characters."""
    return "".join(f"{json.dumps(name)}: {json.dumps(value)}\n" for name, value in options.secrets)
