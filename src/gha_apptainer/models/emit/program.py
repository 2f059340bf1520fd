"""The whole C file of a program, and its header."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as resources

from gha_apptainer.domain.errors import InputError
from gha_apptainer.models.emit.functions import Emitter, has_products
from gha_apptainer.models.ir.graphs import Graph, Program
from gha_apptainer.models.ir.saving import content_hash

ABI = 1
EXACT, FAST = "exact", "fast"


@dataclass(frozen=True)
class Options:
    """How a program is written: `levels` is the highest x86-64 level in the file, `internal_noise` adds entries that draw noise."""

    mode: str = EXACT
    levels: int = 3
    internal_noise: bool = False

    def __post_init__(self) -> None:
        if self.mode not in (EXACT, FAST):
            raise InputError("no mode is named %r; there are exact and fast" % self.mode)
        if self.levels not in (1, 2, 3, 4):
            raise InputError("there is no x86-64 level %r" % self.levels)


@dataclass(frozen=True)
class Emitted:
    """The text of both files, and what the library will tell about itself."""

    code: str
    header: str
    descriptor: str


def emit(program: Program, options: Options) -> Emitted:
    """Write a program as C."""
    emitter = Emitter("%s_gha" % program.name)
    functions = []
    for graph in program.functions:
        functions.append(emitter.function(graph, batch=False))
        if has_products(graph):
            functions.append(emitter.function(graph, batch=True))
        functions.append(_batch(graph))
        if graph.noise and options.internal_noise:
            functions.append(_seeded(graph))
    told = descriptor(program, options)
    text = "\n".join(
        (
            "/* %s, %s, content %s. Written by gha-apptainer; do not edit. */" % (program.name, options.mode, content_hash(program)),
            _PARTS % {"exact": int(options.mode == EXACT), "top": options.levels, "name": program.name},
            "/* numbers */",
            emitter.tables.declarations(),
            "#if WEIGHTS",
            emitter.tables.definitions(),
            "#endif",
            _prototypes(program.functions, options),
            "#if KERNELS",
            _SHAPES,
            _resource("vectors.h"),
            _resource("doubles.h"),
            "#define NUMBER float\n#define QUANTILE F(quantile_float)\n#define QUANTILE_INVERSE F(quantile_inverse_float)",
            _resource("quantiles.h"),
            "#define NUMBER double\n#define QUANTILE F(quantile_double)\n#define QUANTILE_INVERSE F(quantile_inverse_double)",
            _resource("quantiles.h"),
            _resource("draws.h") if options.internal_noise else "",
            emitter.kernels.text(),
            "\n".join(emitter.tree_text),
            "\n".join(functions),
            "#endif",
            "#if DISPATCH",
            _resource("dispatch.h"),
            "\n".join(_entries(one, options) for one in program.functions),
            "EXPORT const char SYMBOL(descriptor)[] = %s;" % c_string(told),
            "#endif",
            "",
        )
    )
    return Emitted(text, _header(program, options), told)


def descriptor(program: Program, options: Options) -> str:
    """What the library tells about itself, as JSON."""
    return json.dumps(
        {
            "abi": ABI,
            "name": program.name,
            "content": content_hash(program),
            "mode": options.mode,
            "float": "float32",
            "functions": [
                {
                    "name": one.name,
                    "inputs": list(one.inputs),
                    "outputs": list(one.outputs),
                    "noise": one.noise,
                    "seeded": bool(one.noise and options.internal_noise),
                }
                for one in program.functions
            ],
        },
        ensure_ascii=True,
        sort_keys=True,
    )


def c_string(text: str) -> str:
    """A C string literal, in lines of which none splits an escape."""
    pieces = [text[at : at + 100] for at in range(0, len(text), 100)]
    return "\n".join('  "%s"' % one.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?") for one in pieces)


_PARTS = """\
/* One file, compiled whole for one processor, or in parts: -DPART_WEIGHTS, -DPART_KERNELS=<x86-64 level> for each level, -DPART_DISPATCH.
   By hand: -std=c99 -O3 -fno-math-errno -ffp-contract=off (fast mode: =fast); no library is needed. */
#if defined(__FAST_MATH__) || defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "-ffast-math would change the results"
#endif
#define EXACT %(exact)d
#if EXACT && defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif
#if defined(PART_WEIGHTS) || defined(PART_KERNELS) || defined(PART_DISPATCH)
#ifndef TOP
#define TOP %(top)d
#endif
#ifdef PART_WEIGHTS
#define WEIGHTS 1
#endif
#ifdef PART_KERNELS
#define KERNELS 1
#endif
#ifdef PART_DISPATCH
#define DISPATCH 1
#endif
#else
#define TOP 0
#define WEIGHTS 1
#define KERNELS 1
#define DISPATCH 1
#define PART_KERNELS 0
#endif
#define HIDDEN __attribute__((visibility("hidden")))
#define EXPORT __attribute__((visibility("default"), used))
#define ALIGN __attribute__((aligned(64)))
#define SYMBOL(what) %(name)s_##what
typedef unsigned long long u64;
typedef __SIZE_TYPE__ size;
"""

_SHAPES = """\
#if PART_KERNELS == 4 || PART_KERNELS == 0 && defined(__AVX512F__)
#define VL 16
#define ROW_PANELS 8
#elif PART_KERNELS == 3 || PART_KERNELS == 0 && defined(__AVX__)
#define VL 8
#define ROW_PANELS 4
#else
#define VL 4
#define ROW_PANELS 2
#endif
#define ROW_VECTORS (VL == 16 ? 1 : 2)
/* sixteen registers of the batch kernel hold eight sums, an operand and a product, or twelve sums where products are fused */
#if defined(__x86_64__) && (EXACT || VL == 4)
#define NV 2
#define THIRD(text)
#else
#define NV 3
#define THIRD(text) text
#endif
#define EB (VL * NV)
#define JOIN_(a, b) a##_v##b
#define JOIN(a, b) JOIN_(a, b)
#define F(name) JOIN(name, PART_KERNELS)
"""


def _resource(name: str) -> str:
    return resources("gha_apptainer.models.emit").joinpath("c", name).read_text(encoding="utf-8")


def _batch(graph: Graph) -> str:
    wide, out, noise = len(graph.inputs), len(graph.outputs), graph.noise
    lines = ["HIDDEN void F(%s_batch)(float *out, const float *in, const float *noise, size n) {" % graph.name, "  size i = 0;"]
    if has_products(graph):
        step = "F(block_%s)(out + i * %d, in + i * %d, noise + i * %d, %%s)" % (graph.name, out, wide, noise)
        lines.append("  for (; i + EB <= n; i += EB) %s;" % (step % "EB"))
        lines.append("  if (n - i >= EB / 2) { %s; return; }" % (step % "(int)(n - i)"))
    lines.append("  for (; i < n; i++) F(row_%s)(out + i * %d, in + i * %d, noise + i * %d);\n}" % (graph.name, out, wide, noise))
    lines.append(
        "HIDDEN void F(%s_one)(float *out, const float *in, const float *noise) { F(row_%s)(out, in, noise); }\n" % (graph.name, graph.name)
    )
    text = "\n".join(lines)
    return text if noise else text.replace("noise + i * 0", "noise")


def _seeded(graph: Graph) -> str:
    wide, out, noise = len(graph.inputs), len(graph.outputs), graph.noise
    rows = "EB" if has_products(graph) else "1"
    return "\n".join(
        (
            "HIDDEN void F(%s_drawn)(float *out, const float *in, u64 seed, u64 row, size n) {" % graph.name,
            "  float drawn[%d * %s] ALIGNED;" % (noise, rows),
            "  for (size i = 0; i < n; i += %s) {" % rows,
            "    size m = n - i < %s ? n - i : %s;" % (rows, rows),
            "    for (size e = 0; e < m; e++) F(draw)(drawn + e * %d, %d, seed, row + i + e);" % (noise, noise),
            "    F(%s_batch)(out + i * %d, in + i * %d, drawn, m);" % (graph.name, out, wide),
            "  }\n}\n",
        )
    )


def _prototypes(functions: Sequence[Graph], options: Options) -> str:
    lines = ["#define ENTRIES(v)"]
    for one in functions:
        lines.append("HIDDEN void %s_one_##v(float *, const float *, const float *);" % one.name)
        lines.append("HIDDEN void %s_batch_##v(float *, const float *, const float *, size);" % one.name)
        if one.noise and options.internal_noise:
            lines.append("HIDDEN void %s_drawn_##v(float *, const float *, u64, u64, size);" % one.name)
    return (
        " \\\n  ".join(lines)
        + "\n#if TOP == 0\nENTRIES(v0)\n#endif\n"
        + "".join("#if TOP >= %d\nENTRIES(v%d)\n#endif\n" % (level, level) for level in (1, 2, 3, 4))
    )


def _choose(call: str) -> str:
    lines = ["#if TOP == 0", "  " + call.replace("##v", "v0"), "#else", "  switch (gha_level) {"]
    for level in (4, 3, 2):
        lines += ["#if TOP >= %d" % level, "  case %d: %s break;" % (level, call.replace("##v", "v%d" % level)), "#endif"]
    lines += ["  default: %s" % call.replace("##v", "v1"), "  }", "#endif"]
    return "\n".join(lines)


def _entries(graph: Graph, options: Options) -> str:
    more, given = (", const float *noise", "noise") if graph.noise else ("", "0")
    name = graph.name
    lines = [
        "EXPORT const int %s_shape[4] = { %d, %d, %d, %d };" % (name, ABI, len(graph.inputs), len(graph.outputs), graph.noise),
        "EXPORT float *%s(float *out, const float *in%s) {" % (name, more),
        _choose("%s_one_##v(out, in, %s);" % (name, given)),
        "  return out;\n}",
        "EXPORT void %s_batch(float *out, const float *in%s, size n) {" % (name, more),
        _choose("%s_batch_##v(out, in, %s, n);" % (name, given)),
        "}",
    ]
    if graph.noise and options.internal_noise:
        lines += [
            "EXPORT float *%s_seeded(float *out, const float *in, u64 seed, u64 row) {" % name,
            _choose("%s_drawn_##v(out, in, seed, row, 1);" % name),
            "  return out;\n}",
            "EXPORT void %s_batch_seeded(float *out, const float *in, u64 seed, u64 first_row, size n) {" % name,
            _choose("%s_drawn_##v(out, in, seed, first_row, n);" % name),
            "}",
        ]
    return "\n".join(lines)


def _header(program: Program, options: Options) -> str:
    guard = "%s_H" % program.name.upper()
    lines = [
        "/* %s, content %s. Written by gha-apptainer. */" % (program.name, content_hash(program)),
        '#ifndef %s\n#define %s\n#include <stddef.h>\n#ifdef __cplusplus\nextern "C" {\n#endif' % (guard, guard),
        "/* JSON: what the library holds, with sizes and names */\nextern const char %s_descriptor[];" % program.name,
        "/* the x86-64 level in use; another one for tests, 1 if the processor can run it */",
        "int %s_level(void);\nint %s_use_level(int level);" % (program.name, program.name),
    ]
    for one in program.functions:
        upper = one.name.upper()
        more = ", const float *noise" if one.noise else ""
        lines += [
            "",
            "/* inputs: %s" % _comment(one.inputs),
            "   outputs: %s */" % _comment(one.outputs),
            "#define %s_INPUTS %d\n#define %s_OUTPUTS %d\n#define %s_NOISE %d"
            % (upper, len(one.inputs), upper, len(one.outputs), upper, one.noise),
            "extern const int %s_shape[4]; /* ABI, inputs, outputs, noise */" % one.name,
            "float *%s(float *out, const float *in%s);" % (one.name, more),
            "void %s_batch(float *out, const float *in%s, size_t rows);" % (one.name, more),
        ]
        if one.noise and options.internal_noise:
            lines.append("float *%s_seeded(float *out, const float *in, unsigned long long seed, unsigned long long row);" % one.name)
            lines.append(
                "void %s_batch_seeded(float *out, const float *in, unsigned long long seed, unsigned long long first_row, size_t rows);"
                % one.name
            )
    return "\n".join((*lines, "", "#ifdef __cplusplus\n}\n#endif\n#endif\n"))


def _comment(names: Sequence[str]) -> str:
    return ", ".join(names).replace("*/", "* /").replace("/*", "/ *").encode("ascii", "backslashreplace").decode().replace("\n", " ")
