"""Which instructions a library holds: every one, function by function, against the CPU level that the function's name promises."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gha_apptainer.models.checks import elf
from gha_apptainer.models.extra import require

_LEVEL = re.compile(r"_v([1-4])(?:\.|$)")
_GROUPS: Mapping[str, int] = {
    "sse1": 1,
    "sse2": 1,
    "fpu": 1,
    "cmov": 1,
    "mode64": 1,
    "sse3": 2,
    "ssse3": 2,
    "sse41": 2,
    "sse42": 2,
    "avx": 3,
    "avx2": 3,
    "fma": 3,
    "bmi": 3,
    "bmi2": 3,
    "f16c": 3,
    "avx512": 4,
    "cdi": 4,
    "dqi": 4,
    "bwi": 4,
    "vlx": 4,
}
_NEUTRAL = frozenset(["jump", "call", "ret", "int", "iret", "privilege", "branch_relative", "not64bitmode", "vm", "novlx"])
_NAMED: Mapping[str, int] = {"popcnt": 2, "cmpxchg16b": 2, "lzcnt": 3, "movbe": 3}
_FORBIDDEN = frozenset(["ldmxcsr", "fldcw", "syscall", "sysenter", "int3", "rdrand", "rdseed", "rdtsc", "xrstor", "fxrstor"])
"""What no library of numbers has to do: change how the host process computes, call the kernel, be random."""
_ONLY_START = frozenset(("cpuid", "xgetbv"))
_STARTING = re.compile(r"gha_(cpuid|detect|start)|.*_use_level")


@dataclass(frozen=True)
class Audit:
    """How many instructions there are, the highest level of any, and what is where it should not be."""

    instructions: int
    highest: int
    wrong: tuple[str, ...]


def audit(path: Path) -> Audit | None:
    """Look at every instruction; None for processors without levels."""
    machine, functions, sections = elf.code(path)
    if machine != "EM_X86_64":
        return None
    capstone = require("capstone")
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    functions.sort(key=lambda one: one[1])
    starts = [address for _, address, _ in functions]
    count, highest = 0, 0
    wrong: dict[str, int] = {}
    for base, data in sections:
        at = 0
        for one in decoder.disasm(data, base):
            count += 1
            at = one.address + one.size - base
            place = bisect_right(starts, one.address) - 1
            name = functions[place][0] if place >= 0 and one.address < starts[place] + max(1, functions[place][2]) else ""
            groups = [str(one.group_name(group)) for group in one.groups]
            needs = max([_GROUPS.get(group, 1) for group in groups] + [_NAMED.get(one.mnemonic, 1)])
            highest = max(highest, needs)
            promised = _LEVEL.search(name)
            unknown = [group for group in groups if group not in _GROUPS and group not in _NEUTRAL]
            what = ""
            if one.mnemonic == "int3" and not name:
                continue  # what linkers fill the space between functions with
            if one.mnemonic in _FORBIDDEN or (one.mnemonic in _ONLY_START and not _STARTING.fullmatch(name)):
                what = one.mnemonic
            elif unknown:
                what = "%s (%s)" % (one.mnemonic, ", ".join(unknown))
            elif needs > (int(promised[1]) if promised else 1):
                what = "%s of level v%d" % (one.mnemonic, needs)
            if what:
                key = "%s: %s" % (name or hex(one.address), what)
                wrong[key] = wrong.get(key, 0) + 1
        if at < len(data.rstrip(b"\0\xcc")):
            wrong["bytes at %#x are no instruction" % (base + at)] = 1
    return Audit(count, highest, tuple("%s (%d times)" % item if item[1] > 1 else item[0] for item in wrong.items()))
