"""The real models that the ONNX benchmarks run, and inputs for them. The packages: `pip install --group dev`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.append(str(Path(__file__).parents[1]))  # the examples and tests know the models already

from examples.images import detector_input, draw_page, recognizer_input
from tests.real_models import export_minilm, minilm_folder, ocr_detector, ocr_recognizer

__all__ = [
    "detector_rows",
    "export_minilm",
    "minilm_folder",
    "ocr_detector",
    "ocr_recognizer",
    "recognizer_rows",
    "sentence_rows",
]

F32 = npt.NDArray[np.float32]

_TEXTS = ("Shoal swims as one", "hello world 42", "Total: 1,234.50 EUR")
_MAX_TOKEN = 30_000
"""Of MiniLM's vocabulary of 30522."""


def detector_rows(num_rows: int, side: int) -> F32:
    """(rows, 3, side, side): drawn pages; side a multiple of 32."""
    page = detector_input(draw_page(_TEXTS, size=(side, side)))
    return np.repeat(page, num_rows, axis=0)


def recognizer_rows(num_rows: int) -> F32:
    """(rows, 3, 48, 320): drawn lines, three wide."""
    line = draw_page(_TEXTS[:1], size=(320, 48))
    return np.repeat(recognizer_input([line]), num_rows, axis=0)


def sentence_rows(num_rows: int, num_tokens: int) -> dict[str, npt.NDArray[np.int64]]:
    """Sentences of one length: token ids and mask, both (rows, tokens)."""
    ids_BS = np.random.default_rng(0).integers(1_000, _MAX_TOKEN, size=(num_rows, num_tokens))
    return {"input_ids": ids_BS, "attention_mask": np.ones_like(ids_BS)}
