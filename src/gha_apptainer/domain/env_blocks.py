"""Blocks of environment variables as people write them into an input.

The form is that of GITHUB_ENV (https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands), and besides it a bare
NAME for the runner's own value.
"""

from __future__ import annotations

from gha_apptainer.domain.containers import Env
from gha_apptainer.domain.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Tuple

_FORMS = "write NAME=VALUE, NAME<<EOF … EOF for several lines, or NAME alone for the runner's value"


def parse_env_block(text: str, environ: Mapping[str, str], what: str = "env") -> Tuple[Env, Tuple[str, ...]]:
    """The variables of a block, and the bare names that the runner has no value for.

    A name may be anything without `=` and NUL; leading blanks of a line belong to the YAML, not to the name. The last value of a name
    wins. Raises InputError naming the line.
    """
    found: Dict[str, str] = {}
    unset: List[str] = []
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at]
        at += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, mark, rest = _divided(line.lstrip())
        if not name or "\0" in line:
            raise InputError("input %s, line %d: %r has no name" % (what, number, line), remedy=_FORMS)
        if mark == "=":
            found[name] = rest
        elif mark == "<<":
            end = rest.strip()
            if not end:
                raise InputError("input %s, line %d: no word ends the block of %s" % (what, number, name), remedy=_FORMS)
            try:
                last = next(index for index in range(at, len(lines)) if lines[index].rstrip("\r") == end)
            except StopIteration:
                raise InputError(
                    "input %s, line %d: the block of %s is never ended by a line %s" % (what, number, name, end), remedy=_FORMS
                ) from None
            found[name] = "\n".join(lines[at:last])
            at = last + 1
        elif name in environ:
            found[name] = environ[name]
        else:
            unset.append(name)
    return tuple(found.items()), tuple(one for one in unset if one not in found)


def _divided(line: str) -> Tuple[str, str, str]:
    """Name, what divides it (=, <<, or nothing) and the rest; the divider that comes first counts."""
    equals, block = line.find("="), line.find("<<")
    if equals >= 0 and (block < 0 or equals < block):
        return line[:equals], "=", line[equals + 1 :]
    if block >= 0:
        return line[:block].rstrip(), "<<", line[block + 2 :]
    return line.strip(), "", ""
