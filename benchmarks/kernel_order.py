"""What it costs that sums have one order on every instruction set.

The same kernels are compiled twice: as the product is, and so that the compiler may contract, reorder and split sums as
suits the set. Numbers that are none or infinite count in both, or the check for them would fall away.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ratios import Target, measure_rounds, ratio_table, sample_table

_ROOT = Path(__file__).parents[1]
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
_OPTIONS = {
    "avx2": _AVX2,
    "avx512vnni": _AVX512,
    "amx": (*_AVX512, "-mamx-tile", "-mamx-int8", '-DSHOAL_TILES="micro/tiles_amx.h"'),
}
_FIXED = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
_FREE = ("-ffp-contract=fast", "-fassociative-math", "-fno-signed-zeros", "-fno-math-errno", "-fno-trapping-math")
_TIMEOUT_S = 300
_AT_LEAST = 0.97


def cost_of_order(sets: Sequence[str], rounds: int) -> list[str]:
    """As Markdown: speed in the order of the source over speed in any order, for products and what lies between."""
    if shutil.which("g++") is None:
        return ["", "The cost of the fixed order was not measured: no g++."]
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[str, Callable[[], float]] = {}
        targets: list[Target] = []
        for isa in sets:
            for work in ("products", "norms", "gates"):
                for order, options in {"fixed": _FIXED, "free": _FREE}.items():
                    program = _compiled(Path(folder) / f"{isa}-{order}", (*_OPTIONS[isa], *options))
                    contenders[f"{isa}, {work}, {order}"] = lambda program=program, work=work: _speed(program, work)
                names = [f"{isa}, {work}, {order}" for order in ("fixed", "free")]
                what = f"{isa}, {work}: fixed order over any"
                targets.append(Target(what=what, contender=names[0], reference=names[1], at_least=_AT_LEAST))
        samples = measure_rounds(contenders, rounds, "runs/s")
    head = ["", "## The fixed order of sums, over any order that the compiler likes", ""]
    return [*head, *ratio_table(samples, targets), "", *sample_table(samples, "runs/s")]


def _compiled(program: Path, options: Sequence[str]) -> Path:
    if not program.exists():
        source = _ROOT / "benchmarks/kernel_order.cpp"
        include = (f"-I{_ROOT / 'native'}", f"-I{_ROOT / 'tests/native'}")
        command = ["g++", "-std=c++17", "-O3", "-w", *include, *options, str(source), "-o", str(program)]
        subprocess.run(command, check=True, timeout=_TIMEOUT_S)
    return program


def _speed(program: Path, work: str) -> float:
    done = subprocess.run([str(program), work], check=True, timeout=_TIMEOUT_S, capture_output=True, text=True)
    return float(done.stdout)
