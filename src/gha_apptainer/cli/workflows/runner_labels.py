"""Which runner labels a job may ask for, known before it runs.

A label that act does not know is skipped in silence and the run is green, so every label is found, or the job is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from gha_apptainer.cli.workflows.documents import Job
from gha_apptainer.cli.workflows.matrices import Combination, combinations, has_expression

_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_LITERAL = re.compile(r"'((?:[^']|'')*)'")
_PATH = re.compile(r"\b(matrix|inputs)((?:\.[A-Za-z_][\w-]*|\[\s*'[^']*'\s*\])+)")
_KEY = re.compile(r"\.([A-Za-z_][\w-]*)|\[\s*'([^']*)'\s*\]")
_LIMIT = 256


def labels(job: Job, inputs: Mapping[str, object]) -> tuple[str, ...] | None:
    """Every label that `runs-on` may become, sorted; None where that is known only while the workflow runs."""
    found = _values(job.runs_on, _matrix_values(job), inputs)
    return None if not found else tuple(sorted(found))


def given_inputs(job: Job, inputs: Mapping[str, object]) -> Mapping[str, object]:
    """What a job may give to the workflow that it calls, each input as the list of its values; without those that only the run can tell."""
    found = {name: _values(value, _matrix_values(job), inputs) for name, value in job.inputs.items()}
    return {name: sorted(values) for name, values in found.items() if values}


def _matrix_values(job: Job) -> Sequence[Combination]:
    known = combinations(job.matrix)
    if known is not None:
        return known
    # Some axis is an expression. The literal ones still say what they may be.
    if not isinstance(job.matrix, Mapping):
        return ()
    values: list[Combination] = []
    for key, items in job.matrix.items():
        for item in items if isinstance(items, Sequence) and not isinstance(items, str) else ():
            if key in ("include", "exclude"):
                if key == "include" and isinstance(item, Mapping):
                    values.append(item)
            else:
                values.append({str(key): item})
    return [one for one in values if not has_expression(one)]


def _values(raw: object, matrix: Sequence[Combination], inputs: Mapping[str, object]) -> set[str] | None:
    if isinstance(raw, Mapping):
        return _values(raw.get("labels") or raw.get("group"), matrix, inputs)
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        parts = [_values(item, matrix, inputs) for item in raw]
        return None if None in parts or not parts else set().union(*(part for part in parts if part))
    if raw is None:
        return None
    return _text_values(str(raw), matrix, inputs)


def _text_values(text: str, matrix: Sequence[Combination], inputs: Mapping[str, object]) -> set[str] | None:
    found = {""}
    end = 0
    for match in _EXPRESSION.finditer(text):
        values = list(_expression_values(match[1].strip(), matrix, inputs))
        if not values or len(values) * len(found) > _LIMIT:
            return None
        found = {before + text[end : match.start()] + value for before in found for value in values}
        end = match.end()
    return {label for one in found for label in _flat(one + text[end:])}


def _expression_values(code: str, matrix: Sequence[Combination], inputs: Mapping[str, object]) -> set[str]:
    """What the expression may give: the values of matrix and inputs in it, and its literals. Too many do no harm."""
    found: set[str] = set()
    for match in _PATH.finditer(code):
        keys = [first or second for first, second in _KEY.findall(match[2])]
        for source in matrix if match[1] == "matrix" else (inputs,):
            found.update(_leaves(_at(source, keys)))
    without_paths = _PATH.sub("", code)
    found.update(one.replace("''", "'") for one in _LITERAL.findall(without_paths))
    return {one for one in found if one}


def _at(source: object, keys: Sequence[str]) -> object:
    for key in keys:
        source = source.get(key) if isinstance(source, Mapping) else None
    return source


def _leaves(value: object) -> Iterable[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [str(one) for one in value]
    return () if value is None or isinstance(value, Mapping) else (str(value),)


def _flat(text: str) -> Iterable[str]:
    """A label, or those of a list that `fromJSON` would make of the text."""
    if text.startswith("["):
        try:
            parsed = json.loads(text)
        except ValueError:
            return (text,)
        if isinstance(parsed, list):
            return [str(one) for one in parsed]
    return (text,) if text else ()
