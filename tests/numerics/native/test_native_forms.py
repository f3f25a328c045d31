"""The native form of a stage against its ONNX form and against Hugging Face, for models that between them have whatever
a stage computes.

TOLERANCE, of the largest logit: fp32 sums of up to 512 terms in another order, in each of up to 4 layers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import Precision
from tests.numerics.engines import F32, make_engine, make_executor, prompt_logits, random_tokens, text_logits
from tests.numerics.native.native_models import MODELS, NAMES, NATIVE_ONLY, write_native_model
from tests.numerics.reference import load_reference, reference_logits

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")

TOLERANCE = 1e-4
TEXT = random_tokens(60)
PROMPTS = [random_tokens(length, seed=length) for length in (1, 31, 60)]


def logits_of(path: Path, precision: Precision, *, native: bool, shares: tuple[int, ...] = (1,)) -> F32:
    executor = make_executor(open_weights(path), precision=precision, native=native, shares=shares)
    return np.concatenate(
        [text_logits(make_engine(executor), [TEXT])[0], prompt_logits(make_engine(executor), PROMPTS)]
    )


def assert_close(got: F32, want: F32, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * float(np.abs(want).max()))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NATIVE_ONLY])
def test_native_against_onnx(name: str, tmp_path: Path) -> None:
    path = write_native_model(name, tmp_path)
    onnx = logits_of(path, "fp32", native=False)
    assert_close(logits_of(path, "fp32", native=True), onnx)
    assert_close(logits_of(path, "fp32", native=True, shares=(1, 1)), onnx)


@pytest.mark.parametrize("name", MODELS)
def test_native_against_hugging_face(name: str, tmp_path: Path) -> None:
    path = write_native_model(name, tmp_path)
    expected = reference_logits(load_reference(path), TEXT)
    assert_close(logits_of(path, "fp32", native=True)[: len(TEXT)], expected)


@pytest.mark.parametrize("name", NAMES)
def test_weights_as_they_lie_in_the_file(name: str, tmp_path: Path) -> None:
    """With exact activations, blocks are what they stand for up to the rounding of 15 bits: half a step of 1 / 16256 of
    the largest of 32, some 2e-5 of an activation, seven times a layer."""
    path = write_native_model(name, tmp_path)
    source = open_weights(path)
    exact = make_executor(source, precision="auto", native=True, exact_activations=True)
    (got,) = text_logits(make_engine(exact), [TEXT])
    assert_close(got, logits_of(path, "fp32", native=True)[: len(TEXT)], 1e-3)
