"""`config`: people write YAML, nodes read the JSON that is compiled from it."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path

import click
import jsonschema
import yaml

from gha_apptainer.domain.docker_values import size
from gha_apptainer.domain.documents import from_plain, plain
from gha_apptainer.domain.errors import InputError
from gha_apptainer.domain.hook_policy import HookPolicy, check_policy
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node import files
from gha_apptainer.node.host.surroundings import SITE_SETTINGS, load_settings
from gha_apptainer.node.main import environment

SHOW_VERSION = 1
"""Version of the document that `config show --json` prints."""
_SIZES = ("store_bytes", "layer_memory", "layer_image_bytes", "log_bytes")


class PlainLoader(yaml.SafeLoader):
    """YAML without its two traps: a key that stands twice is an error, and so is anything that is no plain value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:  # yaml's signature
        """A mapping whose keys are unique."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in seen:
                why = "the key %r stands twice" % key.value if isinstance(key, yaml.ScalarNode) else "a key that is no text"
                raise yaml.constructor.ConstructorError(None, None, why, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def schema(name: str = "node-settings") -> Mapping[str, object]:
    """The JSON schema of a YAML file."""
    found: Mapping[str, object] = json.loads(resources.files("gha_apptainer").joinpath("schemas/%s.json" % name).read_text("utf-8"))
    return found


def compile_settings(text: str, name: str) -> dict[str, object]:
    """YAML text as the settings that nodes read: what was written, sizes as bytes, nothing added but the version.

    Raises InputError naming file, place and every wrong key.
    """
    return _compile(text, name, NodeSettings, "node-settings")


def compile_policy(text: str, name: str) -> dict[str, object]:
    """YAML text as the policy that the runner's container hooks read. Errors as with settings."""
    document = _compile(text, name, HookPolicy, "hook-policy")
    check_policy(from_plain(HookPolicy, document), name)
    return document


def _compile(text: str, name: str, kind: type[NodeSettings] | type[HookPolicy], of: str) -> dict[str, object]:
    try:
        raw = yaml.load(text, PlainLoader)  # noqa: S506  # a safe loader with one more check
    except yaml.YAMLError as error:
        raise InputError("%s is no YAML: %s" % (name, " ".join(str(error).split()))) from error
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise InputError("%s: it is to be a mapping of names to values" % name)
    _check_keys(raw, name, kind)
    validator = jsonschema.Draft202012Validator(dict(schema(of)))
    errors = sorted(validator.iter_errors(raw), key=lambda error: [str(part) for part in error.absolute_path])
    if errors:
        raise InputError("; ".join("%s: %s: %s" % (name, _place(error), _told(error)) for error in errors))
    for key in _SIZES:
        if isinstance(raw.get(key), str):
            raw[key] = size(key, raw[key])
    document = {"version": kind.DOCUMENT_VERSION, **raw}
    from_plain(kind, document)  # the reader's own word that it will take it
    return document


def _check_keys(raw: Mapping[object, object], name: str, kind: type[NodeSettings] | type[HookPolicy]) -> None:
    known = [item.name for item in fields(kind)]
    unknown = [str(key) for key in raw if key not in known]
    if unknown:
        near = [one for key in unknown for one in difflib.get_close_matches(key, known, 1)]
        remedy = "did you mean %s?" % ", ".join(near) if near else "known keys: " + ", ".join(known)
        raise InputError("%s: unknown keys: %s" % (name, ", ".join(repr(key) for key in unknown)), remedy=remedy)


def _place(error: jsonschema.ValidationError) -> str:
    return ".".join(str(part) for part in error.absolute_path) or "the whole"


def _told(error: jsonschema.ValidationError) -> str:
    if error.validator == "pattern" and error.validator_value == "^/":
        return "%r is no absolute path" % error.instance
    if error.validator == "anyOf":
        return "%r is no size; write bytes, or a number with k, m, g or t" % error.instance
    return error.message


@click.group()
def config() -> None:
    """Settings of a site: compile FILE.yaml, show what is in force.

    Example: gha-apptainer config compile site.yaml -o /etc/gha-apptainer/node.json
    """


@config.command("compile")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Where the JSON goes; stdout without it.")
@click.option("--policy", is_flag=True, help="FILE is a policy for the runner's container hooks, not the site's settings.")
def compile_file(file: Path, output: Path | None, *, policy: bool) -> None:
    """Check FILE, YAML that people write, and write the JSON that nodes read.

    Example: gha-apptainer config compile site.yaml -o /etc/gha-apptainer/node.json
    """
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read %s: %s" % (file, error)) from error
    compiled = compile_policy(text, str(file)) if policy else compile_settings(text, str(file))
    document = json.dumps(compiled, indent=2) + "\n"
    if output is None:
        click.echo(document, nl=False)
        return
    try:
        files.write_whole(str(output.absolute()), document.encode("ascii"), mode=0o644)
    except OSError as error:
        raise InputError("cannot write %s: %s" % (output, error.strerror)) from error
    click.echo("wrote %s" % output, err=True)


@config.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(*, as_json: bool) -> None:
    """Print every setting in force, and where it comes from.

    Example: gha-apptainer config show
    """
    rows = settings_in_force(environment())
    if as_json:
        click.echo(json.dumps({"version": SHOW_VERSION, "settings": rows}, indent=2))
        return
    width = max(len(name) for name in rows)
    for name, row in rows.items():
        click.echo("%-*s  %s  (%s)" % (width, name, json.dumps(row["value"]), row["origin"]))


def settings_in_force(environ: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """Each setting with its value and its origin: a file, or our default."""
    path = environ.get("GHA_APPTAINER_SETTINGS") or SITE_SETTINGS
    values = plain(load_settings(environ))
    written = json.loads(Path(path).read_text("utf-8")) if os.path.exists(path) else {}
    return {name: {"value": value, "origin": path if name in written else "default"} for name, value in values.items()}
