"""Quantized stages against an fp32 forward pass over the values that their blocks stand for.

What may differ is the rounding of activations to 8 bits, and the reference can do that rounding too: it says how large a
difference that explains. Differences are relative in the L2 norm over all logits of a text.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from shoal.model.decoder_config import DecoderConfig
from shoal.model.open_weights import open_weights
from shoal.model.weights import F32, Precision, Weight, WeightSource
from tests.model.tiny_models import make_tiny_gguf, make_tiny_model
from tests.numerics.engines import make_engine, make_executor, random_tokens, text_logits
from tests.numerics.reference import reference_logits, reference_of_weights, round_activations

TEXT = random_tokens(90)
NARROW, WIDE = 8, 90
"""rows a step on either side of the number from which 4-bit matrices meet fp32 activations"""
EXPLAINED = 1.5
"""Times the reference's own rounding error: the kernels round at other points of the same sums."""
EXACT = 1e-5
"""fp32 sums in another order"""


def difference(left: F32, right: F32) -> float:
    return float(np.linalg.norm(left - right) / np.linalg.norm(right))


def stage_logits(source: WeightSource, precision: Precision, step_tokens: int) -> F32:
    engine = make_engine(make_executor(source, precision=precision), prefill_chunk_tokens=step_tokens)
    return text_logits(engine, [TEXT])[0]


def check(source: WeightSource, precision: Precision, *, step_tokens: int, rounds_layers: bool = True) -> None:
    """The stage is off by no more than rounded activations explain, and by more than nothing: they are rounded."""
    model = reference_of_weights(source, precision)
    exact = reference_logits(model, TEXT)
    round_activations(model, layers=rounds_layers)
    explained = difference(reference_logits(model, TEXT), exact)
    logits = stage_logits(source, precision, step_tokens)
    assert EXACT < difference(logits, exact) < EXPLAINED * explained


@pytest.fixture(scope="module", params=["Q4_0", "Q4_1", "Q8_0"])
def gguf_source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    return open_weights(make_tiny_gguf(tmp_path_factory.mktemp("gguf"), quant=request.param))


@pytest.fixture(scope="module")
def float_source(tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    return open_weights(make_tiny_model("llama", tmp_path_factory.mktemp("floats")))


@pytest.mark.parametrize("precision", ["auto", "int8", "int4"])
def test_blocks_of_a_file(gguf_source: WeightSource, precision: Precision) -> None:
    check(gguf_source, precision, step_tokens=NARROW)


def test_widened_blocks_of_a_file_are_exact_at_fp32(gguf_source: WeightSource) -> None:
    exact = reference_logits(reference_of_weights(gguf_source, "fp32"), TEXT)
    assert difference(stage_logits(gguf_source, "fp32", WIDE), exact) < EXACT


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_requantized_floats(float_source: WeightSource, precision: Precision) -> None:
    check(float_source, precision, step_tokens=NARROW)


def test_wide_steps_of_4_bits_round_only_before_the_head(float_source: WeightSource) -> None:
    check(float_source, "int4", step_tokens=WIDE, rounds_layers=False)


def test_wide_steps_of_8_bits_round_everywhere(float_source: WeightSource) -> None:
    check(float_source, "int8", step_tokens=WIDE)


@dataclass
class MixedSource:
    """Another precision for every kind of matrix: fused products fall apart into one for each format."""

    source: WeightSource

    @property
    def config(self) -> DecoderConfig:
        return self.source.config

    def matrix(self, name: str, precision: Precision) -> Weight:
        return self.source.matrix(name, self._precision(name))

    def vector(self, name: str) -> F32:
        return self.source.vector(name)

    def matrix_bytes(self, name: str, precision: Precision) -> int:
        return self.source.matrix_bytes(name, self._precision(name))

    def _precision(self, name: str) -> Precision:
        own: dict[str, Precision] = {
            "q": "int4",
            "k": "int8",
            "v": "fp32",
            "gate": "int8",
            "up": "int4",
            "down": "int4",
        }
        return own.get(name.rpartition(".")[2], "int8")


@pytest.mark.parametrize("step_tokens", [NARROW, WIDE])
def test_matrices_of_mixed_formats(float_source: WeightSource, step_tokens: int) -> None:
    check(MixedSource(float_source), "auto", step_tokens=step_tokens)
