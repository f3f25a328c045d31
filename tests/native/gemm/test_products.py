"""Products of packed matrices have the bits of an independent NumPy form, on every instruction set that there is."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.model.attention.paged_attention import native_available
from tests.native.gemm.product_reference import product_of
from tests.native.gemm.raw_blocks import DENSE_KINDS, HALVES_AT, raw_rows
from tests.native.gemm.test_pack import block_weight, pack_rows, pack_weight

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")

if native_available():
    from shoal import _native

    ISAS = _native.supported_isas()
else:
    ISAS = []

F32 = npt.NDArray[np.float32]
Packed = tuple[tuple[int, ...], npt.NDArray[np.uint8]]
KINDS = [*sorted(HALVES_AT), *DENSE_KINDS]
NUM_ROWS = st.one_of(st.integers(1, 13), st.integers(60, 70), st.integers(120, 300))
"""few: one register tile of each set; about 64: one panel; more: several"""
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
every_isa = pytest.mark.parametrize("isa", ISAS)
both_activations = pytest.mark.parametrize("exact", [False, True], ids=["int8", "exact"])


def some_values(num_rows: int, num_inputs: int, *, seed: int = 0) -> F32:
    """Blocks of very different sizes, and some of zeros or of numbers too small to be scaled."""
    rng = np.random.default_rng(seed)
    sizes_TG = 10.0 ** rng.uniform(-6, 3, (num_rows, -(-num_inputs // 32)))
    sizes_TG *= rng.choice([1.0, 1.0, 1.0, 0.0, 1e-35], sizes_TG.shape)
    values_TK = rng.standard_normal((num_rows, num_inputs)) * np.repeat(sizes_TG, 32, axis=1)[:, :num_inputs]
    return values_TK.astype(np.float32)


def multiply(
    packed: Packed,
    values_TK: F32,
    *,
    exact: bool = False,
    isa: str = "",
    num_threads: int = 1,
    bias_N: F32 | None = None,
    to: F32 | None = None,
) -> F32:
    """The product, or its sum with `to`."""
    matrix = _native.Matrix(*packed)
    out_TN = np.full((len(values_TK), matrix.shape[0]), np.nan, np.float32) if to is None else to.copy()
    pool = _native.ThreadPool(num_threads)
    _native.multiply(pool, matrix, values_TK, exact, isa, out_TN, bias_N, adds=to is not None)
    return out_TN


def assert_same_bits(got: F32, want: F32, context: object = "") -> None:
    """But for the sign of zero."""
    np.testing.assert_array_equal(got, want, err_msg=str(context))


def packed_matrix(kind: Kind, num_outputs: int, num_blocks: int, first_block: int = 0, seed: int = 0) -> Packed:
    """Of blocks of 32 inputs that begin somewhere within a super-block."""
    whole = -(-(first_block + num_blocks) // 8) * 8 * 32
    rows = raw_rows(kind, num_outputs, whole, seed=seed)
    return pack_rows(rows, kind, columns=(first_block * 32, (first_block + num_blocks) * 32), num_threads=1)


@every_kind
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), num_rows=NUM_ROWS, exact=st.booleans(), num_threads=st.integers(1, 3), seed=st.integers(0, 99))
def test_bits_of_every_kind(kind: Kind, data: st.DataObject, num_rows: int, exact: bool, num_threads: int, seed: int):
    most = max(1, min(80, 12_000 // num_rows))
    num_outputs = data.draw(st.integers(1, most))
    if kind in DENSE_KINDS:
        packed = pack_rows(raw_rows(kind, num_outputs, data.draw(st.integers(1, 300)), seed=seed), kind)
    else:
        first, blocks = data.draw(st.integers(0, 7)), data.draw(st.integers(1, 19))
        packed = packed_matrix(kind, num_outputs, blocks, first, seed)
    values_TK = some_values(num_rows, packed[0][5], seed=seed)
    expected = product_of(*packed, values_TK, exact=exact)
    for isa in ISAS:
        assert_same_bits(multiply(packed, values_TK, exact=exact, isa=isa, num_threads=num_threads), expected, isa)


@pytest.mark.parametrize("in_half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("has_offsets", [False, True], ids=["plain", "offsets"])
@pytest.mark.parametrize("bits", [4, 8])
def test_bits_of_block_weights(bits: int, has_offsets: bool, in_half: bool) -> None:
    packed = pack_weight(block_weight(bits, has_offsets=has_offsets, in_half=in_half), in_half=in_half)
    values_TK = some_values(70, packed[0][5])
    for exact in (False, True):
        expected = product_of(*packed, values_TK, exact=exact)
        for isa in ISAS:
            assert_same_bits(multiply(packed, values_TK, exact=exact, isa=isa), expected, isa)


@every_kind
@every_isa
def test_a_row_alone_has_the_bits_that_it_has_in_company(kind: Kind, isa: str) -> None:
    packed = packed_matrix(kind, 37, 8)
    values_TK = some_values(140, 256)
    for exact in (False, True):
        together = multiply(packed, values_TK, exact=exact, isa=isa)
        for first in (0, 3, 63, 64, 139):
            alone = multiply(packed, values_TK[first : first + 1].copy(), exact=exact, isa=isa)
            assert_same_bits(alone, together[first : first + 1], first)
        some = multiply(packed, values_TK[[5, 77, 78, 2, 130, 131, 132]], exact=exact, isa=isa)
        assert_same_bits(some, together[[5, 77, 78, 2, 130, 131, 132]])


@every_isa
@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q2_K, Kind.F16], ids=lambda kind: kind.name)
def test_what_is_added_to_a_product(kind: Kind, isa: str) -> None:
    packed, values_TK = packed_matrix(kind, 45, 8), some_values(66, 256)
    rng = np.random.default_rng(1)
    bias_N, residual_TN = (rng.standard_normal(shape, np.float32) for shape in (45, (66, 45)))
    plain = multiply(packed, values_TK, isa=isa)
    assert_same_bits(multiply(packed, values_TK, isa=isa, bias_N=bias_N), plain + bias_N)
    added = multiply(packed, values_TK, isa=isa, bias_N=bias_N, to=residual_TN)
    assert_same_bits(added, residual_TN + (plain + bias_N))
    assert_same_bits(multiply(packed, values_TK, isa=isa, to=residual_TN), residual_TN + plain)


GATE_KINDS = [
    (Kind.Q4_0, Kind.Q4_0),
    (Kind.Q4_K, Kind.Q5_K),  # both have offsets
    (Kind.Q4_0, Kind.Q4_1),  # one has
    (Kind.Q8_0, Kind.IQ4_NL),
    (Kind.Q6_K, Kind.Q3_K),
    (Kind.IQ4_XS, Kind.Q5_0),
    (Kind.Q3_K, Kind.Q2_K),
    (Kind.F32, Kind.BF16),
]
ACTIVATIONS = [
    lambda x: x / (1 + np.exp(-x)),
    lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
]


def clamped_swiglu(gate: npt.NDArray[np.float64], up: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    gate = np.minimum(gate, 7)
    return gate / (1 + np.exp(-1.702 * gate)) * (np.clip(up, -7, 7) + 1)


def relu2(gate: npt.NDArray[np.float64], up: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.maximum(gate, 0) ** 2 * up


@pytest.mark.parametrize("kinds", GATE_KINDS, ids=lambda kinds: "-".join(kind.name for kind in kinds))
@both_activations
def test_gated_products(kinds: tuple[Kind, Kind], exact: bool) -> None:
    """The sums are those of two products, and every set has the bits of the first.

    The activation is within 4e-7 of its size or of that of its argument: GELU's error function is a formula with an
    absolute error of 1.5e-7, all else is a few roundings in fp32.
    """
    gate, up = (packed_matrix(kind, 45, 8, seed=seed) for seed, kind in enumerate(kinds))
    values_TK = some_values(66, 256)
    bias_N = np.linspace(-3, 3, 45, dtype=np.float32)
    x, y = (multiply(packed, values_TK, exact=exact, bias_N=bias_N) for packed in (gate, up))
    for number, activation in enumerate(ACTIVATIONS):
        first, *others = (gated(gate, up, number, values_TK, bias_N, exact=exact, isa=isa) for isa in ISAS)
        for other in others:
            assert_same_bits(other, first)
        with np.errstate(over="ignore"):
            expected = activation(x.astype(np.float64)) * y
        tolerance = 4e-7 * np.maximum(np.abs(x), 1e-30).astype(np.float64) * np.abs(y) + 1e-37
        assert np.all(np.abs(first - expected) <= tolerance)


@pytest.mark.parametrize(("number", "formula"), [(3, clamped_swiglu), (4, relu2)])
def test_gates_that_are_clamped(number: int, formula: Callable[..., npt.NDArray[np.float64]]) -> None:
    """Values on both sides of the limits."""
    gate, up = (packed_matrix(Kind.Q8_0, 45, 8, seed=seed) for seed in range(2))
    values_TK = some_values(66, 256)
    bias_N = np.linspace(-9, 9, 45, dtype=np.float32)
    x, y = (multiply(packed, values_TK, bias_N=bias_N).astype(np.float64) for packed in (gate, up))
    assert (x > 7).any()
    assert (y < -7).any()
    first, *others = (gated(gate, up, number, values_TK, bias_N, exact=False, isa=isa) for isa in ISAS)
    for other in others:
        assert_same_bits(other, first)
    with np.errstate(over="ignore"):
        expected = formula(x, y)
    np.testing.assert_allclose(first, expected, rtol=2e-6, atol=1e-6)


@every_kind
@pytest.mark.parametrize("num_threads", [1, 3])
def test_grouped_rows_have_the_bits_of_plain_products(kind: Kind, num_threads: int) -> None:
    """Groups without rows, of one row, and of more than a panel has."""
    sizes = (0, 1, 5, 0, 70, 2, 130, 0)
    groups = [packed_matrix(kind, 45, 8, seed=seed) for seed in range(len(sizes))]
    starts = np.cumsum([0, *sizes], dtype=np.int32)
    values_TK = some_values(int(starts[-1]), 256)
    matrices, pool = [_native.Matrix(*packed) for packed in groups], _native.ThreadPool(num_threads)
    for exact in (False, True):
        for isa in ISAS:
            out_TN = np.full((len(values_TK), 45), np.nan, np.float32)
            _native.multiply_grouped(pool, matrices, starts, values_TK, exact, isa, out_TN)
            for packed, first, end in zip(groups, starts[:-1], starts[1:], strict=True):
                rows = values_TK[first:end]
                expected = multiply(packed, rows, exact=exact, isa=isa) if len(rows) else np.empty((0, 45), np.float32)
                assert_same_bits(out_TN[first:end], expected, (first, end))


def test_groups_that_do_not_fit_are_refused() -> None:
    packed, pool, out_TN = packed_matrix(Kind.Q8_0, 16, 8), _native.ThreadPool(1), np.empty((2, 16), np.float32)
    for starts in ([0, 1], [1, 2, 2], [0, 3, 2]):
        with pytest.raises(ValueError, match="starts must"):
            _native.multiply_grouped(
                pool, [_native.Matrix(*packed)] * 2, np.array(starts, np.int32), some_values(2, 256), False, "", out_TN
            )


def gated(gate: Packed, up: Packed, activation: int, values_TK: F32, bias_N: F32, *, exact: bool, isa: str) -> F32:
    first, second = _native.Matrix(*gate), _native.Matrix(*up)
    out_TN = np.empty((len(values_TK), first.shape[0]), np.float32)
    pool = _native.ThreadPool(2)
    _native.multiply_gated(pool, first, second, activation, values_TK, exact, isa, out_TN, bias_N, bias_N)
    return out_TN


@every_isa
@both_activations
@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q2_K, Kind.Q6_K, Kind.F32], ids=lambda kind: kind.name)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(kind: Kind, isa: str, exact: bool, bad: float) -> None:
    """In its own row, whichever input it is, and not in its neighbors."""
    packed, values_TK = packed_matrix(kind, 45, 8), some_values(20, 256)
    expected = multiply(packed, values_TK, exact=exact, isa=isa)
    for row, column in ((0, 0), (7, 37), (8, 100), (19, 255)):
        values_TK[row, column] = bad
    got = multiply(packed, values_TK, exact=exact, isa=isa)
    is_bad = np.isin(np.arange(20), (0, 7, 8, 19))
    assert not np.isfinite(got[is_bad]).any()
    assert_same_bits(got[~is_bad], expected[~is_bad])


def test_what_cannot_be_multiplied_is_refused() -> None:
    packed, values_TK = packed_matrix(Kind.Q8_0, 16, 8), some_values(2, 256)
    with pytest.raises(ValueError, match="values must be"):
        multiply(packed, some_values(2, 224))
    with pytest.raises(ValueError, match="a value for each output"):
        multiply(packed, values_TK, bias_N=np.zeros(15, np.float32))
    with pytest.raises(ValueError, match="instruction set named 'mmx'"):
        multiply(packed, values_TK, isa="mmx")
    with pytest.raises(ValueError, match="one panel"):
        gated(packed, packed_matrix(Kind.Q6_K, 16, 8), 0, values_TK, np.zeros(16, np.float32), exact=False, isa="")
