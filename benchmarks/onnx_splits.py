"""Two workers of one thread against one, with real ONNX models: `python benchmarks/onnx_splits.py`.

`map`, data parallel: `shoal map` over drawn pages, PP-OCR's text detector. Streaming, as a pipeline: 64 rows, each a
micro-batch of its own, through PP-OCR's text recognizer and the MiniLM sentence encoder. Loading is not counted. One
worker computes in the calling process: nothing is moved between processes there. Results are read as they come (the
likeliest class of each step), and dropped. A plain loop over `session.run` does the same beside them.

ROUNDS=5 sets the number of rounds, TOKENS=32 the length of the sentences.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from encoder_server import plain_session
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
    Target(
        what="recognizer, pp=2 vs a plain loop over session.run",
        contender="recognizer pp=2",
        reference="recognizer plain session",
        at_least=1.7,
    ),
    Target(
        what="encoder, pp=2 vs a plain loop over session.run",
        contender="encoder pp=2",
        reference="encoder plain session",
        at_least=1.7,
    ),
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
    """All rows, one at a time, results read as they come. The cut is measured on one row."""
    rows = [{key: array[row : row + 1] for key, array in inputs.items()} for row in range(_STREAMED_ROWS)]

    def load(split: str) -> shoal.Model:
        return models.enter_context(shoal.load(path, split=split, threads=1, example_inputs=rows[0]))

    def rate(results: Iterable[Mapping[str, np.ndarray[Any, Any]]]) -> float:
        started_s = time.perf_counter()
        for outputs in results:
            for array in outputs.values():
                array.argmax(-1)
        return _STREAMED_ROWS / (time.perf_counter() - started_s)

    plain = plain_session(path, threads=1)
    names = [output.name for output in plain.get_outputs()]
    loaded = {split: load(split) for split in ("1", "pp=2")}
    for model in loaded.values():
        rate(model.stream(rows))  # the first run of a shape plans its memory

    def plain_results() -> Iterator[dict[str, np.ndarray[Any, Any]]]:
        for row in rows:
            yield dict(zip(names, plain.run(names, row), strict=True))

    return {
        **{f"{name} {_WIDTHS[split]}": lambda model=model: rate(model.stream(rows)) for split, model in loaded.items()},
        f"{name} plain session": lambda: rate(plain_results()),
    }


if __name__ == "__main__":
    main()
