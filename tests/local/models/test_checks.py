"""The checks of a release, green and red: each red one is a library that was really built wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.preprocessing import QuantileTransformer, StandardScaler

import gha_apptainer.models
from gha_apptainer.cli import main
from gha_apptainer.domain.errors import InputError, Untrusted
from gha_apptainer.domain.findings import FAIL, OK
from gha_apptainer.models import compiling
from gha_apptainer.models.checks import elf, judging, running
from gha_apptainer.models.emit.program import Options
from gha_apptainer.models.ir import ops, saving
from gha_apptainer.models.ir.graphs import Graph, Node, Program
from gha_apptainer.models.toolchain import compilers

PIPELINE = """
version: 1
models:
  tx: {file: tx.skops}
  ty: {file: ty.skops}
functions:
  smeared:
    inputs: [p, eta, muon]
    noise: 2
    steps:
      - {name: prepared, model: tx, of: [input.p, input.eta]}
      - {name: moved, join: [prepared, noise]}
      - {name: answer, model: ty, inverse: true, of: [moved.x0, moved.x1]}
      - {name: none, constant: [-9, -9]}
      - {name: chosen, if: {column: input.muon, greater: 0.5}, then: answer, else: none}
    result: chosen
    outputs: [dp, deta]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    x = np.random.default_rng(0).normal(size=(2000, 2)) * [30, 2]
    skops.io.dump(QuantileTransformer(n_quantiles=100, output_distribution="normal").fit(x), place / "tx.skops")
    skops.io.dump(StandardScaler().fit(x), place / "ty.skops")
    (place / "pipeline.yaml").write_text(PIPELINE)
    return place


@pytest.fixture(scope="module")
def compiled(files: Path) -> Path:
    out = files / "out"
    assert (
        main(["models", "compile", "--pipeline", str(files / "pipeline.yaml"), "-o", str(out), "--name", "fast", "--noise", "internal"])
        == 0
    )
    return out


@pytest.fixture
def copy(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "copy"))


def failed(findings: Any) -> dict[str, str]:
    return {one.id: one.finding for one in findings if one.status == FAIL}


def test_what_was_compiled_passes_and_is_what_the_originals_give(compiled: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "check", str(compiled), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "ok"
    ids = {one["id"].partition(":")[0] for one in found["findings"] if one["status"] == "ok"}
    assert ids >= {
        "files",
        "content",
        "source",
        "golden",
        "symbols",
        "closed",
        "effects",
        "isa",
        "label",
        "abi",
        "load",
        "numbers",
        "edges",
        "bits",
        "rebuild",
        "speed",
    }
    assert "| smeared |" in (compiled / "fast.report.md").read_text().replace("`", "")
    library = gha_apptainer.models.load(compiled / "any" / "fast.so")
    tx, ty = (skops.io.load(files / name) for name in ("tx.skops", "ty.skops"))
    rows = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    noise = np.zeros((50, 2), np.float32)
    wanted = np.where(rows[:, 2:] > 0.5, ty.inverse_transform(tx.transform(rows[:, :2].astype(np.float64))), -9)
    assert np.allclose(library["smeared"](rows, noise), wanted, rtol=1e-5)
    assert library["smeared"].outputs == ("dp", "deta")
    assert library["smeared"](rows, seed=3).tobytes() == library["smeared"](rows, seed=3).tobytes()


@pytest.mark.case("models-20")
def test_a_file_that_nobody_recorded_is_found(copy: Path) -> None:
    (copy / "test.so").write_text("not a library")
    assert "unknown files: test.so" in failed(judging.check(copy))["files"]


@pytest.mark.case("models-21")
def test_a_changed_library_is_found(copy: Path) -> None:
    path = copy / "any" / "fast.so"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = failed(judging.check(copy))
    assert "changed files: any/fast.so" in found["files"]
    assert main(["models", "check", str(copy), "--no-report"]) == 1


def exchange(directory: Path, program: Program, options: Options) -> None:
    """Put another program's library into the directory, with a record that fits it."""
    path, record = compiling.find(directory)
    from gha_apptainer.models.emit.program import emit

    made = compiling.library(emit(program, options), record.name, options, compilers.local(), directory)
    path.write_bytes(dataclasses.replace(record, libraries=(made,)).encode())


@pytest.mark.case("models-22")
def test_a_library_of_other_weights_fails_on_its_numbers(copy: Path) -> None:
    _, record = compiling.find(copy)
    program = saving.read(copy / "fast.ir.json")
    (one,) = program.functions

    def moved(node: Node) -> Node:
        if not isinstance(node.op, ops.Scale):
            return node
        return Node(node.name, dataclasses.replace(node.op, offset=node.op.offset + 1e-3), node.inputs)

    other = Program("fast", (Graph(one.name, one.inputs, one.noise, tuple(map(moved, one.nodes)), one.result, one.outputs),))
    exchange(copy, other, record.options)
    found = failed(judging.check(copy))
    assert {"abi:any", "numbers:any", "edges:any", "rebuild:any"} <= set(found)
    assert "smeared on v1" in found["numbers:any"]


@pytest.mark.case("models-23")
def test_a_source_that_was_edited_is_found(copy: Path) -> None:
    path = copy / "fast.c"
    path.write_text(path.read_text().replace("1e-7", "1e-6"))
    assert set(failed(judging.check(copy))) == {"files", "source"}


@pytest.mark.case("models-24")
def test_another_ir_is_found(copy: Path) -> None:
    (one,) = saving.read(copy / "fast.ir.json").functions
    saving.save(Program("fast", (Graph("smeared", one.inputs, one.noise, one.nodes, one.result, ("a", "b")),)), copy)
    assert {"files", "content", "abi:any"} <= set(failed(judging.check(copy)))


GOOD = 'const char lib_descriptor[] = "{}"; float *f(float *o, const float *i) { o[0] = i[0]; return o; }\n'


def wrong(place: Path, text: str, *flags: str) -> dict[str, str]:
    """What the checks of a file say about a library built by hand."""
    (place / "lib.c").write_text(text)
    ours = ["-shared", "-fPIC", "-O2", "-nostdlib", "-Wl,-z,noexecstack", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,--build-id=sha1"]
    argv = ["gcc", *ours, "lib.c", "-o", "lib.so", *flags]
    done = subprocess.run(argv, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((place / "lib.so").read_bytes()).hexdigest()
    one = compiling.Library("any", "lib.so", digest, compilers.local().version, True, os.uname().machine, True, False, 3, ())
    found = list(judging.standing(place / "lib.so", one))
    assert len(found) == 5
    return failed(found)


def test_a_plain_library_passes(tmp_path: Path) -> None:
    assert wrong(tmp_path, GOOD) == {}


@pytest.mark.parametrize(
    ("text", "flags", "check", "told"),
    [
        pytest.param(
            "#include <math.h>\n" + GOOD.replace("i[0];", "expf(i[0]);"),
            ["-lm"],
            "symbols:any",
            "libm.so.6:GLIBC_",
            id="models-30-versions",
        ),
        pytest.param(
            GOOD.replace("i[0];", "tanhf(i[0]);").replace("const char", "float tanhf(float); const char"),
            [],
            "closed:any",
            "tanhf",
            id="models-31-unversioned",
        ),
        pytest.param(GOOD, ["-Wl,-rpath,/opt/conda/lib"], "closed:any", "/opt/conda/lib", id="models-32-search-path"),
        pytest.param(
            "__attribute__((constructor)) static void set_fast_math(void) {"
            ' unsigned m = 0x9fc0; __asm__ volatile("ldmxcsr %0" : : "m"(m)); }\n' + GOOD,
            [],
            "effects:any",
            "set_fast_math",
            id="models-33-constructor",
        ),
        pytest.param(
            "static float table[4096]; float *g(void) { return table; }\n" + GOOD, [], "effects:any", ".bss of", id="models-34-writable"
        ),
        pytest.param(GOOD, ["-Wl,-z,execstack"], "effects:any", "executable stack", id="models-35-stack"),
        pytest.param(
            'typedef float v __attribute__((vector_size(32))); __attribute__((target("avx"))) void h(v *a) { a[0] += a[1]; }\n' + GOOD,
            [],
            "isa:any",
            "h: v",
            id="models-36-level",
        ),
        pytest.param(
            '__attribute__((target("avx512f"))) void h_v3(float *a) { for (int i = 0; i < 64; i++) a[i] += 1; }\n' + GOOD,
            ["-O3", "-mprefer-vector-width=512"],
            "isa:any",
            "h_v3: v",
            id="models-37-level-of-another",
        ),
        pytest.param(
            'void h(void) { unsigned m = 0x9fc0; __asm__ volatile("ldmxcsr %0" : : "m"(m)); }\n' + GOOD,
            [],
            "isa:any",
            "h: ldmxcsr",
            id="models-38-rounding",
        ),
        pytest.param(GOOD, ["-g"], "label:any", "debug information is there", id="models-39-debug"),
        pytest.param(GOOD, ["-Wl,--build-id=none"], "label:any", "no build-id", id="models-40-build-id"),
    ],
)
def test_a_library_that_was_built_wrong_fails_on_what_is_wrong(tmp_path: Path, text: str, flags: list[str], check: str, told: str) -> None:
    assert told in wrong(tmp_path, text, *flags).get(check, "nothing")


@pytest.mark.case("models-41")
def test_a_local_library_under_an_experiments_tag_is_a_false_label(copy: Path) -> None:
    path, record = compiling.find(copy)
    tag = "x86_64_v2-el9-gcc13-opt"
    (copy / "any").rename(copy / tag)
    (one,) = record.libraries
    path.write_bytes(dataclasses.replace(record, libraries=(dataclasses.replace(one, tag=tag, path=tag + "/fast.so"),)).encode())
    assert "a local compiler built it" in failed(judging.check(copy))["label:" + tag]
    claimed = dataclasses.replace(one, tag=tag, path=tag + "/fast.so", local=False)
    path.write_bytes(dataclasses.replace(record, libraries=(claimed,)).encode())
    found = failed(judging.check(copy))["label:" + tag]
    assert "level v3, the tag allows v2" in found
    assert "the file says it comes from GCC" in found


@pytest.mark.case("models-42")
def test_a_library_that_kills_its_process_fails_and_the_check_goes_on(copy: Path) -> None:
    path, record = compiling.find(copy)
    source = (copy / "fast.c").read_text().replace("gha_level = found > TOP ? TOP : found;", "__builtin_trap();")
    place = copy.parent / "broken"
    place.mkdir()
    (place / "fast.c").write_text(source)
    from gha_apptainer.models.emit.program import Emitted
    from gha_apptainer.models.toolchain.building import build

    made = build(Emitted(source, "", ""), "fast", compilers.local(), record.options, copy / "any")
    (one,) = record.libraries
    path.write_bytes(dataclasses.replace(record, libraries=(dataclasses.replace(one, sha256=made.sha256),)).encode())
    findings = list(judging.check(copy))
    assert "signal" in failed(findings)["load:any"]
    assert any(one.id == "rebuild:any" for one in findings), "the checks after it ran"


@pytest.mark.case("models-43")
def test_a_missing_library_is_no_success(copy: Path) -> None:
    (copy / "any" / "fast.so").unlink()
    assert {"files", "load:any"} <= set(failed(judging.check(copy)))
    shutil.rmtree(copy / "any")
    (copy / "fast.build.json").unlink()
    with pytest.raises(InputError, match="0 files"):
        list(judging.check(copy))


@pytest.mark.case("models-44")
def test_a_slower_release_fails_beside_the_former_one(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"smeared": {"any v1": 1000.0}}

    def former(*_: object) -> tuple[dict[str, Any], str]:
        return {"functions": {"smeared": {"at": {"1": {"batch_ns": 100.0}}}}}, ""

    monkeypatch.setattr(running, "run", former)
    assert "0.10 times as fast" in failed(judging.speed(measured, compiled))["speed"]
    assert failed(judging.speed({"smeared": {"any v1": 110.0}}, compiled)) == {}


def test_the_loader_takes_only_what_describes_itself(compiled: Path, tmp_path: Path) -> None:
    content = compiling.find(compiled)[1].content
    path = compiled / "any" / "fast.so"
    assert gha_apptainer.models.load(path, content=content).content == content
    with pytest.raises(Untrusted, match="was made from content"):
        gha_apptainer.models.load(path, content="0" * 64)
    other = tmp_path / "renamed.so"
    shutil.copy(path, other)
    with pytest.raises(Untrusted, match="does not describe itself"):
        gha_apptainer.models.load(other)
    other = tmp_path / "broken.so"
    other.write_bytes(b"\x7fELF")
    with pytest.raises(Untrusted, match="cannot be loaded"):
        gha_apptainer.models.load(other)
    with pytest.raises(Untrusted):
        elf.read(other)


def test_a_rebuild_from_the_ir_has_the_same_bytes_elsewhere_and_by_whomever(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another directory, locale, clock, home, mask and number of processors."""
    for name, value in {
        "LC_ALL": "de_DE.UTF-8",
        "TZ": "Asia/Tokyo",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "CFLAGS": "-Ofast",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    old = os.umask(0o077)
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert main(["models", "rebuild", str(compiled), "-o", "again"]) == 0
    finally:
        os.umask(old)
        os.sched_setaffinity(0, cores)
    former, again = (compiling.find(one)[1] for one in (compiled, tmp_path / "again"))
    assert [one.sha256 for one in former.libraries] == [one.sha256 for one in again.libraries]
    assert former.files == again.files


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("version: 1", "version: 2"), "version: 1 was expected"),
        (("model: tx,", "modell: tx,"), "is not valid under any of the given schemas"),
        (("of: [input.p, input.eta]", "of: [input.p, input.mass]"), "'input' has no column 'mass'"),
        (("of: [input.p, input.eta]", "of: [input.p]"), "gives 1 columns to the model 'tx', which takes 2"),
        (("model: tx, of", "model: tz, of"), "uses the model 'tz'"),
        (("result: chosen", "result: chose"), "there is no step 'chose'"),
        (("outputs: [dp, deta]", "outputs: [dp, dp]"), "two outputs have one name"),
        (("then: answer", "then: later"), "takes 'later', which is no step before it"),
        (("name: moved", "name: prepared"), "two steps are named 'prepared'"),
    ],
)
def test_a_pipeline_that_does_not_fit_is_refused_by_the_name_of_the_step(
    files: Path, tmp_path: Path, change: tuple[str, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in PIPELINE
    path = files / ("wrong-%s.yaml" % tmp_path.name)
    path.write_text(PIPELINE.replace(*change))
    assert main(["models", "explain", "--pipeline", str(path)]) == InputError.exit_code
    assert told in capsys.readouterr().err


def test_commands_say_what_is_wrong(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.h5").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for argv, told in (
        (["compile", "-o", str(tmp_path / "o")], "name a model"),
        (["compile", str(tmp_path / "model.h5"), "-o", str(tmp_path / "o")], "no reader for '.h5'"),
        (["compile", str(files / "tx.skops"), "-o", str(tmp_path / "full")], "is not empty"),
        (["compile", str(files / "tx.skops"), "-o", str(tmp_path / "o"), "--tag", "x86_64-el9-tcc-opt"], "no compiler is named 'tcc'"),
        (["compile", str(files / "tx.skops"), "-o", str(tmp_path / "o"), "--tag", "x86_64_v3-el9-gcc13-opt"], "a tag is a promise"),
        (["compile", str(files / "tx.skops"), "-o", str(tmp_path / "o"), "--compiler", "no-such-cc"], "there is no compiler no-such-cc"),
        (["check", str(tmp_path)], "0 files *.build.json"),
    ):
        assert main(["models", *argv]) > 2, argv
        assert told in capsys.readouterr().err, argv
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").glob("*.build.json"))


def test_other_commands_explain_inspect_and_bench(compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "explain", str(compiled)]) == 0
    assert "function smeared: 3 inputs, 2 noise -> 2 outputs" in capsys.readouterr().out
    assert main(["models", "inspect", str(compiled / "any" / "fast.so")]) == 0
    assert "highest level v" in capsys.readouterr().out
    assert main(["models", "bench", str(compiled), "--json"]) == 0
    assert "v1" in json.loads(capsys.readouterr().out)["libraries"]["any"]["smeared"]


def test_findings_have_remedies(compiled: Path) -> None:
    assert all(one.status == OK or one.remedy for one in judging.check(compiled))
