"""One C file to one shared object: numbers once, kernels once for each CPU level, a dispatcher; no library, no undefined symbol."""

from __future__ import annotations

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gha_apptainer.models.emit.program import EXACT, Emitted, Options
from gha_apptainer.models.toolchain.compilers import GCC, Compiler, environment
from gha_apptainer.node import files, process

_LIMIT_S = 600.0


@dataclass(frozen=True)
class Build:
    """A library and how it was made."""

    path: Path
    compiler: str
    flags: tuple[str, ...]
    sha256: str


def flags(compiler: Compiler, options: Options, code: str, *, optimise: bool, debug: bool) -> tuple[str, ...]:
    """What every part is compiled with."""
    found = [
        "-std=c99",
        "-O3" if optimise else "-O0",
        "-fPIC",
        "-fvisibility=hidden",
        "-ffp-contract=%s" % ("off" if options.mode == EXACT else "fast"),
        "-fno-math-errno",
        "-fno-builtin",
        "-fno-strict-aliasing",
        "-fno-stack-protector",
    ]
    if compiler.family == GCC:
        found += ["-frandom-seed=%s" % hashlib.sha256(code.encode()).hexdigest()[:16], "-fno-tree-loop-distribute-patterns", "-Wno-psabi"]
    else:
        found += ["-fno-sanitize=all", "-Wno-unknown-warning-option"]
    found.append("-g" if debug else "-g0")
    return tuple(found)


def build(
    emitted: Emitted, name: str, compiler: Compiler, options: Options, directory: Path, *, optimise: bool = True, debug: bool = False
) -> Build:
    """Compile and link `NAME.so` below the directory."""
    common = flags(compiler, options, emitted.code, optimise=optimise, debug=debug)
    with tempfile.TemporaryDirectory(prefix="gha-models-") as place:
        source = "%s.c" % name
        Path(place, source).write_text(emitted.code, encoding="utf-8")
        mapped = (*common, "-ffile-prefix-map=%s=." % place)
        parts = _parts(compiler, options)
        with ThreadPoolExecutor(max_workers=max(1, min(len(parts), len(os.sched_getaffinity(0))))) as pool:
            for job in [
                pool.submit(_run, (*compiler.argv, *mapped, *more, "-c", source, "-o", part + ".o"), place) for part, more in parts
            ]:
                job.result()
        link = (
            *("-shared", "-nostdlib", "-Wl,-z,defs", "-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,--build-id=sha1"),
            "-Wl,-soname,%s.so" % name,
        )
        _run((*compiler.argv, *link, *(part + ".o" for part, _ in parts), "-o", "out.so"), place)
        data = Path(place, "out.so").read_bytes()
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / ("%s.so" % name)
    files.write_whole(str(target), data, mode=0o755)
    return Build(target, compiler.version, common, hashlib.sha256(data).hexdigest())


def _parts(compiler: Compiler, options: Options) -> list[tuple[str, tuple[str, ...]]]:
    if compiler.machine != "x86_64":
        return [("whole", ())]
    lowest = compiler.level_flags(1)
    top = "-DTOP=%d" % options.levels
    found = [("numbers", ("-DPART_WEIGHTS", top, *lowest)), ("dispatch", ("-DPART_DISPATCH", top, *lowest))]
    levels = range(options.levels, 0, -1)
    return [*(("v%d" % level, ("-DPART_KERNELS=%d" % level, top, *compiler.level_flags(level))) for level in levels), *found]


def _run(argv: tuple[str, ...], place: str) -> None:
    process.run(argv, env=environment(), timeout=_LIMIT_S, cwd=place).check()
