"""`gha-apptainer workflow`: a GitHub workflow on this machine, by act, its container steps in Apptainer."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click

from gha_apptainer.cli.workflows import commands, documents, events, examples, launch, options, outcomes, plans
from gha_apptainer.domain.errors import HostUnfit

DEFAULT_WORKFLOW = "examples/hello/hello.yml"
"""What runs when no workflow is named, below the checkout."""

FAILED = 1
"""Exit code of a workflow that ran and did not succeed."""


class _DividedCommand(click.Command):
    """Keeps what follows the first `--` apart: those are act's options, whether a workflow is named before them or not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As the parent does, for the words before `--`."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[__name__] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


@click.command(cls=_DividedCommand, options_metavar="[OPTIONS]", epilog="Options of act follow `--`.")
@click.argument("workflow", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document on stdout; the log goes to stderr.")
@click.option("--list", "only_list", is_flag=True, help="Print jobs, labels and container steps; run nothing.")
@click.option(
    "--offline-images",
    is_flag=True,
    help="Where no registry answers, use base images built from Debian packages. The bundled examples do so by themselves.",
)
@click.pass_context
def workflow(context: click.Context, workflow: Path | None, *, as_json: bool, only_list: bool, offline_images: bool) -> None:
    """Run WORKFLOW on this machine, without Docker; without WORKFLOW the bundled example.

    \b
    Example: gha-apptainer workflow .github/workflows/ci.yml
             gha-apptainer workflow ci.yml -- --job build --env NAME=value

    What follows -- are options of act; those that need Docker are refused by name. See also `gha-apptainer explain WORKFLOW.yml`, which
    prints what every container step would do.
    """
    log = _printer(sys.stderr if as_json else sys.stdout)
    run_plan, asked, named = _prepare(workflow, context.meta[__name__])
    if only_list:
        _print_list(run_plan, as_json)
        return
    summary, number = _run(run_plan, asked, named, log, offline_images=offline_images)
    for reason in summary.reasons:
        click.echo(f"gha-apptainer: {reason}", err=True)
    click.echo(json.dumps(outcomes.as_document(summary), ensure_ascii=True, indent=2) if as_json else summary.line())
    context.exit(128 + number if number else 0 if summary.result == outcomes.SUCCESS else FAILED)


def _prepare(path: Path | None, act_options: tuple[str, ...]) -> tuple[plans.RunPlan, options.ActOptions, str]:
    asked = options.parse(act_options, os.environ)
    top = launch.checkout()
    if path is None:
        if top is None:
            raise HostUnfit("there are no bundled examples beside this installation", remedy="name a workflow file, or run from a checkout")
        path = top / DEFAULT_WORKFLOW
        named = DEFAULT_WORKFLOW
    else:
        named = str(path)
    file = path.resolve()
    read = documents.read_workflow(file)
    # the bundled examples belong to the checkout, also where it lies unpacked in somebody's repository
    root = top if top is not None and top in file.parents else plans.repository_root(file, launch.git_facts(file.parent)[0])
    return plans.plan(read, root, asked, shutil.which), asked, named


def _run(
    run_plan: plans.RunPlan, asked: options.ActOptions, named: str, log: Callable[[str], None], *, offline_images: bool
) -> tuple[outcomes.Summary, int]:
    """Run the plan; its summary and the number of the signal that ended it, or 0."""
    with launch.Cancel() as cancel:
        try:
            summary = _run_in_scratch(run_plan, asked, named, log, cancel, offline_images=offline_images)
        except launch.Stopped:
            summary = outcomes.Summary(named, outcomes.CANCELLED, ("stopped before the workflow was started",), (), ())
        return summary, cancel.number


def _run_in_scratch(
    run_plan: plans.RunPlan,
    asked: options.ActOptions,
    named: str,
    log: Callable[[str], None],
    cancel: launch.Cancel,
    *,
    offline_images: bool,
) -> outcomes.Summary:
    act = launch.find_act(os.environ)
    version = launch.act_version(act)
    if version != launch.ACT_VERSION:
        click.echo(f"gha-apptainer: warning: act {version or 'of unknown version'} here, tried with {launch.ACT_VERSION}", err=True)
    for warning in run_plan.warnings:
        click.echo(f"gha-apptainer: warning: {warning}", err=True)
    with launch.scratch(os.environ) as scratch:
        _stage(run_plan, scratch)
        settings = examples.prepare(run_plan, scratch, launch.checkout(), os.environ, log, wanted=offline_images)
        if asked.secrets:
            scratch.secrets.touch(0o600)
            scratch.secrets.write_text(commands.secrets_text(asked), encoding="utf-8", errors="surrogateescape")
        command = commands.act_command(
            act, run_plan, asked, scratch, repository=_repository(run_plan.root), actor=_actor(), port=launch.free_port()
        )
        tally = outcomes.Tally()
        many = sum(one.count or 2 for one in run_plan.expected) > 1
        colours = launch.is_terminal()

        def line(text: str) -> None:
            event = events.parse(text)
            tally.add(event)
            for shown in events.render(event, many=many, colours=colours):
                log(shown)

        log(f"workflow '{run_plan.workflow.title}' on '{run_plan.event}' in {run_plan.root}")
        env = commands.act_environment(os.environ, asked, scratch, settings)
        code = launch.run(command, env, line, cancel)
        containers = launch.read_results(scratch.results)
        return outcomes.judge(run_plan, tally, code, containers, name=named, stopped=bool(cancel.number))


def _stage(run_plan: plans.RunPlan, scratch: commands.Scratch) -> None:
    if run_plan.repositories:
        top = launch.checkout()
        if top is None:
            raise HostUnfit(
                f"the workflow uses {run_plan.repositories[0]}, and this installation has no checkout of it",
                remedy="run from a checkout, or: -- --local-repository NAME@REF=FOLDER",
            )
        launch.stage_checkout(top, scratch.checkout)


def _repository(root: Path) -> str:
    """A name for `github.repository` where git knows none; act's own would be that of act."""
    _, origin = launch.git_facts(root)
    return "" if origin else "local/" + (re.sub(r"[^A-Za-z0-9._-]", "-", root.name) or "workflow")


def _actor() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""  # a uid without a name


def _printer(stream: object) -> Callable[[str], None]:
    def log(text: str) -> None:
        data = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        click.echo(data, file=stream)  # type: ignore[arg-type]  # sys.stdout or sys.stderr

    return log


def _print_list(run_plan: plans.RunPlan, as_json: bool) -> None:
    steps = [{"step": title, "with": dict(inputs)} for title, inputs in plans.container_steps(run_plan)]
    if as_json:
        jobs = [{"id": one.key, "needs": list(one.needs), "combinations": one.count} for one in run_plan.expected]
        document = {"version": 1, "event": run_plan.event, "labels": list(run_plan.labels), "jobs": jobs, "container_steps": steps}
        click.echo(json.dumps(document, ensure_ascii=True, indent=2))
        return
    click.echo(f"{run_plan.workflow.path}: '{run_plan.workflow.title}', event {run_plan.event}, labels {', '.join(run_plan.labels)}")
    for one in run_plan.expected:
        needs = f", needs {', '.join(one.needs)}" if one.needs else ""
        click.echo(f"  job {one.key}: {one.count if one.count is not None else 'as many as its matrix gives'} run(s){needs}")
    for step in steps:
        click.echo(f"  container step '{step['step']}'")
    click.echo("`gha-apptainer explain` prints what each container step would do")
