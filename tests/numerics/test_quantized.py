"""Quantized stages against an fp32 forward pass over the values that their blocks stand for.

What may differ is the rounding of activations to 8 bits. The reference can do that rounding too, and says how large a
difference that explains. Differences are relative in the L2 norm over all logits of a text.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shoal.arrays import F32
from shoal.model.decoder_config import DecoderConfig
from shoal.model.formats.open_weights import open_weights
from shoal.model.weights import Packing, Precision, Range, RawRows, Weight, WeightSource
from shoal.router.engine import Engine
from tests.model.tiny_models import make_tiny_gguf, make_tiny_model
from tests.numerics.engines import make_engine, make_executor, prompt_logits, random_tokens, text_logits
from tests.numerics.reference import reference_logits, reference_of_weights, round_activations

TEXT = random_tokens(90)
PROMPT_LENGTHS = (1, 2, 17, 40, 64, 90)
EXPLAINED = 1.5
"""Times the reference's own rounding error: the kernels round at other points of the same sums."""
EXACT = 1e-5
"""fp32 sums in another order"""


def difference(left: F32, right: F32) -> float:
    return float(np.linalg.norm(left - right) / np.linalg.norm(right))


def output_logits(source: WeightSource, precision: Precision) -> F32:
    """Of all of TEXT, as output tokens."""
    return text_logits(make_engine(make_executor(source, precision=precision)), [TEXT])[0]


def logits_after_prompts(source: WeightSource, precision: Precision) -> F32:
    """After some beginnings of TEXT, as prompts; no cached prefixes."""
    executor = make_executor(source, precision=precision)
    return np.concatenate([prompt_logits(make_engine(executor), [TEXT[:length]]) for length in PROMPT_LENGTHS])


def check_outputs(source: WeightSource, precision: Precision) -> None:
    """The stage is off by no more than rounded activations explain, and by more than nothing: they are rounded."""
    exact, rounded = exact_and_rounded(source, precision)
    explained = difference(rounded, exact)
    assert EXACT < difference(output_logits(source, precision), exact) < EXPLAINED * explained


def check_prompts(source: WeightSource, precision: Precision) -> None:
    exact, rounded = exact_and_rounded(source, precision)
    last = [length - 1 for length in PROMPT_LENGTHS]
    explained = difference(rounded[last], exact[last])
    assert EXACT < difference(logits_after_prompts(source, precision), exact[last]) < EXPLAINED * explained


def exact_and_rounded(source: WeightSource, precision: Precision) -> tuple[F32, F32]:
    model = reference_of_weights(source, precision)
    exact = reference_logits(model, TEXT)
    round_activations(model, layers=True)
    return exact, reference_logits(model, TEXT)


@pytest.fixture(scope="module", params=["Q4_0", "Q4_1", "Q8_0"])
def gguf_source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    return open_weights(make_tiny_gguf(tmp_path_factory.mktemp("gguf"), quant=request.param))


@pytest.fixture(scope="module")
def float_source(tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    return open_weights(make_tiny_model("llama", tmp_path_factory.mktemp("floats")))


@pytest.mark.parametrize("precision", ["auto", "int8", "int4"])
def test_blocks_of_a_file(gguf_source: WeightSource, precision: Precision) -> None:
    check_outputs(gguf_source, precision)


def test_blocks_of_a_file_are_widened_exactly_at_fp32(gguf_source: WeightSource) -> None:
    exact = reference_logits(reference_of_weights(gguf_source, "fp32"), TEXT)
    assert difference(output_logits(gguf_source, "fp32"), exact) < EXACT


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_requantized_floats(float_source: WeightSource, precision: Precision) -> None:
    check_outputs(float_source, precision)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_prompts_meet_rounded_activations_as_outputs_do(float_source: WeightSource, precision: Precision) -> None:
    check_prompts(float_source, precision)


@dataclass
class MixedSource:
    """Another precision for every kind of matrix: fused products fall apart into one for each format."""

    source: WeightSource

    @property
    def config(self) -> DecoderConfig:
        return self.source.config

    def matrix(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Weight:
        return self.source.matrix(name, self._precision(name), rows=rows, columns=columns)

    def vector(self, name: str, *, span: Range | None = None) -> F32:
        return self.source.vector(name, span=span)

    def matrix_bytes(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> int:
        return self.source.matrix_bytes(name, self._precision(name), rows=rows, columns=columns)

    def packing(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> Packing:
        return self.source.packing(name, self._precision(name), rows=rows, columns=columns)

    def raw_rows(
        self, name: str, precision: Precision, *, rows: Range | None = None, columns: Range | None = None
    ) -> RawRows | None:
        return self.source.raw_rows(name, self._precision(name), rows=rows, columns=columns)

    def release_pages(self) -> None:
        self.source.release_pages()

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


def test_matrices_of_mixed_formats(float_source: WeightSource) -> None:
    check_outputs(MixedSource(float_source), "auto")
    check_prompts(MixedSource(float_source), "auto")


_HAS_AVX512 = "avx512f" in Path("/proc/cpuinfo").read_text()


@pytest.mark.parametrize("gguf_source", ["Q4_1"], indirect=True)
@pytest.mark.parametrize("precision", ["auto", "int8", "int4"])
@pytest.mark.parametrize(("cuts", "chunk_tokens"), [((2,), 128), ((1, 3), 128), ((), 1), ((), 7), ((2,), 33)], ids=str)
def test_splits_and_chunks_change_no_bit(
    gguf_source: WeightSource, precision: Precision, cuts: tuple[int, ...], chunk_tokens: int
) -> None:
    """A last bit that differs can move a rounded activation by a whole step, so quantized sums must be the same."""
    if precision != "int8" and not _HAS_AVX512:
        pytest.skip("without AVX-512, ONNX Runtime multiplies a lone row by 4-bit blocks with other last bits")
    prompts = [random_tokens(length, seed=length) for length in PROMPT_LENGTHS]

    def split() -> Engine:
        executor = make_executor(gguf_source, precision=precision, cuts=cuts)
        return make_engine(executor, prefill_chunk_tokens=chunk_tokens)

    whole = make_executor(gguf_source, precision=precision)
    alone = [prompt_logits(make_engine(whole), [prompt]) for prompt in prompts]
    np.testing.assert_array_equal(prompt_logits(split(), prompts), np.concatenate(alone))
    np.testing.assert_array_equal(text_logits(split(), [TEXT])[0], text_logits(make_engine(whole), [TEXT])[0])
