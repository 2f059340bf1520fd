"""The engine's machine code and filter: what they say, without running them."""

from __future__ import annotations

import os
import re
import runpy
import stat
import struct
import subprocess
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gha_apptainer.domain.errors import HostUnfit
from gha_apptainer.node.engine import programs

ROOT = os.path.abspath(__file__).rsplit("/tests/unit/", 1)[0]
MAKER = types.SimpleNamespace(**runpy.run_path(os.path.join(ROOT, "scripts", "build-programs"), run_name="build_programs"))
MACHINES = ("x86_64", "aarch64")
ALLOW, ZERO = 0x7FFF0000, 0x00050000
REGULAR, FIFO, SOCKET = stat.S_IFREG | 0o644, stat.S_IFIFO | 0o600, stat.S_IFSOCK | 0o600
CHARACTER, BLOCK = stat.S_IFCHR | 0o666, stat.S_IFBLK | 0o660


def verdict(program: bytes, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """What the filter answers: the part of a kernel's classic BPF that seccomp(2) allows and ours uses."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(args + (0,) * (6 - len(args))))
    steps: list[tuple[int, int, int, int]] = list(struct.iter_unpack("<HBBI", program))
    place = accumulator = 0
    for _ in range(len(steps)):  # distances are unsigned: no step is met twice
        code, true, false, operand = steps[place]
        place += 1
        if code == 0x20:
            assert operand % 4 == 0 and operand + 4 <= len(data)
            accumulator = struct.unpack_from("<I", data, operand)[0]
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            place += operand
        elif code == 0x15:
            place += true if accumulator == operand else false
        elif code == 0x06:
            return operand
        else:
            raise AssertionError("code %#x is not one of the filter's" % code)
    raise AssertionError("the filter has no end")


def answered(abi: str) -> list[int]:
    """Numbers that the filter looks at."""
    return [call.numbers[MAKER.ABIS.index(abi)] for call in MAKER.CALLS if call.numbers[MAKER.ABIS.index(abi)] is not None]


CASES = [
    pytest.param(machine, abi, call, id="%s-%s" % (abi, call.name))
    for machine in MACHINES
    for abi in MAKER.COMPAT[machine]
    for call in MAKER.CALLS
    if call.numbers[MAKER.ABIS.index(abi)] is not None
]


@pytest.mark.parametrize("machine, abi, call", CASES)
def test_each_listed_call_is_answered_with_success(machine: str, abi: str, call: types.SimpleNamespace) -> None:
    number = call.numbers[MAKER.ABIS.index(abi)]
    program, arch = programs.seccomp_filter(machine), MAKER.AUDIT[abi]
    if call.mode < 0:
        assert verdict(program, arch, number) == ZERO
        assert verdict(program, arch, number, (2**64 - 1,) * 6) == ZERO
        return
    for mode, expected in ((CHARACTER, ZERO), (BLOCK, ZERO), (REGULAR, ALLOW), (FIFO, ALLOW), (SOCKET, ALLOW), (0, ALLOW)):
        args = [stat.S_IFCHR] * 6
        args[call.mode] = mode
        assert verdict(program, arch, number, tuple(args)) == expected, oct(mode)


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, 2**32 - 1), args=st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
def test_every_other_call_is_the_kernels(machine: str, number: int, args: tuple[int, ...]) -> None:
    for abi in MAKER.COMPAT[machine]:
        plain = number & ~MAKER.X32_BIT if abi == "x86_64" else number
        if plain not in answered(abi):
            assert verdict(programs.seccomp_filter(machine), MAKER.AUDIT[abi], number, args) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_all_numbers_that_exist_are_told_apart(machine: str) -> None:
    for abi in MAKER.COMPAT[machine]:
        program, known = programs.seccomp_filter(machine), answered(abi)
        got = [number for number in range(600) if verdict(program, MAKER.AUDIT[abi], number, (CHARACTER,) * 6) == ZERO]
        assert got == sorted(known)


@pytest.mark.parametrize("machine", MACHINES)
@given(arch=st.integers(0, 2**32 - 1), number=st.integers(0, 500))
def test_a_foreign_abi_is_the_kernels(machine: str, arch: int, number: int) -> None:
    if arch not in [MAKER.AUDIT[abi] for abi in MAKER.COMPAT[machine]]:
        assert verdict(programs.seccomp_filter(machine), arch, number, (CHARACTER,) * 6) == ALLOW


def test_x32_programs_are_answered_like_64_bit_ones() -> None:
    program, arch = programs.seccomp_filter("x86_64"), MAKER.AUDIT["x86_64"]
    for number in answered("x86_64"):
        assert verdict(program, arch, number | MAKER.X32_BIT, (CHARACTER,) * 6) == ZERO
    assert verdict(program, arch, MAKER.X32_BIT) == ALLOW


def test_numbers_agree_with_this_machines_headers() -> None:
    found = 0
    for abi, header in (("x86_64", "unistd_64.h"), ("i386", "unistd_32.h")):
        for folder in ("/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm"):
            path = os.path.join(folder, header)
            if os.path.exists(path):
                with open(path, encoding="ascii") as handle:
                    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", handle.read()))
                for call in MAKER.CALLS:
                    number = call.numbers[MAKER.ABIS.index(abi)]
                    assert numbers.get(call.name) == (None if number is None else str(number)), call.name
                    found += 1
                break
    if not found:
        pytest.skip("no kernel headers for x86 here")


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ("holder", "trampoline", "switcher"))
def test_the_programs_are_small_static_and_never_writable(machine: str, name: str) -> None:
    program: bytes = getattr(programs.machine_programs(machine), name)
    assert len(program) < 1024
    head = struct.unpack_from("<16sHHIQQQIHHHHHH", program)
    assert head[0][:7] == b"\x7fELF\x02\x01\x01" and head[1] == 2
    assert head[2] == {"x86_64": 62, "aarch64": 183}[machine]
    segments = [struct.unpack_from("<IIQQQQQQ", program, head[5] + 56 * number) for number in range(head[10])]
    assert [(kind, flags) for kind, flags, *_ in segments] == [(1, 5), (0x6474E551, 6)]
    _, _, offset, address, _, in_file, in_memory, align = segments[0]
    assert (offset, in_file, in_memory) == (0, len(program), len(program)) and address % align == 0
    assert address + 176 == head[4]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_fits_the_kernels_limits(machine: str) -> None:
    program = programs.seccomp_filter(machine)
    assert len(program) % 8 == 0 and 0 < len(program) // 8 < 4096
    assert program == programs.machine_programs(machine).filter


def test_the_module_is_what_the_script_makes() -> None:
    with open(programs.__file__, encoding="ascii") as handle:
        assert handle.read() == MAKER.module()
    assert MAKER.main(["--check"]) == 0


def test_the_check_fails_on_one_changed_byte(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    changed = os.path.join(str(tmp_path), "programs.py")
    with open(changed, "w", encoding="ascii") as handle:
        handle.write(MAKER.module().replace("\\x0f\\x05", "\\x0f\\x06", 1))
    namespace = MAKER.main.__globals__
    kept = namespace["TARGET"]
    try:
        namespace["TARGET"] = changed
        assert MAKER.main(["--check"]) == 1
        assert "scripts/build-programs" in capsys.readouterr().err
        os.unlink(changed)
        assert MAKER.main(["--check"]) == 1
    finally:
        namespace["TARGET"] = kept


@pytest.mark.parametrize("machine", ("ppc64le", "riscv64", "i686", ""))
def test_another_machine_is_refused_by_name(machine: str) -> None:
    with pytest.raises(HostUnfit) as caught:
        programs.machine_programs(machine)
    assert (machine or "nameless") in caught.value.what and caught.value.remedy
    with pytest.raises(HostUnfit):
        programs.seccomp_filter(machine)


def test_the_module_imports_nothing() -> None:
    code = (
        "import sys, runpy; before = set(sys.modules); source = open(sys.argv[1], 'rb').read();"
        "exec(compile(source, 'programs', 'exec'), {'__name__': 'programs'});"
        "print(sorted(set(sys.modules) - before - {'__future__'}))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, programs.__file__], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"[]\n"
