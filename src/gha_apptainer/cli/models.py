"""`gha-apptainer models`: trained models to shared objects that can be trusted on any machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import click
import jsonschema
import yaml

from gha_apptainer.cli.config import PlainLoader
from gha_apptainer.domain import binary_tags
from gha_apptainer.domain.errors import InputError, Refused
from gha_apptainer.domain.findings import FAIL, Finding, worst
from gha_apptainer.models.extra import require
from gha_apptainer.node import files

FAILED = 1
"""Exit code of a check that failed."""
_EXISTING = click.Path(path_type=Path, exists=True)
_DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group("models")
def models() -> None:
    """Compile trained models, check what came out, look into it.

    \b
    Example: gha-apptainer models compile resolution.keras tX.skops -o out --name tracking
             gha-apptainer models check out
    """


_READING = (
    click.option("--name", default="", help="Name of the library; the first model's by default."),
    click.option("--pipeline", type=_EXISTING, help="YAML file that puts models together to functions."),
    click.option("--noise-input", default="noise", show_default=True, help="The input layer that takes noise, in a model with several."),
    click.option("--allow-pickle", is_flag=True, help="Open pickles, which runs whatever code is in them."),
)


def _ready() -> None:
    """What every command here needs; `--help` needs nothing."""
    for name in ("numpy", "scipy"):
        require(name)


def _reading(command: Any) -> Any:
    for option in reversed(_READING):
        command = option(command)
    return command


@models.command("compile")
@click.argument("model", nargs=-1, metavar="[NAME=]MODEL…")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory to write; made if missing."
)
@_reading
@click.option("--tag", "tags", multiple=True, help="BINARY_TAG to build for, besides the library of the local compiler. Repeatable.")
@click.option("--mode", type=click.Choice(["exact", "fast"]), default="exact", show_default=True, help="exact: same bits everywhere.")
@click.option(
    "--noise", type=click.Choice(["input", "internal"]), default="input", show_default=True, help="internal adds entries that draw it."
)
@click.option("--levels", type=click.IntRange(1, 4), default=3, show_default=True, help="Highest x86-64 level in the file.")
@click.option("--compiler", default="", help="C compiler, with arguments; gcc by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def compile_(
    model: tuple[str, ...],
    output: Path,
    *,
    name: str,
    pipeline: Path | None,
    noise_input: str,
    allow_pickle: bool,
    tags: tuple[str, ...],
    mode: str,
    noise: str,
    levels: int,
    compiler: str,
    as_json: bool,
) -> None:
    """Compile MODEL files: .keras, .skops, .onnx, .treelite, XGBoost's .json and .ubj, and pickles with --allow-pickle.

    \b
    Example: gha-apptainer models compile resolution=net.keras -o out --name tracking --noise internal
             gha-apptainer models compile --pipeline tracking.yaml -o out
    """
    _ready()
    from gha_apptainer.models import compiling
    from gha_apptainer.models.emit.program import Options
    from gha_apptainer.models.toolchain import compilers

    for text in tags:
        tag = binary_tags.parse(text)
        raise Refused(
            "%s: a library under an experiment's tag is built by the compiler that the tag names, and none was found here" % tag.text,
            cause="the compiler of this machine is another one, and a tag is a promise",
            remedy="leave --tag away: the file in `any` needs no library and runs on every Linux with this processor",
        )
    if output.exists() and any(output.iterdir()):
        raise InputError("%s is not empty" % output, remedy="name a new directory: what is released is exactly what lies there")
    program = _program(model, name, pipeline, noise_input, allow_pickle=allow_pickle)
    options = Options(mode, levels, noise == "internal")
    chosen = compilers.local(compiler)
    emitted, digests = compiling.write(program, options, output)
    built = compiling.library(emitted, program.name, options, chosen, output)
    record = compiling.record(program, options, digests, [built], output)
    if as_json:
        click.echo(json.dumps(asdict(record), indent=2, sort_keys=True))
        return
    click.echo("%s: content %s" % (program.name, record.content))
    for one in program.functions:
        click.echo("  %s: %d inputs, %d noise, %d outputs" % (one.name, len(one.inputs), one.noise, len(one.outputs)))
    click.echo("  %s by %s (local), sha256 %s" % (output / built.path, built.compiler, built.sha256))
    click.echo("next: gha-apptainer models check %s" % output)


@models.command()
@click.argument("model", nargs=-1, metavar="[NAME=]MODEL…")
@_reading
def explain(model: tuple[str, ...], *, name: str, pipeline: Path | None, noise_input: str, allow_pickle: bool) -> None:
    """Print what MODEL files become, as readable text. A directory or an .ir.json file is read as what it is.

    \b
    Example: gha-apptainer models explain net.keras
    """
    _ready()
    from gha_apptainer.models.ir.explain import lines

    program = _program(model, name, pipeline, noise_input, allow_pickle=allow_pickle)
    click.echo("\n".join(lines(program)))


@models.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--previous", type=_DIRECTORY, help="A former release, to compare speeds on this machine.")
@click.option("--compiler", default="", help="The compiler for the second build; gcc by default.")
@click.option("--report/--no-report", default=True, help="Write NAME.report.md into the directory.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def check(context: click.Context, directory: Path, *, previous: Path | None, compiler: str, report: bool, as_json: bool) -> None:
    """Check what `compile` wrote into DIRECTORY; ends with 1 if anything failed.

    \b
    Example: gha-apptainer models check out --json
    """
    _ready()
    from gha_apptainer.models import compiling
    from gha_apptainer.models.checks import judging
    from gha_apptainer.models.ir import saving

    findings: list[Finding] = []
    for one in judging.check(directory, previous=previous, compiler=compiler):
        findings.append(one)
        if not as_json:
            click.echo("%-4s %-14s %s" % (one.status, one.id, one.finding))
            if one.remedy and one.status != "ok":
                click.echo("     %s" % one.remedy)
    if as_json:
        click.echo(json.dumps({"version": 1, "status": worst(findings), "findings": [_plain(one) for one in findings]}, indent=2))
    if report:
        _, record = compiling.find(directory)
        text = judging.report(record, saving.read(directory / ("%s.ir.json" % record.name)), findings)
        files.write_whole(str(directory / ("%s.report.md" % record.name)), text.encode(), mode=0o644)
    context.exit(FAILED if worst(findings) == FAIL else 0)


def _plain(one: Finding) -> dict[str, str]:
    return {"id": one.id, "status": one.status, "finding": one.finding, "remedy": one.remedy}


@models.command()
@click.argument("library", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def inspect(library: Path) -> None:
    """Print what a shared object holds and needs, without loading it.

    \b
    Example: gha-apptainer models inspect out/any/tracking.so
    """
    _ready()
    from gha_apptainer.models.checks import elf, isa

    facts = elf.read(library)
    for name, value in asdict(facts).items():
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        click.echo("%-18s %s" % (name, text if text != "" else "-"))
    audit = isa.audit(library)
    if audit is not None:
        click.echo("%-18s %d, highest level v%d" % ("instructions", audit.instructions, audit.highest))
        for one in audit.wrong:
            click.echo("%-18s %s" % ("out of place", one))
    click.echo(json.dumps(elf.descriptor(library), indent=2))


@models.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(directory: Path, *, as_json: bool) -> None:
    """Time every function of the libraries in DIRECTORY, on each CPU level of this machine.

    \b
    Example: gha-apptainer models bench out
    """
    _ready()
    from gha_apptainer.models import compiling
    from gha_apptainer.models.checks import running

    _, record = compiling.find(directory)
    found: dict[str, Any] = {}
    for one in record.libraries:
        told, why = running.run(directory / one.path, directory / ("%s.golden.zip" % record.name))
        if told is None:
            raise InputError("%s: %s" % (one.path, why))
        found[one.tag] = {
            name: {"v" + level: here["batch_ns"] for level, here in function["at"].items()} for name, function in told["functions"].items()
        }
    if as_json:
        click.echo(json.dumps({"version": 1, "unit": "ns a row in batch", "libraries": found}, indent=2))
        return
    for tag, functions in found.items():
        for name, levels in functions.items():
            click.echo("%-12s %-30s %s  ns a row in batch" % (tag, name, "  ".join("%s %.0f" % item for item in levels.items())))


@models.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory to write; must be empty.")
@click.option("--compiler", default="", help="C compiler, with arguments; gcc by default.")
@click.pass_context
def rebuild(context: click.Context, directory: Path, *, output: Path, compiler: str) -> None:
    """Compile once more from the IR in DIRECTORY, without any training software; says whether the bytes are the same.

    \b
    Example: gha-apptainer models rebuild out -o again
    """
    _ready()
    from gha_apptainer.models import compiling
    from gha_apptainer.models.ir import saving
    from gha_apptainer.models.toolchain import compilers

    _, record = compiling.find(directory)
    program = saving.read(directory / ("%s.ir.json" % record.name))
    if saving.content_hash(program) != record.content:
        raise InputError("%s: the IR is not the one that the record names" % directory)
    if output.exists() and any(output.iterdir()):
        raise InputError("%s is not empty" % output, remedy="name a new directory")
    chosen = compilers.local(compiler)
    emitted, digests = compiling.write(program, record.options, output)
    built = compiling.library(emitted, program.name, record.options, chosen, output)
    compiling.record(program, record.options, digests, [built], output)
    former = [one for one in record.libraries if one.tag == built.tag]
    same = any(one.sha256 == built.sha256 for one in former)
    click.echo("%s by %s, sha256 %s" % (output / built.path, built.compiler, built.sha256))
    if same:
        click.echo("the same bytes as in %s" % directory)
    elif any(one.compiler == built.compiler for one in former):
        click.echo("other bytes than in %s, though the compiler is the same" % directory)
        context.exit(FAILED)
    else:
        click.echo("another compiler than in %s: %s" % (directory, ", ".join(one.compiler for one in former)))


def _program(named: Sequence[str], name: str, pipeline: Path | None, noise_input: str, *, allow_pickle: bool) -> Any:
    from gha_apptainer.models import compiling
    from gha_apptainer.models.frontends import pipelines
    from gha_apptainer.models.ir import saving

    if pipeline is not None:
        if named:
            raise InputError("a pipeline file names its models itself: %s is one too many" % named[0])
        return pipelines.program(read_pipeline(pipeline), pipeline.parent, name or _stem(pipeline), allow_pickle=allow_pickle)
    if not named:
        raise InputError("name a model, or a pipeline with --pipeline", remedy="gha-apptainer models compile --help")
    first = Path(named[0])
    if len(named) == 1 and first.is_dir():
        return saving.read(first / ("%s.ir.json" % compiling.find(first)[1].name))
    if len(named) == 1 and first.name.endswith(".ir.json"):
        return saving.read(first)
    pairs = []
    for one in named:
        function, equals, path = one.partition("=")
        pairs.append((function, Path(path)) if equals and "/" not in function else (_stem(Path(one)), Path(one)))
    return compiling.read_models(pairs, name or pairs[0][0], noise_input=noise_input, allow_pickle=allow_pickle)


def _stem(path: Path) -> str:
    return path.name.split(".")[0].replace("-", "_")


def read_pipeline(path: Path) -> Any:
    """The YAML file, checked by its schema; InputError naming the place."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), PlainLoader)  # noqa: S506  # a safe loader with one more check
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("%s is no YAML: %s" % (path, " ".join(str(error).split()))) from error
    schema = json.loads(resources.files("gha_apptainer").joinpath("schemas/models-pipeline.json").read_text("utf-8"))
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(raw))
    if wrong is not None:
        where = "/".join(str(part) for part in wrong.absolute_path) or "the file"
        raise InputError("%s: %s: %s" % (path, where, wrong.message[:300]))
    return raw
