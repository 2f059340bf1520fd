"""Emitted C against the float64 interpreter: random programs, every CPU level of this machine, gcc and clang, row and batch."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import model_graphs
import numpy as np
import pytest
import ziglang

from gha_apptainer.models import loading
from gha_apptainer.models.checks import elf, isa
from gha_apptainer.models.emit.program import EXACT, FAST, Options, emit
from gha_apptainer.models.ir import draws, interpret, ops
from gha_apptainer.models.ir.graphs import INPUT, NOISE, Builder, Graph, Program, numbered
from gha_apptainer.models.toolchain import compilers
from gha_apptainer.models.toolchain.building import build

CLANG = "%s cc" % Path(str(ziglang.__file__)).with_name("zig")
LEVELS = (1, 2, 3, 4)
FUNCTIONS = 12


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str, str], tuple[Program, loading.Library]]:
    top = tmp_path_factory.mktemp("made")

    @cache
    def make(seed: int, mode: str, compiler: str) -> tuple[Program, loading.Library]:
        program = model_graphs.program(seed, FUNCTIONS)
        options = Options(mode, 4, internal_noise=True)
        place = top / ("%d-%s-%s" % (seed, mode, compiler))
        found = compilers.local({"gcc": "", "clang": CLANG}[compiler])
        return program, loading.load(build(emit(program, options), "lib", found, options, place).path)

    return make


def levels(library: loading.Library) -> Iterator[int]:
    """Sets one level after the other, as far as this processor goes."""
    for level in LEVELS:
        if library.use_level(level):
            yield level


def near(got: Any, one: Graph, x: Any, noise: Any) -> str:
    """Empty, or where the numbers are too far from the reference."""
    wanted, slack = interpret.evaluate(one, x, noise), interpret.tolerance(one, x, noise)
    with np.errstate(invalid="ignore"):
        good = (np.isnan(got) & np.isnan(wanted)) | (got == wanted) | (np.abs(got - wanted) <= slack)
    if good.all():
        return ""
    row, column = np.argwhere(~good)[0]
    told = (one.name, row, column, got[row, column], wanted[row, column], slack[row, column], [node.op.op for node in one.nodes])
    return "%s row %d column %d: %r, wanted %r within %r; %s" % told


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", [EXACT, FAST], ids=["unfused", "fused"])
def test_random_programs_give_what_the_interpreter_gives(made: Any, seed: int, mode: str) -> None:
    for compiler in ("gcc", "clang"):
        program, library = made(seed, mode, compiler)
        for one in program.functions:
            x, noise = model_graphs.rows(np.random.default_rng(seed), one, 61)
            for level in levels(library):
                assert near(library[one.name](x, noise), one, x, noise) == "", (compiler, level)
                assert near(library[one.name].row_by_row(x, noise), one, x, noise) == "", (compiler, level)


@pytest.mark.parametrize("seed", range(3))
def test_exact_bits_depend_on_nothing(made: Any, seed: int) -> None:
    """Neither on the level, the compiler, the number of rows nor their place in the batch."""
    program = made(seed, EXACT, "gcc")[0]
    for one in program.functions:
        x, noise = model_graphs.rows(np.random.default_rng(seed), one, 61)
        found: dict[bytes, str] = {}
        for compiler in ("gcc", "clang"):
            library = made(seed, EXACT, compiler)[1]
            for level in levels(library):
                function = library[one.name]
                found[function(x, noise).tobytes()] = "%s v%d batch" % (compiler, level)
                found[function.row_by_row(x, noise).tobytes()] = "%s v%d row" % (compiler, level)
                parts = [function(x[at : at + 7], None if noise is None else noise[at : at + 7]) for at in range(0, len(x), 7)]
                found[np.concatenate(parts).tobytes()] = "%s v%d parts" % (compiler, level)
        assert len(found) == 1, (one.name, found.values())


def test_nan_has_one_pattern(made: Any) -> None:
    program, library = made(0, EXACT, "gcc")
    seen = 0
    for one in program.functions:
        x, noise = model_graphs.rows(np.random.default_rng(1), one, 61)
        x.view(np.uint32)[5, 0] = 0xFFC12345
        words = library[one.name](x, noise).view(np.uint32)
        bad = words[(words & 0x7FFFFFFF) > 0x7F800000]
        seen += len(bad)
        assert set(bad.tolist()) <= {0x7FC00000}
    assert seen


def test_own_noise_is_the_published_generator_whatever_the_batch(tmp_path: Path) -> None:
    """Also past 2**32 rows; a network gets the same numbers in every batching."""
    joined = Builder()
    value = joined.add("joined", ops.Concat(), [INPUT, NOISE])
    value = joined.add("product", model_graphs.affine(np.random.default_rng(1), 25, 40), [value])
    network = joined.graph("network", numbered("x", 5), 20, value, numbered("y", 40))
    program = Program("noise", (Graph("bare", ("x",), 130, (), NOISE, numbered("z", 130)), network))
    options = Options(EXACT, 4, internal_noise=True)
    library = loading.load(build(emit(program, options), "noise", compilers.local(), options, tmp_path).path)
    seed, first = 0x123456789ABCDEF0, (1 << 32) - 20
    x = np.random.default_rng(2).normal(size=(50, 5)).astype(np.float32)
    wanted = draws.normals(seed, first, 50, 130)
    seen = set()
    for _ in levels(library):
        got = library["bare"](x[:, :1], seed=seed, first_row=first)
        assert np.max(np.abs(got - wanted)) < 2e-6
        out = library["network"](x, seed=seed, first_row=first)
        assert out[17:23].tobytes() == library["network"](x[17:23], seed=seed, first_row=first + 17).tobytes()
        assert out.tobytes() == library["network"](x, library["bare"](x[:, :1], seed=seed, first_row=first)[:, :20]).tobytes()
        seen.add(got.tobytes() + out.tobytes())
    assert len(seen) == 1


CONSUMER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
/* a buffer whose end touches a page that nobody may read or write */
static float *guarded(int count) {
  long page = sysconf(_SC_PAGESIZE), whole = (count * 4 + page - 1) / page * page;
  char *place = mmap(0, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mprotect(place + whole, page, PROT_NONE)) exit(9);
  return (float *)(place + whole - count * 4);
}
int main(int argc, char **argv) {
  void *library = dlopen(argv[1], RTLD_LAZY);
  if (!library) { fprintf(stderr, "%s\n", dlerror()); return 2; }
  for (int i = 2; i < argc; i++) {
    char name[200];
    snprintf(name, sizeof name, "%s_shape", argv[i]);
    const int *shape = dlsym(library, name);
    void *symbol = dlsym(library, argv[i]);
    snprintf(name, sizeof name, "%s_batch", argv[i]);
    void *batch = dlsym(library, name);
    if (!shape || !symbol || !batch) return 3;
    float *in = guarded(shape[1] * 33), *out = guarded(shape[2] * 33), *noise = guarded(shape[3] * 33 + 1);
    for (int k = 0; k < shape[1] * 33; k++) in[k] = (float)(k % 7) / 4 - 0.5f;
    for (int k = 0; k < shape[3] * 33; k++) noise[k] = (float)(k % 5) / 2 - 1.0f;
    float *row = guarded(shape[1]), *drawn = guarded(shape[3]), *one = guarded(shape[2]);
    memcpy(row, in, shape[1] * 4);
    memcpy(drawn, noise, shape[3] * 4);
    float *back = shape[3] ? ((float *(*)(float *, const float *, const float *))symbol)(one, row, drawn)
                           : ((float *(*)(float *, const float *))symbol)(one, row);
    if (back != one) return 4;
    for (int n = 1; n <= 33; n += 4) {
      float *from = in + shape[1] * (33 - n), *to = out + shape[2] * (33 - n), *with = noise + shape[3] * (33 - n);
      if (shape[3]) ((void (*)(float *, const float *, const float *, size_t))batch)(to, from, with, n);
      else ((void (*)(float *, const float *, size_t))batch)(to, from, n);
    }
    for (int k = 0; k < shape[2]; k++) { unsigned u; memcpy(&u, one + k, 4); printf("%08x ", u); }
    printf("\n");
    /* the result may lie where the row is */
    float *both = guarded(shape[1] > shape[2] ? shape[1] : shape[2]);
    memcpy(both, in, shape[1] * 4);
    if (shape[3]) ((float *(*)(float *, const float *, const float *))symbol)(both, both, drawn);
    else ((float *(*)(float *, const float *))symbol)(both, both);
    if (memcmp(both, one, shape[2] * 4)) return 5;
  }
  return 0;
}
"""


def test_a_c_program_uses_it_as_its_consumers_do(made: Any, tmp_path: Path) -> None:
    """dlopen with RTLD_LAZY, dlsym, one row a call, both signatures, every buffer ending at a page that faults."""
    program, library = made(1, EXACT, "gcc")
    (tmp_path / "consumer.c").write_text(CONSUMER)
    done = subprocess.run(
        ["gcc", "-O1", "-o", "consumer", "consumer.c", "-ldl"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    argv = [str(tmp_path / "consumer"), library.path, *(one.name for one in program.functions)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for one, line in zip(program.functions, done.stdout.splitlines(), strict=True):
        x = (np.arange(len(one.inputs)) % 7 / 4 - 0.5).astype(np.float32)[None]
        noise = (np.arange(one.noise) % 5 / 2 - 1.0).astype(np.float32)[None] if one.noise else None
        assert line.split() == ["%08x" % word for word in library[one.name](x, noise).view(np.uint32)[0]], one.name


def test_it_leaves_the_floating_point_environment_alone(made: Any) -> None:
    """Whoever loads it keeps denormal numbers: with -Ofast, old compilers switched them off for the whole process."""
    library = made(1, EXACT, "gcc")[1]
    tiny = np.float32(1e-39)
    assert tiny * np.float32(0.5) != 0.0
    assert sys.platform == "linux"
    ctypes.CDLL(library.path)
    assert tiny * np.float32(0.5) != 0.0


def test_the_header_and_the_code_suit_c_and_cxx(made: Any, tmp_path: Path) -> None:
    program = made(1, EXACT, "gcc")[0]
    emitted = emit(program, Options(EXACT, 3, internal_noise=True))
    (tmp_path / "lib.h").write_text(emitted.header)
    (tmp_path / "lib.c").write_text(emitted.code)
    (tmp_path / "use.c").write_text('#include "lib.h"\nint main(void) { return lib_level() < 0; }\n')
    for argv in (
        ["gcc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "use.c"],
        ["gcc", "-x", "c++", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "use.c"],
        # the file alone, as a person compiles it who does not know of levels
        ["gcc", "-std=c99", "-O1", "-fno-math-errno", "-Wall", "-Werror", "-Wno-psabi", "-o", "use", "use.c", "lib.c"],
        ["./use"],
    ):
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (argv, done.stderr)


def test_another_processor_gets_the_same_source(tmp_path: Path) -> None:
    """For ARM there is one level and no dispatcher; what comes out needs nothing either."""
    program = model_graphs.program(1, 4)
    options = Options(EXACT, 3, internal_noise=True)
    compiler = compilers.local(CLANG + " -target aarch64-linux-gnu")
    assert (compiler.machine, compiler.family) == ("aarch64", "clang")
    facts = elf.read(build(emit(program, options), "lib", compiler, options, tmp_path).path)
    assert facts.machine == "EM_AARCH64"
    assert facts.needed == facts.undefined == facts.versions == facts.constructors == ()
    assert {one.name for one in program.functions} < set(facts.exported)


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_nothing_is_needed_by_what_either_compiler_makes(made: Any, compiler: str) -> None:
    facts = elf.read(Path(made(1, EXACT, compiler)[1].path))
    assert facts.needed == facts.undefined == facts.versions == facts.rpath == ()
    assert facts.constructors == ("gha_start",)
    assert sum(facts.writable.values()) <= 64
    audit = isa.audit(Path(made(1, EXACT, compiler)[1].path))
    assert audit is not None
    assert audit.wrong == ()
    assert audit.highest == 4
