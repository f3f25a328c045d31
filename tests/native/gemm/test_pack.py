"""Packed matrices hold exactly the values of what they were packed from."""

from __future__ import annotations

import weakref

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.model.attention.paged_attention import native_available
from shoal.model.formats.quantization import dequantize, pack_nibbles
from shoal.model.weights import BLOCK, BlockWeight
from tests.native.gemm.packed_parts import FLOAT_SCALES, HALF_SCALES, NO_SCALES, read_dense, read_parts
from tests.native.gemm.raw_blocks import DENSE_KINDS, HALVES_AT, raw_rows

pytestmark = pytest.mark.skipif(not native_available(), reason="the native extension is not built")
KINDS = sorted(HALVES_AT)


def aligned(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory that begins at a multiple of 64 and holds no zeros, so that what is not written is seen."""
    memory = np.full(num_bytes + 64, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + num_bytes]


def pack_rows(rows, kind: Kind, *, order=None, columns: tuple[int, int] | None = None, num_threads: int = 2):
    """The form and the memory of packed rows."""
    from shoal._native import ThreadPool, gguf_form, layout_bytes, pack_gguf

    block_weights, block_bytes = GGML_QUANT_SIZES[kind]
    first, last = columns or (0, rows.shape[1] // block_bytes * block_weights)
    num_outputs = len(rows) if order is None else len(order)
    form = gguf_form(kind, num_outputs, last - first, first)
    out = aligned(layout_bytes(form))
    pack_gguf(ThreadPool(num_threads), kind, rows, order, first, last - first, out)
    return form, out


def unpack_all(form, data) -> npt.NDArray[np.float32]:
    from shoal._native import Matrix

    matrix = Matrix(form, data)
    values = np.empty(matrix.shape, np.float32)
    matrix.unpack_rows(np.arange(matrix.shape[0], dtype=np.int32), values)
    return values


def reference(rows, kind: Kind) -> npt.NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return quants.dequantize(rows, kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_held_is_exact(kind: Kind) -> None:
    rows = raw_rows(kind, 37, 512, "powers")
    parts = read_parts(*pack_rows(rows, kind))
    np.testing.assert_array_equal(parts.values(), reference(rows, kind).astype(np.float64))


@pytest.mark.parametrize("numbers", ["ordinary", "extreme"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_have_the_bits_of_the_gguf_package(kind: Kind, numbers) -> None:
    rows = raw_rows(kind, 37, 768, numbers)
    expected = reference(rows, kind)
    unpacked = unpack_all(*pack_rows(rows, kind))
    np.testing.assert_array_equal(unpacked, expected)
    np.testing.assert_array_equal(np.signbit(unpacked)[~np.isnan(expected)], np.signbit(expected)[~np.isnan(expected)])


@pytest.mark.parametrize("kind", DENSE_KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("num_columns", [1, 77, 512])
def test_floats_are_kept(kind: Kind, num_columns: int) -> None:
    rows = raw_rows(kind, 21, num_columns)
    form, data = pack_rows(rows, kind)
    np.testing.assert_array_equal(read_dense(form, data), reference(rows, kind))
    np.testing.assert_array_equal(unpack_all(form, data), reference(rows, kind))


def test_every_half_is_read_and_written_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    values = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(
        unpack_all(*pack_rows(halves.view(np.uint8).reshape(256, 512), Kind.F16)).ravel(), values
    )
    finite = values[np.isfinite(values)].reshape(-1, 1)
    codes = np.zeros((len(finite), 1, BLOCK), np.uint8)
    form, data = pack_weight(BlockWeight(bits=8, q_NGB=codes, scales_NG=finite), in_half=True)
    np.testing.assert_array_equal(read_parts(form, data).scales_NP, finite)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kind=st.sampled_from([*KINDS, *DENSE_KINDS]))
def test_some_rows_in_some_order_and_some_columns(data: st.DataObject, kind: Kind) -> None:
    """A shard may begin within a super-block, and rows may be taken in any order."""
    num_rows, blocks = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3)) * 8
    first = data.draw(st.integers(0, blocks - 1))
    last = data.draw(st.integers(first + 1, blocks))
    order = np.array(data.draw(st.lists(st.integers(0, num_rows - 1), min_size=1, max_size=40)), np.int32)
    rows = raw_rows(kind, num_rows, blocks * 32)
    form, packed = pack_rows(rows, kind, order=order, columns=(first * 32, last * 32))
    expected = reference(rows, kind)[order, first * 32 : last * 32]
    np.testing.assert_array_equal(unpack_all(form, packed), expected)
    if kind not in DENSE_KINDS:
        np.testing.assert_allclose(read_parts(form, packed).values(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, *DENSE_KINDS], ids=lambda kind: kind.name)
def test_at_most_a_tenth_more_than_in_the_file(kind: Kind) -> None:
    rows = raw_rows(kind, 32, 1024)
    assert len(pack_rows(rows, kind)[1]) <= 1.1 * rows.nbytes


@pytest.mark.parametrize("kind", [*KINDS, *DENSE_KINDS], ids=lambda kind: kind.name)
def test_threads_change_no_byte(kind: Kind) -> None:
    rows = raw_rows(kind, 200, 512)
    np.testing.assert_array_equal(pack_rows(rows, kind, num_threads=1)[1], pack_rows(rows, kind, num_threads=4)[1])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_outputs_that_fill_the_last_tile_up_are_nothing(kind: Kind) -> None:
    form, data = pack_rows(raw_rows(kind, 19, 256), kind)
    padded = (*form[:4], 32, *form[5:])
    filled = read_parts(padded, data).values()[19:]
    assert np.all(np.abs(filled) <= (12 * 2.0**-128 if kind == Kind.MXFP4 else 0))  # whose scales cannot be 0
    if kind == Kind.MXFP4:
        assert not read_parts(padded, data).levels_NK[19:].any()


def pack_weight(weight: BlockWeight, *, in_half: bool):
    from shoal._native import ThreadPool, blocks_form, layout_bytes, pack_blocks

    num_outputs, num_inputs = weight.shape
    scales = HALF_SCALES if in_half else FLOAT_SCALES
    form = blocks_form(weight.bits, num_outputs, num_inputs, scales, scales if weight.offsets_NG is not None else 0)
    out = aligned(layout_bytes(form))
    pack_blocks(ThreadPool(2), form, weight.q_NGB, weight.scales_NG, weight.offsets_NG, out)
    return form, out


def test_blocks_in_pieces_of_whole_tiles() -> None:
    from shoal._native import ThreadPool, layout_bytes, pack_blocks

    weight = block_weight(4, has_offsets=True, in_half=True)
    form, whole = pack_weight(weight, in_half=True)
    out, pool = aligned(layout_bytes(form)), ThreadPool(2)
    offsets_NG = weight.offsets_NG
    assert offsets_NG is not None

    def add(first: int, last: int) -> None:
        rows = slice(first, last)
        pack_blocks(pool, form, weight.q_NGB[rows], weight.scales_NG[rows], offsets_NG[rows], out, first)

    add(16, 21)
    add(0, 16)
    np.testing.assert_array_equal(out, whole)
    for first, last in ((0, 15), (8, 21), (16, 20)):
        with pytest.raises(ValueError, match="not those of whole tiles"):
            add(first, last)


def block_weight(bits, *, has_offsets: bool, in_half: bool) -> BlockWeight:
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 1 << bits, (21, 6, BLOCK), dtype=np.uint8)
    scales, offsets = (rng.standard_normal((21, 6)).astype(np.float16 if in_half else np.float32) for _ in range(2))
    return BlockWeight(
        bits=bits,
        q_NGB=codes if bits == 8 else pack_nibbles(codes),
        scales_NG=scales.astype(np.float32),
        offsets_NG=offsets.astype(np.float32) if has_offsets else None,
    )


@pytest.mark.parametrize("in_half", [False, True])
@pytest.mark.parametrize("has_offsets", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_block_weights_are_kept(bits, has_offsets: bool, in_half: bool) -> None:
    weight = block_weight(bits, has_offsets=has_offsets, in_half=in_half)
    form, data = pack_weight(weight, in_half=in_half)
    held = HALF_SCALES if in_half else FLOAT_SCALES
    assert form[1:3] == (held, held if has_offsets else NO_SCALES)
    np.testing.assert_array_equal(unpack_all(form, data), dequantize(weight))
    np.testing.assert_array_equal(read_parts(form, data).scales_NP, weight.scales_NG)


def test_a_scale_that_half_precision_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="no fp16 or bfloat16 number"):
        pack_weight(block_weight(8, has_offsets=False, in_half=False), in_half=True)


def test_scattered_rows() -> None:
    from shoal._native import Matrix

    rows = raw_rows(Kind.Q5_K, 50, 256)
    matrix, wanted = Matrix(*pack_rows(rows, Kind.Q5_K)), np.array([49, 0, 16, 16, 7], np.int32)
    values = np.empty((5, 256), np.float32)
    matrix.unpack_rows(wanted, values)
    np.testing.assert_array_equal(values, reference(rows, Kind.Q5_K)[wanted])


def test_a_matrix_keeps_its_memory() -> None:
    from shoal._native import Matrix

    form, data = pack_rows(raw_rows(Kind.Q4_0, 16, 64), Kind.Q4_0)
    held = weakref.ref(data)
    matrix = Matrix(form, data)
    del data
    assert held() is not None
    del matrix
    assert held() is None


def test_what_does_not_fit_is_refused() -> None:
    from shoal._native import Matrix, ThreadPool, gguf_form, layout_bytes, pack_gguf

    rows, pool = raw_rows(Kind.Q4_K, 16, 512), ThreadPool(1)
    form = gguf_form(Kind.Q4_K, 16, 512, 0)
    out = aligned(layout_bytes(form))
    with pytest.raises(ValueError, match="whole blocks"):
        gguf_form(Kind.Q4_K, 16, 500, 0)
    with pytest.raises(ValueError, match="no packed form"):
        gguf_form(Kind.IQ1_S, 16, 256, 0)
    with pytest.raises(ValueError, match="another size"):
        pack_gguf(pool, Kind.Q4_K, rows, None, 0, 512, out[:-64])
    with pytest.raises(ValueError, match="these inputs"):
        pack_gguf(pool, Kind.Q4_K, rows[:, :144].copy(), None, 0, 512, out)
    with pytest.raises(ValueError, match="a row that is not there"):
        pack_gguf(pool, Kind.Q4_K, rows, np.full(16, 16, np.int32), 0, 512, out)
    with pytest.raises(ValueError, match="multiple of 64"):
        Matrix(form, np.zeros(len(out) + 1, np.uint8)[1:])
    out.flags.writeable = False
    with pytest.raises(TypeError):
        pack_gguf(pool, Kind.Q4_K, rows, None, 0, 512, out)
    matrix = Matrix(form, out)
    with pytest.raises(ValueError, match="no such row"):
        matrix.unpack_rows(np.array([16], np.int32), np.empty((1, 512), np.float32))
