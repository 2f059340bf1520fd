"""The instructions of a Dockerfile as one table: what is honoured, what only nearly, what is refused and why.

The parser reads it, and docs/reference/dockerfile.md is made from it, so that the two cannot differ. Pure.
"""

from __future__ import annotations

from typing import Dict, Tuple

from gha_apptainer.domain.docker_table import APPROXIMATE, HONOURED, REFUSED
from gha_apptainer.domain.values import dataclass

NO_ARGS, SHELL_OR_EXEC, WORDS, PAIRS, ONE, OTHER = "none", "shell or exec", "words", "pairs", "one", "other"


@dataclass(frozen=True)
class Flag:
    """A flag of an instruction, or a value of one (`mount=type=ssh`). `note` says what is different, or why it is refused."""

    name: str
    treatment: str = HONOURED
    note: str = ""


@dataclass(frozen=True)
class Instruction:
    """One instruction: the form of its arguments, its flags, and what is made of it."""

    form: str
    does: str
    flags: Tuple[Flag, ...] = ()
    treatment: str = HONOURED
    note: str = ""
    expands: bool = True


_FROM_NOTE = "a stage, its number, or an image; variables are not replaced in it, as with Docker"
INSTRUCTIONS: Dict[str, Instruction] = {
    "FROM": Instruction(
        ONE,
        "begins a stage from an image, an earlier stage or `scratch`",
        (Flag("platform", APPROXIMATE, "this machine's own platform only: nothing here emulates another"),),
        note="paths are refused: a site names directories by the setting `aliases`",
    ),
    "ARG": Instruction(PAIRS, "a variable of the build; the usual proxy variables need no ARG and do not count for the cache"),
    "ENV": Instruction(PAIRS, "an environment variable of build and image"),
    "LABEL": Instruction(PAIRS, "a label of the image"),
    "RUN": Instruction(
        SHELL_OR_EXEC,
        "runs a command as the stage's user, in its directory; here-documents too",
        (
            Flag("mount=type=bind"),
            Flag("mount=type=cache", APPROXIMATE, "`from` and `source` are refused"),
            Flag("mount=type=tmpfs"),
            Flag("mount=type=secret"),
            Flag("mount=type=ssh", REFUSED, "no agent is forwarded: hand a key in as a secret"),
            Flag("network=default", APPROXIMATE, "the host's network"),
            Flag("network=host"),
            Flag("network=none"),
            Flag("security=sandbox"),
            Flag("security=insecure", REFUSED, "a container never has more rights than the user who starts it"),
            Flag("device", REFUSED, "devices are not handed into a build"),
        ),
        expands=False,
    ),
    "COPY": Instruction(
        WORDS,
        "copies files of the context, a stage or an image; wildcards and here-documents too",
        (
            Flag("from", HONOURED, _FROM_NOTE),
            Flag("chown", APPROXIMATE, "with one user id there is one owner: the names are checked, every file is root's"),
            Flag("chmod", HONOURED, "octal or symbolic"),
            Flag("link", APPROXIMATE, "as without it"),
            Flag("parents"),
            Flag("exclude"),
        ),
    ),
    "ADD": Instruction(
        WORDS,
        "as COPY, and unpacks local archives (tar; gzip, bzip2, xz) and fetches http and https addresses",
        (
            Flag("chown", APPROXIMATE, "as for COPY"),
            Flag("chmod"),
            Flag("link", APPROXIMATE, "as without it"),
            Flag("exclude"),
            Flag("checksum", HONOURED, "`sha256:…` of the one file that is fetched"),
            Flag("unpack"),
            Flag("keep-git-dir", REFUSED, "git repositories are not fetched: check them out before"),
        ),
        note="git repositories are refused; so are zstd archives, which Python's library does not read",
    ),
    "CMD": Instruction(SHELL_OR_EXEC, "the image's default command", expands=False),
    "ENTRYPOINT": Instruction(SHELL_OR_EXEC, "the image's program; drops a CMD of the base image", expands=False),
    "WORKDIR": Instruction(ONE, "the working directory, made if it is missing"),
    "USER": Instruction(ONE, "the user of later RUN instructions and of the image"),
    "VOLUME": Instruction(WORDS, "a volume of the image; what RUN changes there is kept, as with BuildKit"),
    "EXPOSE": Instruction(WORDS, "a port that the image listens on"),
    "STOPSIGNAL": Instruction(ONE, "the signal that asks the image's program to end"),
    "HEALTHCHECK": Instruction(
        OTHER,
        "the image's health check, or NONE",
        (Flag("interval"), Flag("timeout"), Flag("start-period"), Flag("start-interval", APPROXIMATE, "not kept"), Flag("retries")),
        expands=False,
    ),
    "SHELL": Instruction(SHELL_OR_EXEC, "the shell of later shell forms", expands=False),
    "ONBUILD": Instruction(OTHER, "an instruction for images that are built from this one", expands=False),
    "MAINTAINER": Instruction(OTHER, "as LABEL maintainer=…", treatment=APPROXIMATE, note="deprecated by Docker too", expands=False),
}
"""Every instruction of https://docs.docker.com/reference/dockerfile/."""

NOT_TRIGGERS = ("ONBUILD", "FROM", "MAINTAINER")
"""What ONBUILD does not take."""
PROXIES = tuple(one for name in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY") for one in (name, name.lower()))
"""Build arguments that need no ARG."""


def flag_of(keyword: str, name: str, value: str) -> Tuple[Flag, ...]:
    """The rows for a flag: the one of its very value where there is one, else that of its name; none for an unknown flag."""
    rows = INSTRUCTIONS[keyword].flags
    exact = tuple(row for row in rows if row.name == "%s=%s" % (name, value))
    return exact or tuple(row for row in rows if row.name == name)
