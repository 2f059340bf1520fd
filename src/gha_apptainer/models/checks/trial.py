"""Runs one library in a process of its own: `python trial.py SOURCES LIBRARY VECTORS`. What it found goes to stdout as one JSON document.

A library that kills the process it is loaded into kills this one.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

SPEED_ROWS = 512
SPEED_PASSES = 7


def main(library: str, stored: str) -> dict[str, Any]:
    """Load, and answer every vector on every level, by batch and row by row."""
    import numpy as np

    from gha_apptainer.models import loading, vectors

    loaded = loading.load(library)
    answers = vectors.decode(Path(stored).read_bytes(), stored)
    chosen = loaded.level
    found: dict[str, Any] = {"level": chosen, "mode": loaded.mode, "content": loaded.content, "functions": {}, "levels": []}
    levels = [level for level in (1, 2, 3, 4) if loaded.use_level(level)] if chosen else [0]
    for level in levels:
        if chosen:
            loaded.use_level(level)
        found["levels"].append(level)
        for name, function in loaded.functions.items():
            told = found["functions"].setdefault(name, {"known": name in answers, "at": {}})
            if name not in answers:
                continue
            here: dict[str, Any] = {}
            bits = hashlib.sha256()
            same = True
            for kind, one in zip(("golden", "edge"), answers[name], strict=True):
                batch, rows = function(one.rows, one.noise), function.row_by_row(one.rows, one.noise)
                bits.update(batch.tobytes())
                same = same and batch.tobytes() == rows.tobytes()
                here[kind] = {
                    "bad": max(one.bad(batch), one.bad(rows)),
                    "of": int(batch.size),
                    "worst": max(one.worst(batch), one.worst(rows)),
                }
            golden = answers[name][0]
            many = np.resize(golden.rows, (SPEED_ROWS, golden.rows.shape[1]))
            noise = None if golden.noise is None else np.resize(golden.noise, (SPEED_ROWS, golden.noise.shape[1]))
            best = min(_timed(function, many, noise) for _ in range(SPEED_PASSES))
            here |= {"bits": bits.hexdigest(), "row_is_batch": same, "batch_ns": best / SPEED_ROWS * 1e9}
            told["at"][str(level)] = here
    return found


def _timed(function: Any, rows: Any, noise: Any) -> float:
    began = time.perf_counter()
    function(rows, noise)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(main(sys.argv[2], sys.argv[3])))  # noqa: T201  # the answer of this process
