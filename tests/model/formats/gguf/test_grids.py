"""Kinds that are kept exactly, and kinds that are re-quantized, against the gguf package's own dequantizer."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import quants

from shoal.model.formats.gguf.blocks import FLOATS, OWN_BITS, SUPPORTED, choose_form, to_weight
from shoal.model.formats.quantization import dequantize
from shoal.model.weights import BlockWeight
from tests.model.formats.test_slices import raw_rows

ROUNDING = 2e-6
"""fp32 products in another order, relative to the largest weight"""
REQUANTIZED = 0.006
"""half a step of 8 bits, 1 / 254 of a block's largest magnitude, and little more"""


@pytest.mark.parametrize("kind", sorted(OWN_BITS))
def test_own_blocks_are_exact(kind: Kind) -> None:
    raw = raw_rows(kind)
    expected = quants.dequantize(raw, kind)
    weight = to_weight(raw, kind, "own")
    assert isinstance(weight, BlockWeight)
    assert weight.bits == OWN_BITS[kind]
    np.testing.assert_allclose(dequantize(weight), expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


@pytest.mark.parametrize("kind", sorted(SUPPORTED - FLOATS))
def test_auto_keeps_what_every_kind_holds(kind: Kind) -> None:
    """Exactly, or at 8 bits: never with fewer than the file has."""
    raw = raw_rows(kind)
    expected = quants.dequantize(raw, kind)
    form = choose_form(kind, "auto", num_columns=expected.shape[1], is_vocabulary=False)
    assert form in ("own", "int8")
    error = np.abs(dequantize(to_weight(raw, kind, form)) - expected)
    assert error.max() <= REQUANTIZED * np.abs(expected).max()


@pytest.mark.parametrize("kind", sorted(OWN_BITS))
def test_damaged_scales_make_no_noise(kind: Kind) -> None:
    """Infinity and NaN where the scales are: numbers come out, whatever they are, and no warning."""
    raw = np.full_like(raw_rows(kind), 0xFF)
    with np.errstate(all="ignore"):
        assert to_weight(raw, kind, "own").shape == quants.dequantize(raw, kind).shape
