"""What an unpacked image says of itself: the fallback where no OCI configuration came with it.

Apptainer and the CVMFS publisher write ENV, ENTRYPOINT and CMD as shell text into `.singularity.d`; user, working directory,
volumes, ports, stop signal and health check are lost there. The text is read, never run: an image must not execute anything in our process.
"""

from __future__ import annotations

import os

from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.images import OciConfig
from gha_apptainer.node.files import decode, read_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Mapping, Tuple

ENV_FILES = (".singularity.d/env/10-docker2singularity.sh", ".singularity.d/env/10-docker.sh", ".singularity.d/env/90-environment.sh")
RUNSCRIPT = ".singularity.d/runscript"
_LIMIT = 1 << 20
_EXPORT = r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$"
_ESCAPED = r'\\([$`"\\])'


def config_of_directory(rootfs: str) -> OciConfig:
    """The configuration that an unpacked image's own files tell; empty where it has none."""
    texts: Dict[str, str] = {}
    for name in (*ENV_FILES, RUNSCRIPT):
        text = _read_inside(rootfs, name)
        if text:
            texts[name] = text
    return config_of_texts(texts)


def config_of_texts(texts: Mapping[str, str]) -> OciConfig:
    """As config_of_directory, from the files' texts."""
    env: Dict[str, str] = {}
    for name in ENV_FILES:
        for line in texts.get(name, "").splitlines():
            found = _assignment(line)
            if found:
                env[found[0]] = found[1]
    script = texts.get(RUNSCRIPT, "")
    return OciConfig(entrypoint=_words(script, "OCI_ENTRYPOINT"), cmd=_words(script, "OCI_CMD"), env=tuple(env.items()))


def _read_inside(rootfs: str, name: str) -> str:
    """The text of a file of the image, where no part of its path is a link: an image could point one at any file of ours."""
    path = rootfs
    for part in name.split("/"):
        path = os.path.join(path, part)
        if os.path.islink(path):
            return ""
    try:
        return decode(read_whole(path, limit=_LIMIT))
    except (OSError, GhaError):
        return ""


def _assignment(line: str) -> Tuple[str, ...]:
    """Name and value of `export A="v"` or `export A="${A:-"v"}"`; empty for what would need a shell to understand."""
    import re

    found = re.match(_EXPORT, line)
    if not found:
        return ()
    name, text = found.group(1), found.group(2).strip()
    default = '"${%s:-' % name
    if text.startswith(default) and text.endswith('}"'):
        text = text[len(default) : -2]
    if len(text) >= 2 and text[0] == text[-1] == "'" and "'" not in text[1:-1]:
        return name, text[1:-1]
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
        bare = re.sub(_ESCAPED, "", text)
        if "$" in bare or "`" in bare or '"' in bare:
            return ()  # an expansion: only a shell knows its value
        return name, re.sub(_ESCAPED, r"\1", text)
    return (name, text) if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]*", text) else ()


def _words(script: str, name: str) -> Tuple[str, ...]:
    """The argument list that a runscript keeps as `NAME='"a" "b c"'`."""
    found: List[str] = []
    if name + "=" not in script:
        return ()
    import re

    match = re.search(r"^%s=(.*)$" % name, script, re.MULTILINE)
    if match:
        import shlex

        try:
            found = shlex.split("".join(shlex.split(match.group(1))))
        except ValueError:
            return ()
    return tuple(found)
