"""Products of quantized Hugging Face weights on one core, beside bfloat16: `python benchmarks/coded_weights.py`.

E4M3 with scales of 128 inputs, NF4 of 64 and 4 bits in activation order are widened on their way into products of fp32;
4 bits with zero points are multiplied as integers. A lone row shows what fewer bytes save, many rows what widening
costs.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from ratios import Target, measure_rounds, ratio_table, sample_table
from report import write_result

from shoal import _native
from shoal.model.packed.memory import own_memory
from shoal.model.packed.pack import FLOAT_CODES, GROUPED_CODES, SCALES

_BFLOAT = 30
_ROWS = (1, 16, 128)
_MIN_S = 0.15
_MATRIX_BYTES = 256 << 20
"""of all copies of a matrix together: more than caches hold"""
_SCALE = 2.0**-8


class _Copies:
    """Copies of one packed matrix, each multiplied in turn."""

    def __init__(self, form: _native.PackedForm, pack: Callable[[np.ndarray], None], total_bytes: int) -> None:
        num_bytes = _native.layout_bytes(form)
        memory = own_memory(num_bytes * max(1, total_bytes // num_bytes)).reshape(-1, num_bytes)
        pack(memory[0])
        memory[1:] = memory[0]
        self._matrices = [_native.Matrix(form, one) for one in memory]
        self._pool, self._next = _native.ThreadPool(1), 0
        self.num_bytes = num_bytes

    def multiply(self, values_TK: np.ndarray, out_TN: np.ndarray) -> None:
        self._next = (self._next + 1) % len(self._matrices)
        _native.multiply(self._pool, self._matrices[self._next], values_TK, False, "", out_TN)


def main() -> None:
    """Measure, print and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--outputs", type=int, default=5632)
    parser.add_argument("--inputs", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bytes", type=int, default=_MATRIX_BYTES)
    parser.add_argument("--no-file", action="store_true")
    given = parser.parse_args()
    matrices = _matrices(given.outputs, given.inputs, given.bytes)
    lines = [
        f"* {name}: {8 * copies.num_bytes / given.outputs / given.inputs:.2f} bits a weight"
        for name, copies in matrices.items()
    ]
    for rows in _ROWS:
        values_TK = np.random.default_rng(rows).standard_normal((rows, given.inputs), np.float32)
        out_TN = np.empty((rows, given.outputs), np.float32)
        giga_ops = 2e-9 * rows * given.outputs * given.inputs
        contenders = {
            name: lambda copies=copies, x=values_TK, y=out_TN, ops=giga_ops: ops / _cpu_s(lambda: copies.multiply(x, y))
            for name, copies in matrices.items()
        }
        samples = measure_rounds(contenders, given.rounds, "GOP/s")
        targets = [
            Target(what=f"{name} over bf16", contender=name, reference="bf16", at_least=None)
            for name in matrices
            if name != "bf16"
        ]
        lines += ["", f"## {rows} rows", "", *ratio_table(samples, targets), "", *sample_table(samples, "GOP/s")]
    print("\n".join(lines))
    if not given.no_file:
        command = shlex.join(["python", "benchmarks/coded_weights.py", *sys.argv[1:]])
        print(write_result("coded-weights", lines, command=command))


def _matrices(num_outputs: int, num_inputs: int, total_bytes: int) -> dict[str, _Copies]:
    rng, pool = np.random.default_rng(0), _native.ThreadPool(1)
    codes_NK = rng.integers(0, 16, (num_outputs, num_inputs), dtype=np.uint8)

    def coded(codes: int, part: int, scales: str, zero_points: bool = False) -> _Copies:
        is_grouped = codes in GROUPED_CODES.values()
        held = part if not is_grouped else num_inputs // part
        offsets = SCALES["zero_points" if zero_points else None]
        form = _native.coded_form(codes, num_outputs, num_inputs, SCALES[scales], offsets, held, 0)  # type: ignore[index]
        scales_NP = np.full((num_outputs, num_inputs // part), _SCALE, np.float32)
        groups_K = rng.permutation(num_inputs).astype(np.int32) // part if is_grouped else None
        return _Copies(
            form, lambda out: _native.pack_coded(pool, form, codes_NK, scales_NP, None, groups_K, out), total_bytes
        )

    def blocks() -> _Copies:
        form = _native.blocks_form(4, num_outputs, num_inputs, SCALES["half"], SCALES["zero_points"])
        packed = (codes_NK[:, 0::2] | codes_NK[:, 1::2] << 4).reshape(num_outputs, -1, 16)
        scales_NG = np.full(packed.shape[:2], _SCALE, np.float32)
        return _Copies(
            form, lambda out: _native.pack_blocks(pool, form, packed, scales_NG, 3 * scales_NG, out), total_bytes
        )

    def bfloats() -> _Copies:
        form = _native.gguf_form(_BFLOAT, num_outputs, num_inputs, 0)
        values_NK = rng.standard_normal((num_outputs, num_inputs), np.float32)
        rows_NB = np.ascontiguousarray(values_NK.view(np.uint16)[:, 1::2]).view(np.uint8)
        return _Copies(
            form, lambda out: _native.pack_gguf(pool, _BFLOAT, rows_NB, None, 0, num_inputs, out), total_bytes
        )

    return {
        "bf16": bfloats(),
        "E4M3": coded(FLOAT_CODES["e4m3"], 128, "float"),
        "NF4": coded(FLOAT_CODES["nf4"], 64, "float"),
        "activation order": coded(GROUPED_CODES["int4"], 128, "half"),
        "4 bits, zero points": blocks(),
    }


def _cpu_s(work: Callable[[], object]) -> float:
    """Processor time of this thread for one call: the median of several."""
    work()
    times_s: list[float] = []
    while sum(times_s) < _MIN_S or len(times_s) < 3:
        start_s = time.thread_time()
        work()
        times_s.append(time.thread_time() - start_s)
    return statistics.median(times_s)


if __name__ == "__main__":
    main()
