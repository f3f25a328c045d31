"""Products of 4-bit weights on one core, on every instruction set, beside fp32 GEMM: `python benchmarks/kernels.py`.

A matrix of 2048 inputs and 5632 outputs in GGUF's Q4_0. Many rows are compared with the best of PyTorch, NumPy and ONNX
Runtime, those that are installed; a lone row, which is bound by memory, with copying as many bytes as its weights have.
Both sides take their weights from the same place: from memory, out of copies in turn, or the same matrix again and
again, which a large last cache holds. The activations' quantization counts as part of the product. Times are processor
time of the one thread, and contenders are called in turn.

Sets without AVX-512 are compared with libraries that are held to AVX2 as well, in a process of their own: MKL and
OpenBLAS then run their AVX2 and Haswell kernels (seen with perf); nothing holds ONNX Runtime. The cost of the fixed
order of sums is measured last, with a C++ compiler: see kernel_order.cpp.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from kernel_order import cost_of_order
from random_blocks import random_blocks
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import write_result

from shoal import _native

F32 = npt.NDArray[np.float32]
Copy = TypeVar("Copy")
_KIND = GGMLQuantizationType.Q4_0
_NUM_OUTPUTS, _NUM_INPUTS = 5632, 2048
_ROWS = (16, 64, 512)
_AT_LEAST = {"avx2": 1.3, "avx512vnni": 2.8, "amx": 6.0}
"""times fp32 GEMM on the same instruction set"""
_LONE_ROW_AT_LEAST = 0.8
_FP32 = "fp32 GEMM"
_OUT_OF_MEMORY = "weights out of memory"
_PLACES = (_OUT_OF_MEMORY, "the same weights again")
"""where both sides have their weights: copies in turn, as layers of a model that no cache holds; or one matrix"""
_NARROW = {"baseline", "avx2", "avxvnni"}
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_AVX2_ONLY = {"OPENBLAS_CORETYPE": "Haswell", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
_MIN_S = 0.15
"""of one measurement"""


def main() -> None:
    """Measure, print and write the result file."""
    given = _parser().parse_args()
    parts = [[isa for isa in given.sets if (isa in _NARROW) == is_narrow] for is_narrow in (True, False)]
    if all(parts):
        lines = [line for sets in parts for line in _in_another_process(sets, given)]
    else:
        narrow = bool(parts[0])
        _with_environment(_ONE_THREAD | (_AVX2_ONLY if narrow else {}))
        lines = _measured(given, is_narrow=narrow)
    print("\n".join(lines))
    if not given.no_file:
        command = shlex.join(["python", "benchmarks/kernels.py", *sys.argv[1:]])
        print(write_result("kernels" if parts[1] else "kernels-avx2", lines, command=command))


def _in_another_process(sets: Sequence[str], given: argparse.Namespace) -> list[str]:
    numbers = ["--rounds", str(given.rounds), "--weight-bytes", str(given.weight_bytes)]
    command = [sys.executable, __file__, "--sets", *sets, *numbers, "--no-file"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()


def _measured(given: argparse.Namespace, *, is_narrow: bool) -> list[str]:
    products = Products(_NUM_OUTPUTS, _NUM_INPUTS, given.weight_bytes)
    return [
        *_many_rows(products, given.sets, given.rounds, is_narrow=is_narrow),
        *_one_row(products, given.sets, given.rounds),
        *cost_of_order([isa for isa in given.sets if isa in _AT_LEAST], given.rounds),
    ]


class Products:
    """Copies of one matrix, more than caches hold, and rows to multiply with it."""

    def __init__(self, num_outputs: int, num_inputs: int, weight_bytes: int) -> None:
        rng = np.random.default_rng(0)
        form = _native.gguf_form(_KIND, num_outputs, num_inputs, 0)
        self.matrix_bytes = _native.layout_bytes(form)
        count = max(1, weight_bytes // self.matrix_bytes)
        self.memory = _aligned(count * self.matrix_bytes)
        parts = self.memory.reshape(count, -1)
        raw = random_blocks(_KIND, rng, num_outputs, num_inputs)
        self._pool = _native.ThreadPool(1)
        _native.pack_gguf(self._pool, _KIND, raw, None, 0, num_inputs, parts[0])
        parts[1:] = parts[0]
        self._matrices = [_native.Matrix(form, part) for part in parts]
        self.shape = (num_outputs, num_inputs)
        self._values = {rows: rng.standard_normal((rows, num_inputs), np.float32) for rows in (1, *_ROWS)}
        self._out = {rows: np.empty((rows, num_outputs), np.float32) for rows in (1, *_ROWS)}

    def call(self, isa: str, rows: int, place: str) -> Callable[[], object]:
        """A product, of another copy with each call if weights are to come from memory."""
        matrices = _in_turn(self._matrices, place)
        values, out = self._values[rows], self._out[rows]
        return lambda: _native.multiply(self._pool, next(matrices), values, False, isa, out)


def _many_rows(products: Products, sets: Sequence[str], rounds: int, *, is_narrow: bool) -> Iterator[str]:
    num_outputs, num_inputs = products.shape
    libraries = _fp32_libraries(num_outputs, num_inputs, products.memory.nbytes, is_narrow=is_narrow)
    held = ", which may not use more than AVX2" if is_narrow else ""
    yield from ("", f"## Many rows: 4 bits over fp32 of {', '.join(libraries)}{held}", "")
    samples: dict[str, list[float]] = defaultdict(list)
    targets: list[Target] = []
    for rows, place in itertools.product(_ROWS, _PLACES):
        named = f"{rows} rows, {place}"
        calls: dict[str, Callable[[], object]] = {name: copies.call(rows, place) for name, copies in libraries.items()}
        calls |= {isa: products.call(isa, rows, place) for isa in sets}
        giga_ops = 2e-9 * rows * num_outputs * num_inputs
        for number in range(1, rounds + 1):
            speeds = {name: giga_ops / seconds for name, seconds in _cpu_s_in_turn(calls).items()}
            samples[f"{_FP32}, {named}"].append(max(speeds[name] for name in libraries))
            for isa in sets:
                samples[f"{isa}, {named}"].append(speeds[isa])
            print(f"round {number} of {rounds}: {named}: {speeds}", file=sys.stderr, flush=True)
        targets += [
            Target(
                what=f"{isa} over {_FP32}, {named}",
                contender=f"{isa}, {named}",
                reference=f"{_FP32}, {named}",
                at_least=_AT_LEAST.get(isa),
            )
            for isa in sets
        ]
    yield from (*ratio_table(samples, targets), "", *sample_table(samples, "GOP/s"))


def _one_row(products: Products, sets: Sequence[str], rounds: int) -> Iterator[str]:
    title = (
        f"One row: {products.memory.nbytes / 1e6:.0f} MB of weights read, over copying as many, each byte counted once"
    )
    yield from ("", f"## {title}", "")
    copied = np.empty_like(products.memory)
    contenders: dict[str, Callable[[], float]] = {
        "copy": lambda: 1e-9 * copied.nbytes / _cpu_s(lambda: np.copyto(copied, products.memory)),
        **{
            isa: lambda isa=isa: 1e-9 * products.matrix_bytes / _cpu_s(products.call(isa, 1, _OUT_OF_MEMORY))
            for isa in sets
        },
    }
    samples = measure_rounds(contenders, rounds, "GB/s")
    targets = [
        Target(what=f"{isa} over copy", contender=isa, reference="copy", at_least=_LONE_ROW_AT_LEAST) for isa in sets
    ]
    yield from (*ratio_table(samples, targets), "", *sample_table(samples, "GB/s", 1))


def _in_turn(copies: Sequence[Copy], place: str) -> Iterator[Copy]:
    return itertools.cycle(copies if place == _OUT_OF_MEMORY else copies[:1])


def _cpu_s(work: Callable[[], object]) -> float:
    """Processor time of this thread for one call: the median of several, over `_MIN_S` altogether."""
    return _cpu_s_in_turn({"work": work})["work"]


def _cpu_s_in_turn(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The same of several, each called once and then the next, so that what disturbs one disturbs all."""
    times_s: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    while any(sum(times) < _MIN_S or len(times) < 3 for times in times_s.values()):
        for name, call in calls.items():
            start_s = time.thread_time()
            call()
            times_s[name].append(time.thread_time() - start_s)
    return {name: statistics.median(times) for name, times in times_s.items()}


Multiply = Callable[[F32], object]
"""A product of rows with one copy of the weights of a library"""


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies of one fp32 matrix, more than caches hold, in a library's own form."""

    multiply: Sequence[Multiply]

    def call(self, rows: int, place: str) -> Callable[[], object]:
        """A product, of another copy with each call if weights are to come from memory."""
        values_TK = np.random.default_rng(rows).standard_normal((rows, _NUM_INPUTS), np.float32)
        copies = _in_turn(self.multiply, place)
        return lambda: next(copies)(values_TK)


def _fp32_libraries(num_outputs: int, num_inputs: int, weight_bytes: int, *, is_narrow: bool) -> Mapping[str, Copies]:
    weights_NK = np.random.default_rng(1).standard_normal((num_outputs, num_inputs), np.float32)
    found: dict[str, Copies] = {}
    for name, make in {"PyTorch": _torch, "NumPy": _numpy, "ONNX Runtime": _onnx_runtime}.items():
        if is_narrow and make is _onnx_runtime:  # nothing holds it to AVX2
            continue
        try:
            found[name] = Copies([make(weights_NK) for _ in range(max(1, weight_bytes // weights_NK.nbytes))])
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    return found


def _numpy(weights_NK: F32) -> Multiply:
    copied_NK = weights_NK.copy()
    return lambda values_TK: np.matmul(values_TK, copied_NK.T)


def _torch(weights_NK: F32) -> Multiply:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    copied = torch.from_numpy(weights_NK.copy())
    return lambda values_TK: torch.nn.functional.linear(torch.from_numpy(values_TK), copied)


def _onnx_runtime(weights_NK: F32) -> Multiply:
    onnx, ort = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, ["T", weights_NK.shape[1]])],
        [helper.make_tensor_value_info("y", kind, ["T", len(weights_NK)])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(weights_NK.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda values_TK: session.run(None, {"x": values_TK})


def _aligned(num_bytes: int) -> npt.NDArray[np.uint8]:
    raw = np.empty(num_bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + num_bytes]


def _with_environment(variables: Mapping[str, str]) -> None:
    """Starts this program anew where libraries would read other variables: they do as they are loaded."""
    if any(os.environ.get(name) != value for name, value in variables.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | variables)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    known = _native.supported_isas()
    parser.add_argument("--sets", nargs="+", choices=known, default=known, metavar="SET", help=", ".join(known))
    parser.add_argument("--rounds", type=int, default=7, help="times that everything is measured (default: 7)")
    parser.add_argument(
        "--weight-bytes", type=int, default=400_000_000, help="of all copies of the matrix (default: 400000000)"
    )
    parser.add_argument("--no-file", action="store_true", help="write no result file")
    return parser


if __name__ == "__main__":
    main()
