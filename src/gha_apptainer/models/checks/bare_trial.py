"""Runs one library with nothing but Python's standard library: on an emulated old processor numpy would not start.

`python bare_trial.py LIBRARY`, a JSON document of functions and rows on stdin; level and answers, as hexadecimal bytes, go to stdout.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any


def main(path: str, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """Load at once, call the row entry for every row."""
    library = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    name = os.path.basename(path)[: -len(".so")]
    found: dict[str, Any] = {"level": getattr(library, name + "_level")(), "functions": {}}
    for one in asked:
        call = getattr(library, one["name"])
        call.restype = ctypes.c_void_p
        out = ctypes.create_string_buffer(4 * one["outputs"])
        answers = []
        for at, row in enumerate(one["rows"]):
            given = [ctypes.create_string_buffer(bytes.fromhex(row), len(row) // 2)]
            if one["noise"]:
                given.append(ctypes.create_string_buffer(bytes.fromhex(one["noise"][at]), len(one["noise"][at]) // 2))
            call(out, *given)
            answers.append(out.raw.hex())
        found["functions"][one["name"]] = answers
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.load(sys.stdin))))  # noqa: T201  # the answer of this process
