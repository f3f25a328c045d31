"""The repacked blocks stand for exactly the values that the gguf package computes from the same bytes."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES

from shoal.model.formats.gguf.blocks import SUPPORTED, choose_form, form_bytes, to_weight
from shoal.model.formats.quantization import dequantize
from shoal.model.weights import BlockWeight

NUM_ROWS, NUM_COLUMNS = 6, 512


def _raw(kind: Kind) -> np.ndarray:
    """Random bytes of a kind, with its half-precision numbers (which must be finite) from real quantization."""
    rng = np.random.default_rng(3)
    if kind == Kind.Q4_K:
        raw = rng.integers(0, 256, (NUM_ROWS, 2, 144), dtype=np.uint8)
        factors = rng.uniform(0.001, 0.02, (NUM_ROWS, 2, 2)).astype(np.float16)
        raw[..., :4] = factors.view(np.uint8)
        return raw.reshape(NUM_ROWS, -1)
    return quants.quantize(rng.standard_normal((NUM_ROWS, NUM_COLUMNS), dtype=np.float32), kind)


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.Q4_K])
def test_own_blocks_are_exact(kind: Kind) -> None:
    raw = _raw(kind)
    weight = to_weight(raw, kind, "own")
    assert isinstance(weight, BlockWeight)
    assert weight.shape == (NUM_ROWS, NUM_COLUMNS)
    np.testing.assert_array_equal(dequantize(weight), quants.dequantize(raw, kind))


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q8_0])
def test_symmetric_kinds_have_no_offsets(kind: Kind) -> None:
    weight = to_weight(_raw(kind), kind, "own")
    assert isinstance(weight, BlockWeight)
    assert weight.offsets_NG is None


@pytest.mark.parametrize("kind", sorted(SUPPORTED))
def test_every_supported_kind_can_be_dequantized(kind: Kind) -> None:
    block_weights, block_bytes = GGML_QUANT_SIZES[kind]
    rows = np.zeros((2, max(1, 256 // block_weights) * block_bytes), np.uint8)
    assert dequantize(to_weight(rows, kind, "dense")).shape == (2, 256)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_1])
@pytest.mark.parametrize("precision", ["auto", "fp32", "int8", "int4"])
@pytest.mark.parametrize("is_vocabulary", [False, True])
def test_bytes_are_known_before_reading(kind: Kind, precision, is_vocabulary: bool) -> None:
    form = choose_form(kind, precision, num_columns=NUM_COLUMNS, is_vocabulary=is_vocabulary)
    weight = to_weight(_raw(kind), kind, form)
    assert weight.num_bytes == form_bytes(form, kind, NUM_ROWS, NUM_COLUMNS)


@pytest.mark.parametrize(
    ("kind", "precision", "is_vocabulary", "form"),
    [
        (Kind.F16, "auto", False, "dense"),
        (Kind.Q6_K, "auto", False, "int8"),
        (Kind.Q3_K, "auto", False, "int8"),
        (Kind.IQ4_XS, "auto", False, "own"),
        (Kind.IQ4_XS, "int4", False, "int4"),
        (Kind.Q4_K, "auto", False, "own"),
        (Kind.Q4_1, "int8", False, "widened"),
        (Kind.Q5_1, "int8", False, "own"),
        (Kind.Q8_0, "int8", False, "own"),
        (Kind.Q8_0, "int4", False, "int4"),
        (Kind.Q8_0, "int4", True, "own"),
        (Kind.Q6_K, "int4", True, "int8"),
        (Kind.Q4_1, "int4", True, "own"),
        (Kind.Q4_1, "fp32", False, "dense"),
    ],
)
def test_form(kind: Kind, precision, is_vocabulary: bool, form: str) -> None:
    assert choose_form(kind, precision, num_columns=256, is_vocabulary=is_vocabulary) == form


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K])
def test_widened_blocks_hold_the_same_values(kind: Kind) -> None:
    own, wide = to_weight(_raw(kind), kind, "own"), to_weight(_raw(kind), kind, "widened")
    assert isinstance(wide, BlockWeight)
    assert wide.bits == 8
    np.testing.assert_array_equal(dequantize(wide), dequantize(own))


def test_rows_of_other_lengths_are_dense() -> None:
    assert choose_form(Kind.F32, "int4", num_columns=40, is_vocabulary=False) == "dense"
