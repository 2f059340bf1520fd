"""argparse in our own words: for the verbs that are not Docker's."""

from __future__ import annotations

import argparse
from typing import NoReturn, Optional, Sequence

from gha_apptainer.domain.errors import InputError
from gha_apptainer.node.main import tell


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help begins with an example and whose errors are InputError. Long options are never abbreviated."""

    def __init__(self, prog: str, example: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
        self._example = example

    def format_help(self) -> str:
        """Example, usage, options."""
        return "Example: %s\n\n%s" % (self._example, super().format_help())

    def print_help(self, file: object = None) -> None:  # noqa: ARG002  # the caller's choice of a stream is ours to make
        """Help is a result, so it goes to stdout."""
        tell(self.format_help().rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        """Raise it instead of ending the process with argparse's own code."""
        raise InputError("%s: %s" % (self.prog, message), remedy="%s --help" % self.prog)

    def read(self, argv: Sequence[str]) -> Optional[argparse.Namespace]:
        """The values, or None when help was asked for and has been printed."""
        if any(word in ("-h", "--help") for word in argv[: list(argv).index("--") if "--" in argv else len(argv)]):
            self.print_help()
            return None
        return self.parse_args(list(argv))
