"""What this machine can do: probed for real, once, and then passed as a value to every planner.

Rule: capabilities are tried, never guessed from versions; every try has a time limit and runs in a process of its own.
"""

from __future__ import annotations

from gha_apptainer.node.host.overlay import overlay_probe
from gha_apptainer.node.host.probing import probe
from gha_apptainer.node.host.surroundings import load_settings, state_dir

__all__ = ["load_settings", "overlay_probe", "probe", "state_dir"]
