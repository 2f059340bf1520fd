"""Parts of docs/reference that are made from the tables in the code, so that they cannot say anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from gha_apptainer.cli.config import schema
from gha_apptainer.domain.docker_table import APPROXIMATE, CREATE, EXEC, HONOURED, OPTIONS, REFUSED, RUN, VERBS, Option, options_of
from gha_apptainer.domain.documents import plain
from gha_apptainer.domain.hook_policy import HookPolicy
from gha_apptainer.domain.settings import NodeSettings
from gha_apptainer.node.dockerfile.table import INSTRUCTIONS, Flag
from gha_apptainer.node.host.checks.catalogue import CATALOGUE


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _spelling(row: Option) -> str:
    names = ["-" + row.short] if row.short else []
    names += ["--" + name for name in (row.long, *row.aliases)]
    return ", ".join("`%s`" % name for name in names) + (" `%s`" % row.value if row.value else "")


def docker_options() -> str:
    """Every Docker flag that the container commands know, and what becomes of it; a part of docs/reference/docker-options.md."""
    making = sorted({row for verb in (RUN, CREATE, EXEC) for row in options_of(verb)}, key=lambda row: (row.long, row.verbs))
    honoured = [(_spelling(row), _verbs(row), _meaning(row)) for row in making if row.treatment != REFUSED]
    refused = [(_spelling(row), _verbs(row), row.note) for row in making if row.treatment == REFUSED]
    parts = [
        "## `run`, `create`, `exec`\n",
        "### Honoured\n",
        _table(("option", "commands", "meaning"), honoured),
        "### Refused\n",
        _table(("option", "commands", "reason"), refused),
        "## The other commands\n",
    ]
    for verb in VERBS:
        rows = options_of(verb)
        if verb not in (RUN, CREATE, EXEC) and rows:
            parts += ["### `%s`\n" % verb, _table(("option", "meaning"), [(_spelling(row), _meaning(row)) for row in rows])]
    return "\n".join(parts).rstrip("\n")


def _verbs(row: Option) -> str:
    return ", ".join("`%s`" % verb for verb in row.verbs)


def _meaning(row: Option) -> str:
    if row.treatment == REFUSED:
        return "refused: " + row.note
    return "%s; approximately: %s" % (row.help, row.note) if row.treatment == APPROXIMATE else row.help


def job_options() -> str:
    """Every flag that `options:` of a job container or service may have; a part of docs/reference/hook-options.md."""
    rows = sorted(options_of(OPTIONS), key=lambda row: row.long)
    parts = []
    for title, treatment, head in (
        ("Honoured", HONOURED, "meaning"),
        ("Approximated, with a warning", APPROXIMATE, "what happens instead"),
        ("Refused", REFUSED, "reason"),
    ):
        found = [(_spelling(row), row.help if treatment == HONOURED else row.note) for row in rows if row.treatment == treatment]
        parts += ["## %s\n" % title, _table(("option", head), found)]
    return "\n".join(parts).rstrip("\n")


def hook_policy() -> str:
    """Every key of the hooks' policy, from the schema that checks it: a part of docs/reference/hook-policy.md."""
    return _settings(plain(HookPolicy()), "hook-policy")


def doctor_checks() -> str:
    """Every check of `gha-apptainer doctor`; a part of docs/reference/doctor.md."""
    return _table(("check", "what is done", "what needs it"), [("`%s`" % one.id, one.does, one.matters) for one in CATALOGUE])


def settings() -> str:
    """Every setting of a site, from the schema that checks it: the generated part of docs/reference/settings.md."""
    return _settings(plain(NodeSettings()), "node-settings")


def _settings(defaults: Mapping[str, object], name_of_schema: str) -> str:
    rows = []
    properties = schema(name_of_schema)["properties"]
    assert isinstance(properties, dict)
    for name, row in properties.items():
        value = defaults[name]
        rows.append(("`%s`" % name, "`%s`" % json.dumps(value) if value not in ("", [], {}) else "", row["description"]))
    return _table(("setting", "default", "meaning"), rows).rstrip("\n")


def dockerfile() -> str:
    """Every instruction of a Dockerfile and its flags, from the table that the parser reads; a part of docs/reference/dockerfile.md."""
    rows = []
    for keyword, row in INSTRUCTIONS.items():
        rows.append(("`%s`" % keyword, row.treatment, "yes" if row.expands else "", row.does + ("; " + row.note if row.note else "")))
        rows += [(_flag_spelling(keyword, flag), flag.treatment, "", flag.note) for flag in row.flags]
    return _table(("instruction", "treatment", "variables", "meaning"), rows).rstrip("\n")


def _flag_spelling(keyword: str, flag: Flag) -> str:
    return "`%s --%s`" % (keyword, flag.name)
