"""action.yml and its documentation, made from the one table of inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gha_apptainer.domain.action_inputs import CALLER_OUTPUT, ENV_CONTEXT, INPUTS, OUTPUTS, Input

STEP = "container"
_HEAD = """\
# Made from src/gha_apptainer/domain/action_inputs.py by scripts/generate-docs; a test compares.
name: Apptainer container step
description: %s
author: the gha-apptainer authors
branding:
  icon: box
  color: blue

"""
_DESCRIPTIONS = {
    "action.yml": "Runs commands in an Apptainer container, with GPUs and CVMFS, on runners that have no Docker",
    "container/action.yml": "Runs commands in an Apptainer container; the same action as the one above it",
}
# the file, not its directory: for a directory the interpreter loads `runpy` and its company first, a tenth of a step's start
_SOURCES = {"action.yml": "$GITHUB_ACTION_PATH/src/__main__.py", "container/action.yml": "$GITHUB_ACTION_PATH/../src/__main__.py"}
_SEARCH = """\
for python in "$GHA_APPTAINER_PYTHON" /usr/bin/python3 /usr/bin/python3.9 /usr/bin/python3.1[0-9] "$(command -v python3)"; do
  case "$python" in /*) ;; *) continue ;; esac
  if "$python" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null; then
    exec "$python" -I -S "%s" action
  fi
done
echo "::error title=no Python::the action needs Python 3.9 or newer on the runner; set GHA_APPTAINER_PYTHON to one"
exit 125
"""


def render_action(name: str) -> str:
    """The text of `action.yml` or `container/action.yml`."""
    lines = [_HEAD % _quoted(_DESCRIPTIONS[name]), "inputs:\n"]
    for row in INPUTS:
        shown = (row.name, _quoted(row.description), _quoted(row.default))
        lines.append("  %s:\n    description: %s\n    required: false\n    default: %s\n" % shown)
        if row.deprecated:
            lines.append("    deprecationMessage: %s\n" % _quoted(row.deprecation))
    lines.append("\noutputs:\n")
    for output, description in OUTPUTS:
        lines.append("  %s:\n    description: %s\n    value: ${{ steps.%s.outputs.%s }}\n" % (output, _quoted(description), STEP, output))
    lines.append("\nruns:\n  using: composite\n  steps:\n    - id: %s\n      shell: /bin/sh -e {0}\n      env:\n" % STEP)
    lines += ["        %s: ${{ inputs.%s }}\n" % (row.variable, row.name) for row in INPUTS]
    lines.append("        %s: ${{ toJSON(env) }}\n" % ENV_CONTEXT)
    lines.append("        %s: ${{ github.output }}\n" % CALLER_OUTPUT)
    lines.append("      run: |\n" + "".join("        %s\n" % line for line in (_SEARCH % _SOURCES[name]).splitlines()))
    return "".join(lines)


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar: JSON is one."""
    return json.dumps(text, ensure_ascii=False)


def inputs_table() -> str:
    """The inputs as a Markdown table, old spellings left out."""
    rows = ["| input | meaning | default |", "|---|---|---|"]
    shown = [(row, "`%s`" % row.default if row.default else "") for row in INPUTS if not row.deprecated]
    rows += ["| `%s` | %s | %s |" % (row.name, _cell(_meaning(row)), default) for row, default in shown]
    return "\n".join(rows) + "\n"


def aliases_table() -> str:
    """The old spellings as a Markdown table."""
    rows = ["| old input | what to do |", "|---|---|"]
    rows += ["| `%s` | %s |" % (row.name, _cell(row.deprecation)) for row in INPUTS if row.deprecated]
    return "\n".join(rows) + "\n"


def outputs_table() -> str:
    """The outputs as a Markdown table."""
    rows = ["| output | meaning |", "|---|---|", *("| `%s` | %s |" % (name, _cell(text)) for name, text in OUTPUTS)]
    return "\n".join(rows) + "\n"


def _meaning(row: Input) -> str:
    extra = [word for word in row.choices if word not in row.description]
    return row.description + (" One of %s." % ", ".join("`%s`" % word for word in row.choices) if extra else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def files() -> Mapping[str, str]:
    """Every file that is made, by its path below the checkout."""
    return {name: render_action(name) for name in _SOURCES}


def reference_page() -> str:
    """docs/reference/action.md."""
    return (
        "# The container action\n\n"
        "`uses: OWNER/apptainer-gha-runner/container@main`, or the repository itself without `/container`: both are the same action.\n\n"
        "## Inputs\n\n%s\n"
        "Inputs reach the action through the environment only; nothing in them is expanded on the runner. All are checked before any\n"
        "work, and an error names the input, its value and what is accepted.\n\n"
        "## Old spellings\n\n%s\n"
        "## Outputs\n\n%s\n"
        "What the step writes to `GITHUB_OUTPUT` comes besides, under the names that it chose.What the action\n"
        "promises stands, numbered, in [its cases](action-cases.md); [how to use it](../how-to/container-step.md) has examples.\n"
    ) % (inputs_table(), aliases_table(), outputs_table())
