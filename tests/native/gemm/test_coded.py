"""Codes of quantized Hugging Face files, packed: held exactly, and multiplied with the bits of NumPy on every set."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.quantization import pack_nibbles
from tests.native.gemm.packed_parts import (
    BRAIN_SCALES,
    E4M3,
    FLOAT_SCALES,
    GROUPED4,
    GROUPED8,
    HALF_SCALES,
    NF4,
    NO_SCALES,
    TABLE_NF4,
    ZERO_POINTS,
    read_dense,
    read_parts,
)
from tests.native.gemm.product_reference import product_of
from tests.native.gemm.test_pack import aligned, unpack_all
from tests.native.gemm.test_products import ISAS, assert_same_bits, multiply, some_values

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")
NUM_OUTPUTS, NUM_INPUTS = 37, 300
NUMBER_TYPES = {HALF_SCALES: np.float16, BRAIN_SCALES: ml_dtypes.bfloat16, FLOAT_SCALES: np.float32}
CASES = [
    *((E4M3, scales, NO_SCALES, part, first) for scales in NUMBER_TYPES for part, first in ((128, 96), (300, 0))),
    (TABLE_NF4, FLOAT_SCALES, NO_SCALES, 64, 32),
    (TABLE_NF4, FLOAT_SCALES, NO_SCALES, 4, 0),
    *((codes, HALF_SCALES, offsets, 3, 0) for codes in (GROUPED4, GROUPED8) for offsets in (NO_SCALES, ZERO_POINTS)),
]
every_case = pytest.mark.parametrize(("codes", "scales", "offsets", "part", "first"), CASES)
NUM_CODES = {E4M3: 256, TABLE_NF4: 16, GROUPED4: 16, GROUPED8: 256}


def numbers(kind: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-0.02, 0.02, shape).astype(NUMBER_TYPES[kind]).astype(np.float32)


def packed_codes(codes: int, scales: int, offsets: int, part: int, first: int):
    """A packed matrix, and what NumPy says that it holds."""
    from shoal._native import ThreadPool, coded_form, layout_bytes, pack_coded

    rng = np.random.default_rng([codes, scales, part])
    form = coded_form(codes, NUM_OUTPUTS, NUM_INPUTS, scales, offsets, part, first)
    is_grouped = codes in (GROUPED4, GROUPED8)
    parts = part if is_grouped else -(-(first + NUM_INPUTS) // part)
    codes_NK = rng.integers(0, NUM_CODES[codes], (NUM_OUTPUTS, NUM_INPUTS), dtype=np.uint8)
    if codes == E4M3:
        codes_NK[(codes_NK & 0x7F) == 0x7F] = 0
        codes_NK[0, :254] = [code for code in range(256) if code & 0x7F != 0x7F]
    scales_NP = numbers(scales, (NUM_OUTPUTS, parts), rng)
    zeros_NP = rng.integers(0, NUM_CODES[codes], (NUM_OUTPUTS, parts), dtype=np.uint8) if offsets else None
    groups_K = rng.integers(0, parts, NUM_INPUTS, dtype=np.int32) if is_grouped else None
    out = aligned(layout_bytes(form))
    pack_coded(ThreadPool(2), form, codes_NK, scales_NP, zeros_NP, groups_K, out)

    part_K = groups_K if groups_K is not None else (first + np.arange(NUM_INPUTS)) // part
    match codes:
        case 11:
            levels_NK = codes_NK.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        case 12:
            levels_NK = NF4[codes_NK]
        case _:
            zeros_NK = np.float32(NUM_CODES[codes] // 2) if zeros_NP is None else zeros_NP[:, part_K].astype(np.float32)
            levels_NK = codes_NK.astype(np.float32) - zeros_NK
    return (form, out), levels_NK * scales_NP[:, part_K]


@every_case
def test_codes_are_held_exactly(codes: int, scales: int, offsets: int, part: int, first: int) -> None:
    packed, expected_NK = packed_codes(codes, scales, offsets, part, first)
    np.testing.assert_array_equal(unpack_all(*packed), expected_NK)
    np.testing.assert_array_equal(read_dense(*packed), expected_NK)


@every_case
def test_bits_of_products(codes: int, scales: int, offsets: int, part: int, first: int) -> None:
    packed, _ = packed_codes(codes, scales, offsets, part, first)
    for num_rows in (1, 70):
        values_TK = some_values(num_rows, NUM_INPUTS)
        expected = product_of(*packed, values_TK, exact=False)
        for isa in ISAS:
            assert_same_bits(multiply(packed, values_TK, isa=isa, num_threads=2), expected, (isa, num_rows))


def packed_blocks(bits: int, scales: int):
    """Blocks whose offsets are zero points."""
    from shoal._native import ThreadPool, blocks_form, layout_bytes, pack_blocks

    rng = np.random.default_rng([bits, scales])
    codes = rng.integers(0, 1 << bits, (21, 6, 32), dtype=np.uint8)
    scales_NG = numbers(scales, (21, 6), rng)
    zeros_NG = rng.integers(0, 1 << bits, (21, 6)).astype(np.float32)
    zeros_NG[0, :2] = 0, (1 << bits) - 1
    scales_NG[1, 0] = 0
    offsets_NG = scales_NG * ((1 << bits - 1) - zeros_NG)
    form = blocks_form(bits, 21, 192, scales, ZERO_POINTS)
    out = aligned(layout_bytes(form))
    pack_blocks(ThreadPool(1), form, pack_nibbles(codes) if bits == 4 else codes, scales_NG, offsets_NG, out)
    return (form, out), (scales_NG[..., None] * (codes - zeros_NG[..., None])).reshape(21, 192)


@pytest.mark.parametrize("scales", [HALF_SCALES, BRAIN_SCALES])
@pytest.mark.parametrize("bits", [4, 8])
def test_zero_points_take_a_byte_and_are_exact(bits: int, scales: int) -> None:
    packed, expected_NK = packed_blocks(bits, scales)
    np.testing.assert_array_equal(unpack_all(*packed), expected_NK)
    np.testing.assert_array_equal(read_parts(*packed).values(), expected_NK.astype(np.float64))
    values_TK = some_values(70, 192)
    for exact in (False, True):
        expected = product_of(*packed, values_TK, exact=exact)
        for isa in ISAS:
            assert_same_bits(multiply(packed, values_TK, exact=exact, isa=isa), expected, isa)


def test_what_cannot_be_held_is_refused() -> None:
    from shoal._native import ThreadPool, blocks_form, coded_form, layout_bytes, pack_blocks, pack_coded

    pool, codes = ThreadPool(1), np.zeros((16, 1, 16), np.uint8)
    form = blocks_form(4, 16, 32, HALF_SCALES, ZERO_POINTS)
    out, ones = aligned(layout_bytes(form)), np.ones((16, 1), np.float32)
    with pytest.raises(ValueError, match="no whole multiple"):
        pack_blocks(pool, form, codes, ones, ones / 2, out)
    with pytest.raises(ValueError, match="no fp16 or bfloat16"):
        pack_blocks(pool, blocks_form(4, 16, 32, BRAIN_SCALES, NO_SCALES), codes, ones / 3, None, aligned(320))
    for wrong in (
        (E4M3, 4, 8, 0, 0, 8, 0),
        (E4M3, 4, 8, 2, 0, 8, 8),
        (GROUPED4, 4, 8, 2, 0, 0, 0),
        (8, 4, 8, 2, 0, 8, 0),
    ):
        with pytest.raises(ValueError, match=r"cannot have this form|coded floats"):
            coded_form(*wrong)
    grouped = coded_form(GROUPED4, 16, 8, FLOAT_SCALES, NO_SCALES, 2, 0)
    out, codes_NK = aligned(layout_bytes(grouped)), np.zeros((16, 8), np.uint8)
    with pytest.raises(ValueError, match="a group that is not there"):
        pack_coded(pool, grouped, codes_NK, np.ones((16, 2), np.float32), None, np.full(8, 2, np.int32), out)
    with pytest.raises(ValueError, match="one group for every input"):
        pack_coded(pool, grouped, codes_NK, np.ones((16, 2), np.float32), None, None, out)
