"""The checks of a directory that `models compile` wrote, in the order of their numbers."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gha_apptainer.domain import binary_tags
from gha_apptainer.domain.errors import GhaError
from gha_apptainer.domain.findings import FAIL, OK, SKIP, WARN, Finding
from gha_apptainer.models import compiling, vectors
from gha_apptainer.models.checks import elf, isa, running
from gha_apptainer.models.emit.program import EXACT, descriptor, emit
from gha_apptainer.models.ir import saving
from gha_apptainer.models.ir.graphs import Program
from gha_apptainer.models.toolchain import compilers

SLOWER = 1.5
"""How many times slower than before a function may be."""
_DISPATCH_BYTES = 64
"""What may stay writable: the level that the dispatcher chose."""

Checked = Iterator[Finding]


def check(directory: Path, *, previous: Path | None = None, compiler: str = "") -> Checked:
    """Every finding about a directory."""
    _, record = compiling.find(directory)
    yield from files_(directory, record)
    program = saving.read(directory / ("%s.ir.json" % record.name))
    yield _finding(
        "content", saving.content_hash(program) == record.content, "the IR has the content %s" % record.content[:16], "compile anew"
    )
    yield from source(directory, record, program)
    bits: dict[str, set[str]] = {}
    measured: dict[str, dict[str, float]] = {}
    for one in record.libraries:
        path = directory / one.path
        if not path.is_file():
            yield Finding("load:%s" % one.tag, FAIL, "%s is missing" % one.path, "compile anew")
            continue
        yield from standing(path, one)
        yield from alive(directory, path, record, one, program, bits, measured)
    yield from same_bits(record, bits)
    yield from rebuilt(record, program, compiler)
    yield from speed(measured, previous)


def _finding(id: str, good: bool, what: str, remedy: str) -> Finding:
    return Finding(id, OK, what) if good else Finding(id, FAIL, "not so: " + what, remedy)


def files_(directory: Path, record: compiling.Record) -> Checked:
    """What is there is what was recorded: no file more, none less, none changed."""
    wanted = {**record.files, **{one.path: one.sha256 for one in record.libraries}}
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    extra = sorted(there - set(wanted) - {"%s.build.json" % record.name, "%s.report.md" % record.name})
    missing = sorted(set(wanted) - there)
    changed = sorted(
        name for name, digest in wanted.items() if name in there and hashlib.sha256((directory / name).read_bytes()).hexdigest() != digest
    )
    for what, names in (("unknown files", extra), ("missing files", missing), ("changed files", changed)):
        if names:
            yield Finding("files", FAIL, "%s: %s" % (what, ", ".join(names)), "compile into an empty directory")
    if not extra + missing + changed:
        yield Finding("files", OK, "%d files, each as recorded" % len(wanted))


def source(directory: Path, record: compiling.Record, program: Program) -> Checked:
    """The C, the header and the golden vectors are what this program writes from the IR."""
    emitted = emit(program, record.options)
    for file, text in (("%s.c" % record.name, emitted.code.encode()), ("%s.h" % record.name, emitted.header.encode())):
        yield _finding("source", (directory / file).read_bytes() == text, "%s is what the IR gives" % file, "compile anew: models rebuild")
    stored = (directory / ("%s.golden.zip" % record.name)).read_bytes()
    if stored != vectors.encode(program):
        # other versions of numpy and scipy may differ in the last bit of the reference: then the stored ones have to agree with it
        far = _disagree(vectors.decode(stored, "golden.zip"), program)
        yield _finding("golden", not far, "the golden vectors agree with the IR%s" % (" (%s)" % far if far else ""), "compile anew")
    else:
        yield Finding("golden", OK, "the golden vectors are what the IR gives")


def _disagree(stored: Mapping[str, tuple[vectors.Vectors, vectors.Vectors]], program: Program) -> str:
    for graph in program.functions:
        if graph.name not in stored:
            return "none for %s" % graph.name
        for mine, other in zip(vectors.make(graph), stored[graph.name], strict=True):
            if mine.rows.tobytes() != other.rows.tobytes() or mine.bad(other.wanted):
                return "other ones for %s" % graph.name
    return ""


def standing(path: Path, one: compiling.Library) -> Checked:
    """Checks 1 to 5: the file as it lies there."""
    facts = elf.read(path)
    tag = None if one.local else binary_tags.parse(one.tag)
    ceiling = tag.glibc if tag else None
    newer = [name for name in facts.versions if _glibc(name) > (ceiling or (0, 0))]
    yield _finding(
        "symbols:%s" % one.tag,
        not newer,
        "no symbol is newer than %s%s" % ("glibc %d.%d" % ceiling if ceiling else "any glibc", "; %s" % ", ".join(newer) if newer else ""),
        "link without libraries",
    )
    outside = [*facts.needed, *facts.rpath, *facts.undefined]
    yield _finding(
        "closed:%s" % one.tag,
        not outside,
        "%d needed libraries, %d undefined symbols, %d search paths%s"
        % (len(facts.needed), len(facts.undefined), len(facts.rpath), ": " + ", ".join(outside[:5]) if outside else ""),
        "nothing but the file itself may be needed",
    )
    effects = []
    if facts.constructors not in ((), ("gha_start",)):
        effects.append("constructors %s" % ", ".join(facts.constructors))
    if sum(facts.writable.values()) > _DISPATCH_BYTES:
        effects.append("writable data %s" % ", ".join("%s of %d bytes" % item for item in facts.writable.items()))
    effects += [
        word
        for word, bad in (
            ("executable stack", facts.executable_stack),
            ("text relocations", facts.text_relocations),
            ("no RELRO", not facts.relro),
        )
        if bad
    ]
    yield _finding(
        "effects:%s" % one.tag, not effects, "loading changes nothing%s" % ("; " + ", ".join(effects) if effects else ""), "build with ours"
    )
    yield from _instructions(path, one, facts, tag)


def _glibc(name: str) -> tuple[int, ...]:
    version = name.partition(":GLIBC_")[2]
    try:
        return tuple(int(part) for part in version.split("."))
    except ValueError:
        return (999,)


def _instructions(path: Path, one: compiling.Library, facts: elf.Facts, tag: binary_tags.BinaryTag | None) -> Checked:
    audit = isa.audit(path)
    if audit is None:
        yield Finding("isa:%s" % one.tag, SKIP, "code for %s has no levels to audit" % facts.machine)
    else:
        told = "; ".join(audit.wrong[:5])
        yield _finding(
            "isa:%s" % one.tag,
            not audit.wrong,
            "%d instructions, none above the level of its function%s" % (audit.instructions, "; " + told if told else ""),
            "a compiler flag raises the level of shared code",
        )
    wrong = []
    if audit is not None and audit.highest > one.levels:
        wrong.append("instructions of v%d where v%d is recorded" % (audit.highest, one.levels))
    if not facts.build_id:
        wrong.append("no build-id")
    if one.debug != facts.debug:
        wrong.append("debug information is %s" % ("there" if facts.debug else "missing"))
    if tag is not None:
        wrong += _label(one, facts, tag)
    elif one.tag != compiling.LOCAL:
        wrong.append("a local compiler built it, it lies under %s" % one.tag)
    what = "built by %s for %s" % (one.compiler, one.tag)
    yield _finding(
        "label:%s" % one.tag, not wrong, what + ("; " + "; ".join(wrong) if wrong else ""), "build it with the compiler that the tag names"
    )


def _label(one: compiling.Library, facts: elf.Facts, tag: binary_tags.BinaryTag) -> Iterator[str]:
    if tag.machine != one.machine or {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}[tag.machine] != facts.machine:
        yield "code for %s" % facts.machine
    if tag.level and one.levels > tag.level:
        yield "level v%d, the tag allows v%d" % (one.levels, tag.level)
    if one.optimised != tag.optimised:
        yield "optimised" if one.optimised else "not optimised"
    said = " ".join(facts.comments)
    if (tag.compiler == "gcc" and "GCC" not in said) or (tag.compiler == "clang" and "clang" not in said):
        yield "the file says it comes from %s" % (said or "nobody")
    if tag.major and " %d." % tag.major not in " " + said.replace("(", " ").replace(")", " "):
        yield "the file says it comes from %s" % said


def alive(
    directory: Path,
    path: Path,
    record: compiling.Record,
    one: compiling.Library,
    program: Program,
    bits: dict[str, set[str]],
    measured: dict[str, dict[str, float]],
) -> Checked:
    """Checks 6 to 9: the file at work, in a process of its own."""
    stored = directory / ("%s.golden.zip" % record.name)
    told = elf.descriptor(path)
    wanted = json.loads(descriptor(program, record.options))
    yield _finding("abi:%s" % one.tag, told == wanted, "the library describes itself as the IR does", "compile anew")
    if one.machine != os.uname().machine:
        yield Finding("load:%s" % one.tag, SKIP, "this machine cannot run code for %s" % one.machine, "check it on such a machine")
        return
    found, why = running.run(path, stored)
    if found is None:
        yield Finding("load:%s" % one.tag, FAIL, "%s: %s" % (one.path, why), "see what it needs: models inspect")
        return
    yield Finding("load:%s" % one.tag, OK, "loaded at once (RTLD_NOW), level v%d chosen of v1 to v%d" % (found["level"], one.levels))
    for check_id, kind in (("numbers", "golden"), ("edges", "edge")):
        yield _answers("%s:%s" % (check_id, one.tag), kind, found)
    yield from _levels(one, found)
    yield from _emulated(path, stored, one)
    for name, told_function in found["functions"].items():
        for level, here in told_function["at"].items():
            bits.setdefault(name, set()).add(here["bits"])
            if not here["row_is_batch"] and record.mode == EXACT:
                yield Finding("bits:%s" % one.tag, FAIL, "%s differs between row and batch on v%s" % (name, level), "report this")
            measured.setdefault(name, {})["%s v%s" % (one.tag, level)] = here["batch_ns"]


def _answers(id: str, kind: str, found: Mapping[str, Any]) -> Finding:
    bad = [
        "%s on v%s: %d of %d" % (name, level, here[kind]["bad"], here[kind]["of"])
        for name, told in found["functions"].items()
        for level, here in told["at"].items()
        if here[kind]["bad"]
    ]
    unknown = [name for name, told in found["functions"].items() if not told["known"] or not told["at"]]
    worst = max((here[kind]["worst"] for told in found["functions"].values() for here in told["at"].values()), default=float("inf"))
    if bad or unknown or not found["functions"]:
        return Finding(id, FAIL, "wrong numbers: %s" % "; ".join(bad + ["no vectors for %s" % one for one in unknown]), "do not release it")
    return Finding(
        id,
        OK,
        "every number of the %s vectors, on v%s; at most %.2f of what is allowed" % (kind, ", v".join(map(str, found["levels"])), worst),
    )


def _levels(one: compiling.Library, found: Mapping[str, Any]) -> Checked:
    missed = [level for level in range(1, one.levels + 1) if level not in found["levels"]] if one.machine == "x86_64" else []
    if missed:
        yield Finding(
            "levels:%s" % one.tag, SKIP, "this processor cannot run v%s" % ", v".join(map(str, missed)), "check it on one that can"
        )
    elif one.levels == 4:
        yield Finding("levels:%s" % one.tag, OK, "v4 was executed here and gives the answers")


def _emulated(path: Path, stored: Path, one: compiling.Library) -> Checked:
    if one.machine != "x86_64":
        return
    program = running.emulator()
    if not program:
        yield Finding("emulated:%s" % one.tag, SKIP, "there is no QEMU for older processors here", "install qemu-user")
        return
    answers = vectors.decode(stored.read_bytes(), str(stored))
    asked = [_asked(name, *pair) for name, pair in answers.items()]
    for level, model in running.EMULATED.items():
        wanted = min(level, one.levels)
        found, why = running.run_emulated(path, asked, program, model)
        if found is None:
            yield Finding(
                "emulated:%s" % one.tag, FAIL, "on a %s: %s" % (model, why), "an instruction above v%d, or a missing symbol" % wanted
            )
            continue
        wrong = [name for name, pair in answers.items() if _wrong(found["functions"].get(name, ()), *pair)]
        what = "on a %s it chose v%d and gave the answers%s" % (model, found["level"], "; not " + ", ".join(wrong) if wrong else "")
        yield _finding("emulated:%s" % one.tag, not wrong and found["level"] == wanted, what, "do not release it")


_EMULATED_ROWS = 24


def _asked(name: str, golden: vectors.Vectors, edge: vectors.Vectors) -> dict[str, Any]:
    def rows(array: Any) -> list[str]:
        return [one.tobytes().hex() for one in array[:_EMULATED_ROWS]]

    noise = [] if golden.noise is None or edge.noise is None else rows(golden.noise) + rows(edge.noise)
    return {"name": name, "outputs": golden.wanted.shape[1], "rows": rows(golden.rows) + rows(edge.rows), "noise": noise}


def _wrong(answers: Sequence[str], golden: vectors.Vectors, edge: vectors.Vectors) -> bool:
    if len(answers) != 2 * _EMULATED_ROWS:
        return True
    for one, part in ((golden, answers[:_EMULATED_ROWS]), (edge, answers[_EMULATED_ROWS:])):
        got = np.frombuffer(bytes.fromhex("".join(part)), np.float32).reshape(_EMULATED_ROWS, -1)
        first = slice(0, _EMULATED_ROWS)
        if vectors.Vectors(one.rows[first], None, one.wanted[first], one.slack[first]).bad(got):
            return True
    return False


def same_bits(record: compiling.Record, bits: Mapping[str, set[str]]) -> Checked:
    """Exact libraries give the same bits, whatever tag and level."""
    if record.mode != EXACT:
        return
    differ = sorted(name for name, found in bits.items() if len(found) > 1)
    if bits:
        what = "the same bits on every level and for every tag%s" % ("; not %s" % ", ".join(differ) if differ else "")
        yield _finding("bits", not differ, what, "do not release it")


def rebuilt(record: compiling.Record, program: Program, named: str) -> Checked:
    """Check 10: the same bytes once more, in another directory."""
    for one in record.libraries:
        if not one.local:
            continue
        try:
            compiler = compilers.local(named)
        except GhaError as error:
            yield Finding("rebuild:%s" % one.tag, SKIP, error.what, error.remedy)
            continue
        if compiler.version != one.compiler:
            yield Finding("rebuild:%s" % one.tag, SKIP, "it was built by %s, here is %s" % (one.compiler, compiler.version), "--compiler")
            continue
        with tempfile.TemporaryDirectory(prefix="gha-models-") as place:
            again = compiling.library(emit(program, record.options), record.name, record.options, compiler, Path(place))
        yield _finding(
            "rebuild:%s" % one.tag, again.sha256 == one.sha256, "a second build has the same SHA-256", "name what differs: diffoscope"
        )


def speed(measured: Mapping[str, Mapping[str, float]], previous: Path | None) -> Checked:
    """Check 11: nanoseconds for each row in batch, and beside those of a former release measured on this machine now."""
    for name, found in measured.items():
        yield Finding("speed", OK, "%s: %s ns a row in batch" % (name, ", ".join("%s %.0f" % item for item in found.items())))
    if previous is None:
        return
    _, record = compiling.find(previous)
    for one in record.libraries:
        former, why = running.run(previous / one.path, previous / ("%s.golden.zip" % record.name))
        if former is None:
            yield Finding("speed", WARN, "the former release does not run: %s" % why)
            continue
        for name, told in former["functions"].items():
            for level, here in told["at"].items():
                now = measured.get(name, {}).get("%s v%s" % (one.tag, level))
                if now is not None:
                    ratio = here["batch_ns"] / now
                    what = "%s %s v%s is %.2f times as fast as before" % (name, one.tag, level, ratio)
                    yield _finding("speed", ratio * SLOWER >= 1, what, "measure again on a quiet machine")


def report(record: compiling.Record, program: Program, findings: Sequence[Finding]) -> str:
    """What people read, as Markdown."""
    lines = [
        "# %s" % record.name,
        "",
        "Content `%s`, mode %s." % (record.content, record.mode),
        "",
        "| function | inputs | noise | outputs |",
    ]
    lines.append("|---|---|---|---|")
    lines += ["| `%s` | %d | %d | %d |" % (one.name, len(one.inputs), one.noise, len(one.outputs)) for one in program.functions]
    lines += ["", "| library | compiler | levels | SHA-256 |", "|---|---|---|---|"]
    lines += [
        "| `%s`%s | %s | v1 to v%d | `%s` |" % (one.path, " (local)" * one.local, one.compiler, one.levels, one.sha256)
        for one in record.libraries
    ]
    lines += ["", "| check | status | finding | remedy |", "|---|---|---|---|"]
    lines += [
        "| %s | %s | %s | %s |" % tuple(text.replace("|", "\\|") for text in (one.id, one.status, one.finding, one.remedy))
        for one in findings
    ]
    return "\n".join(lines) + "\n"
