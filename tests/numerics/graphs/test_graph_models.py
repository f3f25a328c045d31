"""Real models, split, against plain ONNX Runtime on the whole file: the same numbers, and the right answers.

Both take the same rows at once, because ONNX Runtime itself rounds otherwise where a batch has another size (2.5e-5 in
magika's probabilities). Workers that run the very file then give the same bits. The graph of a stage may be optimized
in another way at its ends, and shards add up parts of sums, so fp32 sums may be taken in another order: 1e-5 of the
largest number, 2e-5 for shards.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

import shoal
from examples.images import characters, detector_input, draw_page, find_lines, read_text, recognizer_input
from examples.sentences import similarities, tokenize
from tests import real_models
from tests.numerics.graphs.real_inputs import SAMPLE_RATE, magika_bytes, speech, speech_windows
from tests.plain_runtime import plain_session

Arrays = Mapping[str, np.ndarray[Any, Any]]

SPLITS = ("pp=2", "1", "tp=2", "dp=2")
"""The sample has those that cut graphs: the others run the very file, as examples do."""
MICRO_BATCH = 2
TOLERANCE = {"1": 0.0, "dp=2": 0.0, "pp=2": 1e-5, "tp=2": 2e-5}
"""With AVX2, tp=2 of the text detector is off by 1.08e-5 (10 of 204800 values are beyond 1e-5)."""
"""Of the largest number of an output."""
LINES = ("Shoal swims as one", "hello world 42", "Total: 1,234.50 EUR", "Nothing is lost (twice)")
SENTENCES = (
    "A man is eating a bowl of pasta.",
    "Someone eats noodles.",
    "The stock market fell sharply on Monday after a long weekend without any news.",
    "Equities dropped at the beginning of the week.",
    "Two dogs run through the snow.",
)
VAD_BATCH = {"input": 0, "state": 1, "output": 0, "stateN": 1}
VAD_RATE = np.array(SAMPLE_RATE, dtype=np.int64)


def run_plain(session: ort.InferenceSession, inputs: Arrays) -> dict[str, Any]:
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def assert_same(computed: Arrays, expected: Arrays, split: str) -> None:
    assert list(computed) == list(expected)
    for name, array in expected.items():
        assert computed[name].dtype == array.dtype
        atol = TOLERANCE[split] * np.abs(array).max()
        np.testing.assert_allclose(computed[name], array, rtol=0, atol=atol, err_msg=f"{name} at --split {split}")


def run_plain_in_pieces(
    session: ort.InferenceSession, inputs: Arrays, axes: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """All rows, MICRO_BATCH of them at once. They lie along `axes`, 0 where nothing is said; scalars hold no rows."""
    axes = axes or {}
    num_rows = max(array.shape[axes.get(name, 0)] for name, array in inputs.items() if array.ndim)
    pieces: list[dict[str, Any]] = []
    for first in range(0, num_rows, MICRO_BATCH):
        rows = range(first, min(num_rows, first + MICRO_BATCH))
        piece = {name: array.take(rows, axes.get(name, 0)) if array.ndim else array for name, array in inputs.items()}
        pieces.append(run_plain(session, piece))
    return {name: np.concatenate([piece[name] for piece in pieces], axes.get(name, 0)) for name in pieces[0]}


class Reference:
    """What plain ONNX Runtime computes, once for all splits."""

    def __init__(self) -> None:
        self._known: dict[object, Arrays] = {}

    def outputs(self, path: Path, inputs: Arrays) -> Arrays:
        key = (path, *((name, array.shape, array.tobytes()) for name, array in inputs.items()))
        if key not in self._known:
            self._known[key] = run_plain_in_pieces(plain_session(path), inputs)
        return self._known[key]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def computed(path: Path, inputs: Arrays, split: str, reference: Reference) -> Any:
    """The one output at a split, after it was found equal to plain ONNX Runtime's."""
    with shoal.load(path, split=split, threads=1, micro_batch=MICRO_BATCH) as model:
        outputs = model(**inputs)
        num_stages = [len(replica.stages) for replica in model.plan.replicas]
    assert num_stages == {"1": [1], "pp=2": [2], "dp=2": [1, 1], "tp=2": [1]}[split]
    assert_same(outputs, reference.outputs(path, inputs), split)
    (output,) = outputs.values()
    return output


@pytest.mark.sample(every=len(SPLITS))
@pytest.mark.parametrize("split", SPLITS)
def test_drawn_text_reads_back_exactly(split: str, reference: Reference) -> None:
    """Detector, direction classifier and recognizer, each split, one behind the other."""
    page = draw_page(LINES)
    probabilities = computed(real_models.ocr_detector(), {"x": detector_input(page)}, split, reference)
    lines = [page.crop(box) for box in find_lines(probabilities[0, 0])]
    assert len(lines) == len(LINES)

    upright_and_turned = [*lines, *(line.rotate(180) for line in lines)]
    images = recognizer_input([line.resize((192, 48)) for line in upright_and_turned])
    is_turned = computed(real_models.ocr_classifier(), {"x": images}, split, reference).argmax(-1)
    assert is_turned.tolist() == [0] * len(lines) + [1] * len(lines)

    scores = computed(real_models.ocr_recognizer(), {"x": recognizer_input(lines)}, split, reference)
    assert read_text(scores, characters(real_models.ocr_recognizer())) == list(LINES)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("split", SPLITS)
def test_pages_in_one_batch(split: str, reference: Reference) -> None:
    """Rows come back in the order in which they went in."""
    pages = [draw_page(LINES[:number], size=(320, 192)) for number in (1, 2, 3, 1, 4)]
    images = np.concatenate([detector_input(page) for page in pages])
    probabilities = computed(real_models.ocr_detector(), {"x": images}, split, reference)
    assert [len(find_lines(page[0])) for page in probabilities] == [1, 2, 3, 1, 4]


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("split", SPLITS)
def test_sentences_that_mean_the_same_are_neighbors(split: str, minilm: Path, reference: Reference) -> None:
    inputs = tokenize(real_models.minilm_folder(), SENTENCES)
    assert 0 in inputs["attention_mask"], "sentences of different lengths, so that padding matters"
    likeness = similarities(computed(minilm, inputs, split, reference))
    np.testing.assert_allclose(np.diag(likeness), 1.0, atol=1e-5)
    assert likeness[0, 1] > 0.4
    assert likeness[2, 3] > 0.4
    strangers = [likeness[first, second] for first in (0, 1) for second in (2, 3, 4)]
    assert max(strangers) < 0.2


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("split", SPLITS)
def test_kinds_of_files(split: str, reference: Reference) -> None:
    png = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(png, "png")
    contents = {
        "python": Path(__file__).read_bytes(),
        "png": png.getvalue(),
        "json": json.dumps({"a": [1, 2, {"b": None}], "name": "x"}).encode(),
        "onnx": real_models.magika().read_bytes(),
        "html": b"<html><head><title>x</title></head><body><p>Hello</p></body></html>",
    }
    scores = computed(real_models.magika(), {"bytes": magika_bytes(list(contents.values()))}, split, reference)
    configuration = json.loads((real_models.magika().parent / "config.min.json").read_text())
    assert [configuration["target_labels_space"][best] for best in scores.argmax(-1)] == list(contents)


@pytest.mark.sample(every=2)
@pytest.mark.parametrize("split", SPLITS)
def test_speech_is_told_from_silence(split: str) -> None:
    """Three signals side by side, the state of each handed on from window to window, its batch along axis 1."""
    signal = speech()
    signals = (signal, signal[::-1].copy(), 0.5 * signal)
    windows = np.stack([speech_windows(signal) for signal in signals], axis=1)
    session = plain_session(real_models.silero_vad())
    state = expected_state = np.zeros((2, len(signals), 128), dtype=np.float32)
    heard: list[Any] = []
    options = {"threads": 1, "batch_dims": VAD_BATCH, "micro_batch": MICRO_BATCH}
    with shoal.load(real_models.silero_vad(), split=split, **options) as model:
        for window in windows:
            outputs = model(input=window, state=state, sr=VAD_RATE)
            given = {"input": window, "state": expected_state, "sr": VAD_RATE}
            expected = run_plain_in_pieces(session, given, VAD_BATCH)
            assert_same(outputs, expected, split)
            state, expected_state = outputs["stateN"], expected["stateN"]
            heard.append(outputs["output"][:, 0] > 0.5)
    in_silence, in_speech = slice(0, 14), slice(24, 60)
    assert not np.any(heard[in_silence])
    assert np.all(heard[in_speech])
