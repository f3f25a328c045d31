"""Block quantization against its definition and against GGML's own 4-bit rounding."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import quants

from shoal.model.formats.quantization import dequantize, pack_nibbles, quantize_rows, unpack_nibbles
from shoal.model.weights import BlockWeight, DenseWeight


def _values(num_rows: int = 48, num_columns: int = 128) -> np.ndarray:
    rng = np.random.default_rng(1)
    values = rng.standard_normal((num_rows, num_columns), dtype=np.float32)
    values[rng.random(values.shape) < 0.02] *= 4
    return values


def test_nibbles_hold_even_positions_low() -> None:
    packed = pack_nibbles(np.array([[1, 2, 15, 0]], np.uint8))
    assert packed.tolist() == [[0x21, 0x0F]]
    assert unpack_nibbles(packed).tolist() == [[1, 2, 15, 0]]


def test_8_bits_are_symmetric_and_within_half_a_step() -> None:
    values = _values()
    weight = quantize_rows(values, 8)
    assert isinstance(weight, BlockWeight)
    assert weight.offsets_NG is None
    step = np.repeat(weight.scales_NG, 32, axis=1)
    assert np.all(np.abs(dequantize(weight) - values) <= step * 0.5001)


def test_4_bits_lose_a_tenth_less_than_ggml_q4_1() -> None:
    values = _values()
    ours = dequantize(quantize_rows(values, 4))
    theirs = quants.dequantize(quants.quantize(values, Kind.Q4_1), Kind.Q4_1)
    assert np.square(ours - values).mean() < 0.9 * np.square(theirs - values).mean()


@pytest.mark.parametrize("bits", [4, 8])
def test_constant_blocks_have_no_division_by_zero(bits: int) -> None:
    values = np.repeat(np.array([[0.0], [0.25], [-3.0]], np.float32), 64, axis=1)
    np.testing.assert_allclose(dequantize(quantize_rows(values, bits)), values, rtol=1e-6)  # type: ignore[arg-type]


def test_sixteen_levels_are_kept_exactly() -> None:
    values = np.tile(np.arange(16, dtype=np.float32) * 0.5 - 3, (2, 4))
    np.testing.assert_allclose(dequantize(quantize_rows(values, 4)), values, atol=1e-6)


def test_rows_beyond_one_chunk_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    values = _values()
    whole = dequantize(quantize_rows(values, 4))
    monkeypatch.setattr("shoal.model.formats.quantization.CHUNK_WEIGHTS", 5 * 128)
    np.testing.assert_array_equal(dequantize(quantize_rows(values, 4)), whole)


def test_a_row_that_does_not_divide_into_blocks_stays_dense() -> None:
    values = _values(num_columns=40)
    weight = quantize_rows(values, 4)
    assert isinstance(weight, DenseWeight)
    np.testing.assert_array_equal(weight.values_NK, values)
