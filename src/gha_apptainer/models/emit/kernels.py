"""Matrix products: the four shapes of them, each with what follows the product in the same registers.

Order of every sum, in all of them. Wide (more than PANEL outputs): bias, then inputs from the first to the last. Narrow: four sums, input k
in sum k modulo 4, the first starting from the bias; then (0 + 1) + (2 + 3). Narrow products have too few outputs to fill the arithmetic
units with single sums.
"""

from __future__ import annotations

from collections.abc import Sequence

from gha_apptainer.models.emit.tables import PANEL

BLOCK = 4
"""Outputs that the batch kernel computes at a time."""


def is_narrow(outputs: int) -> bool:
    """Whether the product of so many outputs is summed in four parts."""
    return outputs <= PANEL


class Kernels:
    """Collects kernels; one for each shape and epilogue, shared by all layers that use it."""

    def __init__(self) -> None:
        self._names: dict[tuple[bool, bool, tuple[str, ...]], str] = {}
        self._text: list[str] = []

    def name(self, *, batch: bool, narrow: bool, epilogue: Sequence[str]) -> str:
        """The name of the C function for this shape. Each epilogue step is an expression over `x`, or "add" for the other operand."""
        key = (batch, narrow, tuple(epilogue))
        if key not in self._names:
            self._names[key] = name = "F(%s_%s_%d)" % ("batch" if batch else "row", "narrow" if narrow else "wide", len(self._names))
            self._text.append((_batch if batch else _row)(name, narrow, epilogue))
        return self._names[key]

    def text(self) -> str:
        """All kernels."""
        return "\n".join(self._text)


def _finish(epilogue: Sequence[str], value: str, place: str) -> str:
    steps = ["vf x = %s;" % value]
    steps += ["x = x + r[%s];" % place if step == "add" else "x = %s;" % step for step in epilogue]
    return "{ %s y[%s] = x; }" % (" ".join(steps), place)


def _head(name: str) -> str:
    return (
        "NOINL void %s(vf *restrict y, const vf *restrict a, const float *restrict w, const float *restrict b,\n"
        "  int ni, int no, const vf *r) {\n  (void)r;\n" % name
    )


def _batch(name: str, narrow: bool, epilogue: Sequence[str]) -> str:
    """Rows in the lanes, NV vectors of them; weights are single numbers that all lanes share."""
    body = _batch_narrow(epilogue) if narrow else _batch_wide(epilogue)
    return _head(name) + body + "}\n"


def _batch_wide(epilogue: Sequence[str]) -> str:
    cells = [(j, q) for j in range(BLOCK) for q in range(3)]

    def for_vectors(template: str, pairs: Sequence[tuple[int, int]]) -> str:
        plain = " ".join(template.format(j=j, q=q) for j, q in pairs if q < 2)
        third = " ".join(template.format(j=j, q=q) for j, q in pairs if q == 2)
        return "%s THIRD(%s)" % (plain, third)

    load = for_vectors("const vf x{q} = x[k * NV + {q}];".replace("x[", "a["), [(0, q) for q in range(3)])
    step = "\n".join(
        "      { const vf c = v_of(p[%d]); %s }" % (j, for_vectors("s{j}_{q} += x{q} * c;", [(j, q) for q in range(3)]))
        for j in range(BLOCK)
    )
    finish = for_vectors("FINISH(s{j}_{q}, (o + {j}) * NV + {q})", cells)
    return "".join(
        (
            "#define FINISH(value, place) %s\n" % _finish(epilogue, "value", "place"),
            "  for (int o = 0; o < no; o += %d) {\n" % BLOCK,
            "    const float *p = w + (o / %d) * %d * ni + o %% %d;\n" % (PANEL, PANEL, PANEL),
            "    %s\n" % for_vectors("vf s{j}_{q} = v_of(b[o + {j}]);", cells),
            "    for (int k = 0; k < ni; k++, p += %d) {\n      %s\n%s\n    }\n" % (PANEL, load, step),
            "    %s\n  }\n#undef FINISH\n" % finish,
        )
    )


def _batch_narrow(epilogue: Sequence[str]) -> str:
    def step(part: int, at: str) -> str:
        return "{ const vf c = v_of(p[(%s) * %d]); for (int q = 0; q < NV; q++) s[%d * NV + q] += a[(%s) * NV + q] * c; }" % (
            at,
            PANEL,
            part,
            at,
        )

    return "".join(
        (
            "  for (int o = 0; o < no; o++) {\n    const float *p = w + o;\n    vf s[4 * NV];\n",
            "    for (int q = 0; q < NV; q++) { s[q] = v_of(b[o]); s[NV + q] = s[2 * NV + q] = s[3 * NV + q] = v_of(0.0f); }\n",
            "    int k = 0;\n",
            "    for (; k + 4 <= ni; k += 4) {\n%s\n    }\n" % "\n".join("      " + step(part, "k + %d" % part) for part in range(4)),
            "".join("    if (k + %d < ni) %s\n" % (part, step(part, "k + %d" % part)) for part in range(3)),
            "    for (int q = 0; q < NV; q++) %s\n  }\n"
            % _finish(epilogue, "(s[q] + s[NV + q]) + (s[2 * NV + q] + s[3 * NV + q])", "o * NV + q"),
        )
    )


def _row(name: str, narrow: bool, epilogue: Sequence[str]) -> str:
    """One row; outputs in the lanes, several panels at a time so that the sums do not wait for each other."""
    if narrow:
        return _head(name) + _row_narrow(epilogue) + "}\n"
    per = "(%d / VL)" % PANEL
    body = (
        "#define GROUP(count) { \\\n"
        "    vf s[(count) * {per}]; \\\n"
        "    for (int i = 0; i < (count) * {per}; i++) s[i] = *(const vf *)(b + o + i * VL); \\\n"
        "    const float *p = w + (long)o * ni; \\\n"
        "    for (int k = 0; k < ni; k++, p += {panel}) {{ \\\n"
        "      const vf c = v_of(((const float *)a)[k]); \\\n"
        "      for (int i = 0; i < (count) * {per}; i++) \\\n"
        "        s[i] += c * *(const vf *)(p + (long)(i / {per}) * {panel} * ni + i % {per} * VL); \\\n"
        "    }} \\\n"
        "    for (int i = 0; i < (count) * {per}; i++) {finish} \\\n"
        "    o += (count) * {panel}; }}\n"
        "  int o = 0;\n"
        "  while (o + {panel} * ROW_PANELS <= no) GROUP(ROW_PANELS)\n"
        "  while (o < no) GROUP(1)\n"
        "#undef GROUP\n"
    ).replace("#define GROUP(count) {", "#define GROUP(count) {{", 1)
    return _head(name) + body.format(per=per, panel=PANEL, finish=_finish(epilogue, "s[i]", "o / VL + i")) + "}\n"


def _row_narrow(epilogue: Sequence[str]) -> str:
    def step(part: int, at: str) -> str:
        return (
            "{ const vf c = v_of(((const float *)a)[%s]); for (int i = 0; i < ROW_VECTORS; i++) "
            "s[%d * ROW_VECTORS + i] += c * *(const vf *)(p + (%s) * %d + i * VL); }" % (at, part, at, PANEL)
        )

    return "".join(
        (
            "  for (int o = 0; o < %d; o += VL * ROW_VECTORS) {\n    const float *p = w + o;\n    vf s[4 * ROW_VECTORS];\n" % PANEL,
            (
                "    for (int i = 0; i < ROW_VECTORS; i++) { s[i] = *(const vf *)(b + o + i * VL); "
                "s[ROW_VECTORS + i] = s[2 * ROW_VECTORS + i] = s[3 * ROW_VECTORS + i] = v_of(0.0f); }\n    int k = 0;\n"
            ),
            "    for (; k + 4 <= ni; k += 4) {\n%s\n    }\n" % "\n".join("      " + step(part, "k + %d" % part) for part in range(4)),
            "".join("    if (k + %d < ni) %s\n" % (part, step(part, "k + %d" % part)) for part in range(3)),
            "    for (int i = 0; i < ROW_VECTORS; i++) %s\n  }\n  (void)no;\n"
            % _finish(
                epilogue,
                "(s[i] + s[ROW_VECTORS + i]) + (s[2 * ROW_VECTORS + i] + s[3 * ROW_VECTORS + i])",
                "o / VL + i",
            ),
        )
    )
