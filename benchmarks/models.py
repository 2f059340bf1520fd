"""How fast compiled models are here, beside scikinC at -O3, onnxruntime, numpy and sklearn, measured in one run on one core.

usage: scripts/bench models [--peers DIRECTORY] [--rounds N] [--only WORKLOAD …]

DIRECTORY holds scikinC, which is the baseline and is not installed by us: pip install --no-deps --target DIRECTORY scikinC==0.2.9
All subjects take turns within each round, and medians are printed. On a machine that was busy with other work there are figures, but no
verdict. scikinC cannot add residuals: for (ii) and (ii') it gets the same layers without the sums, which are less work.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORE = sorted(os.sched_getaffinity(0))[-1]
os.sched_setaffinity(0, {CORE})
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # what somebody set for another purpose must not slow numpy down
    os.environ.pop(name, None)
os.environ.update(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", XLA_FLAGS="--xla_cpu_multi_thread_eigen=false")
SRC = Path(__file__).resolve().parent.parent / "src"
sys.path.insert(0, str(SRC))
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402  # the threads had to be set first

from gha_apptainer.models import loading  # noqa: E402  # as above
from gha_apptainer.models.emit.program import EXACT, FAST, Options, emit  # noqa: E402  # as above
from gha_apptainer.models.ir import explain, ops  # noqa: E402  # as above
from gha_apptainer.models.ir.graphs import Graph, Program  # noqa: E402  # as above
from gha_apptainer.models.toolchain import compilers  # noqa: E402  # as above
from gha_apptainer.models.toolchain.building import build  # noqa: E402  # as above

BUSY = 1.0
"""Above this much load by others no verdict is given."""
ROWS = 1024
ROUNDS = 30
DRIVER = r"""
#include <stddef.h>
#include <time.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
typedef float *row(float *, const float *, const float *);
double rows(row *f, float *o, const float *x, const float *z, long n, long ni, long no, long nz) {
  double began = now();
  for (long i = 0; i < n; i++) f(o + i * no, x + i * ni, z + i * nz);
  return (now() - began) / n;
}
double batch(void (*f)(float *, const float *, size_t), void (*g)(float *, const float *, const float *, size_t), float *o, const float *x,
             const float *z, long n) {
  double began = now();
  if (f) f(o, x, n); else g(o, x, z, n);
  return (now() - began) / n;
}
typedef float v __attribute__((vector_size(32)));
double peak(void) { /* GFLOP/s of twelve independent fused sums */
  v a[12], x = {1, 1, 1, 1, 1, 1, 1, 1}, y = x * 1e-9f;
  for (int i = 0; i < 12; i++) a[i] = x;
  double began = now();
  for (long k = 0; k < 3000000; k++) {
    __asm__ volatile("" : "+x"(x), "+x"(y));
    for (int i = 0; i < 12; i++) a[i] += x * y;
  }
  double took = now() - began;
  for (int i = 0; i < 12; i++) __asm__ volatile("" : : "x"(a[i]));
  return 3000000.0 * 12 * 16 / took;
}
"""


@dataclass
class Subject:
    """One thing that is timed; `run` gives nanoseconds a row."""

    name: str
    run: Callable[[], float]
    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.times)


@dataclass
class Workload:
    """One model; `plain` is what scikinC can take of it."""

    key: str
    title: str
    graph: Graph
    plain: Any
    original: Callable[[Any], Any] | None
    row_goal: float
    batch_goal: float
    relu: bool = False


def keras_net(
    sizes: list[int], activation: Any, place: Path, noise: int = 0, last: str | None = None, *, residual: bool
) -> tuple[Graph, Any]:
    """A network and what scikinC gets: the same layers, one after the other."""
    import keras

    from gha_apptainer.models.frontends import Request
    from gha_apptainer.models.frontends.keras import read

    layers = keras.layers
    keras.utils.set_random_seed(1)
    inputs = [keras.Input((sizes[0] - noise,), name="x"), *([keras.Input((noise,), name="noise")] if noise else [])]
    h = layers.Concatenate()(inputs) if noise else inputs[0]
    plain = keras.Sequential([keras.Input((sizes[0],))])
    for at, width in enumerate(sizes[1:]):
        final = at == len(sizes) - 2
        told = (last or "linear") if final else ("linear" if activation == "leaky" else activation)
        before, h = h, layers.Dense(width, activation=told)(h)
        plain.add(layers.Dense(width, activation=told))
        if activation == "leaky" and not final:
            h = layers.LeakyReLU(0.3)(h)
            plain.add(layers.LeakyReLU(0.3))
        if residual and at > 0 and not final:
            h = layers.Add()([h, before])
    model = keras.Model(inputs, h)
    path = place / "net.keras"
    model.save(path)
    return read(Request(path, "model"))[0], plain


def workloads(place: Path, only: list[str]) -> list[Workload]:
    """The six of the reference."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.preprocessing import FunctionTransformer, QuantileTransformer

    from gha_apptainer.models.frontends import Request
    from gha_apptainer.models.frontends.sklearn import graphs

    found: list[Workload] = []

    def wanted(key: str) -> bool:
        return not only or key in only

    deep = [128] * 5
    if wanted("i"):
        graph, plain = keras_net([10, *deep, 1], "relu", place, last="sigmoid", residual=False)
        found.append(Workload("i", "MLP 10-5x128-1 relu", graph, plain, None, 20, 40, relu=True))
    if wanted("i'"):
        graph, plain = keras_net([10, *deep, 1], "tanh", place, last="sigmoid", residual=False)
        found.append(Workload("i'", "MLP 10-5x128-1 tanh", graph, plain, None, 20, 40))
    if wanted("ii"):
        graph, plain = keras_net([68, *[128] * 10, 4], "leaky", place, 64, residual=True)
        found.append(Workload("ii", "generator 68-10x128-4 leaky, residual", graph, plain, None, 20, 40, relu=True))
    if wanted("ii'"):
        graph, plain = keras_net([140, *[128] * 11, 9], "tanh", place, 128, residual=True)
        found.append(Workload("ii'", "generator 140-11x128-9 tanh, residual", graph, plain, None, 20, 40))
    rng = np.random.default_rng(0)
    if wanted("iii"):
        x = rng.normal(size=(4000, 10))
        model = GradientBoostingClassifier(n_estimators=200, max_depth=6, random_state=0).fit(
            x, (x[:, 0] * x[:, 1] + x[:, 2] > 0).astype(int)
        )
        (graph,) = graphs(model, Request(place / "iii", "model"))
        found.append(Workload("iii", "200 trees of depth 6, 10 inputs", graph, model, model.predict_proba, 12, 12))
    if wanted("iv"):
        x = np.concatenate([rng.normal(size=(20000, 8)) * rng.uniform(1, 50, 8), rng.integers(0, 2, (20000, 4))], axis=1)
        steps = [
            ("q", QuantileTransformer(n_quantiles=1000, output_distribution="normal"), list(range(8))),
            ("p", FunctionTransformer(), list(range(8, 12))),
        ]
        pipe = ColumnTransformer(steps).fit(x)
        graph = graphs(pipe, Request(place / "iv", "model"))[0]
        found.append(Workload("iv", "8 quantile-normal + 4 flags, 1000 quantiles", graph, pipe, pipe.transform, 7, 7))
    return found


def driver(place: Path) -> ctypes.CDLL:
    (place / "driver.c").write_text(DRIVER)
    subprocess.run(["gcc", "-O3", "-march=x86-64-v3", "-shared", "-fPIC", "-o", "driver.so", "driver.c"], cwd=place, check=True, timeout=60)
    found = ctypes.CDLL(str(place / "driver.so"))
    for function in ("rows", "batch", "peak"):
        getattr(found, function).restype = ctypes.c_double
    return found


def pointer(array: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


def scikinc(work: Workload, place: Path, peers: Path | None) -> ctypes.CDLL | None:
    """scikinC's C of the same model, at -O3."""
    if peers is None:
        return None
    if str(peers) not in sys.path:
        sys.path.append(str(peers))
    try:
        import scikinC  # type: ignore[import-not-found]
    except ImportError as error:
        raise SystemExit("no scikinC in %s: %s" % (peers, error)) from error
    text = scikinC.convert({"model": work.plain}).replace('extern "C"', "")
    path = place / re.sub(r"\W", "_", "sk_" + work.key + "p" * work.key.endswith("'"))
    path.with_suffix(".c").write_text(text)
    argv = ["gcc", "-O3", "-std=c99", "-w", "-shared", "-fPIC", "-o", str(path) + ".so", str(path) + ".c", "-lm"]
    subprocess.run(argv, check=True, timeout=300)
    return ctypes.CDLL(str(path) + ".so")


def layers_of(graph: Graph) -> list[tuple[Any, Any, list[Any]]]:
    """Products with what follows them, of a chain with residual sums."""
    found: list[tuple[Any, Any, list[Any]]] = []
    for node in graph.nodes:
        if isinstance(node.op, ops.Affine):
            found.append((node.op.weight, node.op.bias, []))
        elif isinstance(node.op, ops.Activation | ops.Combine):
            found[-1][2].append(node.op)
    return found


def numpy_net(graph: Graph) -> Callable[[Any], Any]:
    layers = layers_of(graph)

    def run(x: Any) -> Any:
        for weight, bias, follow in layers:
            y = x @ weight + bias
            for op in follow:
                if isinstance(op, ops.Combine):
                    y = y + x
                elif op.kind == "tanh":
                    y = np.tanh(y)
                elif op.kind == "sigmoid":
                    y = 1 / (1 + np.exp(-y))
                else:
                    y = np.maximum(y, np.float32(op.parameters[0]) * y)
            x = y
        return x

    return run


def onnx_net(graph: Graph) -> Callable[[Any], Any]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, numbers, value = [], [], "x"
    for at, (weight, bias, follow) in enumerate(layers_of(graph)):
        numbers += [numpy_helper.from_array(weight, "w%d" % at), numpy_helper.from_array(bias, "b%d" % at)]
        before, name = value, "g%d" % at
        nodes.append(helper.make_node("Gemm", [value, "w%d" % at, "b%d" % at], [name]))
        for step, op in enumerate(follow):
            next_name = "g%d_%d" % (at, step)
            if isinstance(op, ops.Combine):
                nodes.append(helper.make_node("Add", [name, before], [next_name]))
            elif op.kind == "relu":
                nodes.append(helper.make_node("LeakyRelu", [name], [next_name], alpha=op.parameters[0]))
            else:
                nodes.append(helper.make_node({"tanh": "Tanh", "sigmoid": "Sigmoid"}[op.kind], [name], [next_name]))
            name = next_name
        value = name
    wide, out = layers_of(graph)[0][0].shape[0], len(graph.outputs)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width]) for name, width in (("x", wide), (value, out))]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], numbers), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def timed(call: Callable[[Any], Any], rows: Any) -> Callable[[], float]:
    calls = 1 if len(rows) > 1 else 20

    def run() -> float:
        began = time.perf_counter_ns()
        for _ in range(calls):
            call(rows)
        return (time.perf_counter_ns() - began) / len(rows) / calls

    return run


def subjects(work: Workload, place: Path, peers: Path | None, drive: ctypes.CDLL, levels: list[int]) -> list[Subject]:
    graph = work.graph
    rng = np.random.default_rng(2)
    x = rng.normal(size=(ROWS, len(graph.inputs))).astype(np.float32)
    noise = rng.normal(size=(ROWS, graph.noise)).astype(np.float32) if graph.noise else None
    whole = x if noise is None else np.concatenate([x, noise], axis=1)
    out = np.zeros((ROWS, len(graph.outputs)), np.float32)
    found = []

    def by_row(symbol: Any, level: Callable[[], object], data: Any, drawn: Any, rows: int) -> Callable[[], float]:
        width = 0 if drawn is None else drawn.shape[1]

        def run() -> float:
            level()
            arguments = (ctypes.c_long(one) for one in (rows, data.shape[1], out.shape[1], width))
            return float(drive.rows(ctypes.cast(symbol, ctypes.c_void_p), pointer(out), pointer(data), pointer(drawn), *arguments))

        return run

    def by_batch(symbol: Any, level: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            level()
            plain, noisy = (ctypes.cast(symbol, ctypes.c_void_p), None) if noise is None else (None, ctypes.cast(symbol, ctypes.c_void_p))
            return float(drive.batch(plain, noisy, pointer(out), pointer(x), pointer(noise), ctypes.c_long(ROWS)))

        return run

    baseline = scikinc(work, place, peers)
    if baseline is not None:
        found.append(Subject("scikinC -O3", by_row(baseline.model, lambda: None, whole, None, 128)))
    for mode in (EXACT, FAST):
        options = Options(mode, 3, internal_noise=bool(graph.noise))
        program = Program("lib", (graph,))
        made = build(emit(program, options), "lib", compilers.local(), options, place / ("%s-%s" % (re.sub(r"\W", "p", work.key), mode)))
        library = loading.load(made.path)
        handle = ctypes.CDLL(str(made.path))
        for level in levels:

            def choose(level: int = level, library: loading.Library = library) -> bool:
                return library.use_level(level)

            found.append(Subject("%s v%d row" % (mode, level), by_row(handle.model, choose, x, noise, ROWS)))
            found.append(Subject("%s v%d batch" % (mode, level), by_batch(handle.model_batch, choose)))
        if graph.noise:
            function = library["model"]

            def drawn(rows: Any, function: loading.Function = function, library: loading.Library = library) -> Any:
                library.use_level(levels[-1])
                return function(rows, seed=1)

            found.append(Subject("%s v%d batch, own noise" % (mode, levels[-1]), timed(drawn, x)))
    if any(isinstance(node.op, ops.Affine) for node in graph.nodes):
        run = onnx_net(graph)
        found += [Subject("onnxruntime %d rows" % count, timed(run, whole[:count].copy())) for count in (1, ROWS)]
        run = numpy_net(graph)
        found += [Subject("numpy %d rows" % count, timed(run, whole[:count].copy())) for count in (1, ROWS)]
    if work.original is not None:
        given = x.astype(np.float64)
        found += [Subject("sklearn %d rows" % count, timed(work.original, given[:count].copy())) for count in (1, ROWS)]
    return found


WATCH = """
import json, resource, subprocess, sys, time
began = time.monotonic()
subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)
print(json.dumps([time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""


def compile_cost(place: Path) -> tuple[float, float]:
    """Seconds of `models compile` for the generator of 11 x 128, and megabytes of its largest process."""
    keras_net([140, *[128] * 11, 9], "tanh", place, 128, residual=True)
    program = [sys.executable, "-c", "import sys; sys.path.insert(0, %r); from gha_apptainer.cli import main; sys.exit(main())" % str(SRC)]
    argv = [*program, "models", "compile", str(place / "net.keras"), "-o", str(place / "cost"), "--noise", "internal"]
    done = subprocess.run([sys.executable, "-c", WATCH, *argv], check=True, capture_output=True, text=True, timeout=300)
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def verdict(good: bool, load: float) -> str:
    return "not measured (load %.1f)" % load if load > BUSY else "reached" if good else "MISSED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs="*", default=[])
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="gha-bench-") as held:
        place = Path(held)
        drive = driver(place)
        peak = max(drive.peak() for _ in range(5))
        print("one core, %s, load %.2f, peak %.1f GFLOP/s" % (compilers.local().version, load, peak))
        for work in workloads(place, asked.only):
            one_load = os.getloadavg()[0]
            timing = subjects(work, place, asked.peers, drive, [1, 2, 3])
            for subject in timing:
                subject.run()
            for _ in range(asked.rounds):
                for subject in timing:
                    subject.times.append(subject.run())
            busy = max(load, one_load, os.getloadavg()[0] - 1)
            base = timing[0].median if timing[0].name.startswith("scikinC") else float("nan")
            flops = explain.flops(work.graph)
            print("\n(%s) %s%s" % (work.key, work.title, ", %.0f kFLOP" % (flops / 1e3) if flops else ""))
            for subject in timing:
                middle = subject.median
                rate = "%6.1f GFLOP/s %3.0f %%" % (flops / middle, 100 * flops / middle / peak) if flops else ""
                print("  %-28s %10.0f ns a row  %7.2f  %s" % (subject.name, middle, base / middle, rate))
            by_name = {subject.name: subject.median for subject in timing}
            if base == base:
                for kind, goal in (("row", work.row_goal), ("batch", work.batch_goal)):
                    best = base / min(by_name["%s v3 %s" % (mode, kind)] for mode in (EXACT, FAST))
                    print("  goal: %s v3 at least %g times scikinC: %.1f, %s" % (kind, goal, best, verdict(best >= goal, busy)))
            if work.relu:
                share = flops / by_name["fast v3 batch"] / peak
                print("  goal: at least 75 %% of peak in batch: %.0f %%, %s" % (100 * share, verdict(share >= 0.75, busy)))
            ratio = by_name["exact v3 batch"] / by_name["fast v3 batch"]
            print("  goal: exact within 1.4 times of fast: %.2f, %s" % (ratio, verdict(ratio <= 1.4, busy)))
        if not asked.only:
            seconds, megabytes = compile_cost(place)
            good = seconds < 20 and megabytes < 500
            print("\ngoal: 11 x 128 generator under 20 s and 500 MB: %.1f s, %.0f MB, %s" % (seconds, megabytes, verdict(good, load)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
