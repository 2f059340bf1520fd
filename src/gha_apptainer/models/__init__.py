"""A trained model becomes C, and a shared object that is proven equal to it.

Rule: nothing here imports numpy or another package of the extra `models` before a function is called, so that `gha-apptainer` runs without
the extra; what is missing is named by `extra.require`. The walk is `frontends` → `ir` → `emit` → `toolchain` → `checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gha_apptainer.models.loading import Function, Library, load

__all__ = ["Function", "Library", "load"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(name)
    from gha_apptainer.models import loading

    return getattr(loading, name)
