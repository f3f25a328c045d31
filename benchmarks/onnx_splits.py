"""Two workers of one thread against one, with real ONNX models: `python benchmarks/onnx_splits.py`.

`map`, data parallel: `shoal map` over drawn pages, PP-OCR's text detector. Streaming, as a pipeline: 64 rows, each a
micro-batch of its own, through PP-OCR's text recognizer and the MiniLM sentence encoder. Loading is not counted. One
worker computes in the calling process: nothing is moved between processes there.

ROUNDS=5 sets the number of rounds, TOKENS=32 the length of the sentences.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from processes import shoal_json
from ratios import Target, measure_rounds, ratio_table, sample_table
from real_inputs import detector_rows, export_minilm, ocr_detector, ocr_recognizer, recognizer_rows, sentence_rows
from report import write_result

import shoal

_UNIT = "rows/s"
_MAP_ROWS = 128
_MAP_SIDE = 320
"""Pixels of a page's sides."""
_MAP_BATCH = 2
_STREAMED_ROWS = 64
_WIDTHS = {"1": "one worker", "dp=2": "dp=2", "pp=2": "pp=2"}

TARGETS = (
    Target(what="map, dp=2 vs one worker", contender="map dp=2", reference="map one worker", at_least=1.9),
    Target(
        what="recognizer, pp=2 vs one worker",
        contender="recognizer pp=2",
        reference="recognizer one worker",
        at_least=1.7,
    ),
    Target(what="encoder, pp=2 vs one worker", contender="encoder pp=2", reference="encoder one worker", at_least=1.7),
)


def main() -> None:
    """Measure, print and write the result file."""
    rounds = int(os.environ.get("ROUNDS", "5"))
    tokens = int(os.environ.get("TOKENS", "32"))
    with tempfile.TemporaryDirectory() as name, ExitStack() as models:
        folder = Path(name)
        sentences = sentence_rows(_STREAMED_ROWS, tokens)
        lines = {"x": recognizer_rows(_STREAMED_ROWS)}
        contenders = {
            **_mapping(folder),
            **_streaming(models, "recognizer", ocr_recognizer(), lines),
            **_streaming(models, "encoder", export_minilm(folder), sentences),
        }
        samples = measure_rounds(contenders, rounds, _UNIT)
    text = [
        f"Detector: {_MAP_ROWS} pages of {_MAP_SIDE} x {_MAP_SIDE} in batches of {_MAP_BATCH}. Recognizer: 48 x 320. "
        f"Encoder: {tokens} tokens. Every worker has one thread.",
        "",
        *ratio_table(samples, TARGETS),
        "",
        *sample_table(samples, _UNIT, 1),
    ]
    print("\n".join(text))
    command = f"ROUNDS={rounds} TOKENS={tokens} python benchmarks/onnx_splits.py"
    print(write_result("onnx-splits", text, command=command))


def _mapping(folder: Path) -> dict[str, Callable[[], float]]:
    """`shoal map` as a user runs it; its own clock starts when the workers are ready."""
    inputs = folder / "pages.npy"
    np.save(inputs, detector_rows(_MAP_ROWS, _MAP_SIDE))

    def rate(split: str) -> float:
        with tempfile.TemporaryDirectory(dir=folder) as output:
            given = ("--inputs", str(inputs), "-o", output, "--batch-size", str(_MAP_BATCH))
            return shoal_json("map", str(ocr_detector()), *given, "--split", split, "--threads", "1")["per_s"]

    return {f"map {_WIDTHS[split]}": lambda split=split: rate(split) for split in ("1", "dp=2")}


def _streaming(
    models: ExitStack, name: str, path: Path, inputs: Mapping[str, np.ndarray[Any, Any]]
) -> dict[str, Callable[[], float]]:
    """A loaded model takes all rows, one at a time. The cut is measured on one of them."""
    sample = {key: array[:1] for key, array in inputs.items()}

    def load(split: str) -> shoal.Model:
        return models.enter_context(shoal.load(path, split=split, threads=1, example_inputs=sample, micro_batch=1))

    def rate(model: shoal.Model) -> float:
        started_s = time.perf_counter()
        model(**inputs)
        return _STREAMED_ROWS / (time.perf_counter() - started_s)

    loaded = {split: load(split) for split in ("1", "pp=2")}
    for model in loaded.values():
        model(**inputs)  # the first run of a shape plans its memory
    return {f"{name} {_WIDTHS[split]}": lambda model=model: rate(model) for split, model in loaded.items()}


if __name__ == "__main__":
    main()
