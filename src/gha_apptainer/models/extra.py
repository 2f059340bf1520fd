"""What a missing package of the extra `models` is told as: one error that names the extra."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from gha_apptainer.domain.errors import HostUnfit


def require(name: str) -> ModuleType:
    """The module `name`, or HostUnfit naming the extra that brings it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise HostUnfit(
            "the Python package for `import %s` is missing" % name,
            cause=str(error),
            remedy='install the extra: pip install "gha-apptainer[models]"',
        ) from error
