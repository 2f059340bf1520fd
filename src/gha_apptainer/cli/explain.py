"""`gha-apptainer explain`: what the container steps of a workflow would do, step by step, without network and without running anything."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gha_apptainer.cli import explaining
from gha_apptainer.cli.workflows import documents, launch, plans
from gha_apptainer.domain.hosts import HostFacts
from gha_apptainer.domain.settings import NodeSettings

FAILED = 1
"""Exit code where a step could not run as it is written."""


@click.command(options_metavar="[OPTIONS]")
@click.argument("workflow", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def explain(context: click.Context, workflow: Path, *, as_json: bool) -> None:
    """Print, step by step, what WORKFLOW would run: image and route, command, binds, names of variables, directory.

    \b
    Example: gha-apptainer explain .github/workflows/ci.yml

    Nothing runs and no network is used. Expressions are printed as they stand; what only the image can tell is named so. The exit code is 1
    where a step could not run as it is written.
    """
    file = workflow.resolve()
    read = documents.read_workflow(file)
    top_level, _ = launch.git_facts(file.parent)
    root = plans.repository_root(file, top_level)
    settings, host = _machine(os.environ)
    jobs = explaining.explain_workflow(documents.load_yaml(file), read, root, settings, host)
    document = {"version": explaining.DOCUMENT, "workflow": str(workflow), "name": read.title, "jobs": jobs}
    click.echo(json.dumps(document, indent=2, ensure_ascii=True) if as_json else "\n".join(explaining.render(document)))
    context.exit(FAILED if any(_wrong(step) for job in jobs for step in job["steps"]) else 0)


def _wrong(step: Mapping[str, Any]) -> bool:
    return bool(step.get("error"))


def _machine(environ: Mapping[str, str]) -> tuple[NodeSettings, HostFacts]:
    from gha_apptainer.node import host

    settings = host.load_settings(environ)
    return settings, host.probe(settings, environ)
