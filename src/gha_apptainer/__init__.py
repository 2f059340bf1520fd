"""GitHub Actions on machines that have Apptainer instead of Docker.

The package is a set of floors; `import-linter` keeps the rule that a floor leans only on those below it:
cli | testing, then node, then domain.
"""

from __future__ import annotations

__version__ = "0.1.0.dev0"
