"""Rows that turn by angles of their own and see to an end of their own: the native kernel is the NumPy one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shoal.model.attention.interface import AttentionShape
from shoal.model.attention.paged_attention import make_attention, native_available

SIZES: dict[str, Any] = {"num_threads": 2, "num_blocks": 80, "block_size": 16, "max_context": 1280}
TOLERANCE = 2e-5

pytestmark = pytest.mark.skipif(not native_available(), reason="needs the native extension")


def computed(*, native: bool, window: int, chunks: list[int], ends: np.ndarray | None, turned: bool) -> np.ndarray:
    """Attention over a text in chunks, [T, 4 x 32]."""
    attention = make_attention(**SIZES, native=native)
    shape = AttentionShape(num_heads=4, num_kv_heads=2, head_dim=32, rotary_dim=32, scale=32**-0.5, window=window)
    rng = np.random.default_rng(0)
    total = sum(chunks)
    qkv = rng.standard_normal((total, shape.qkv_width)).astype(np.float32)
    table = rng.standard_normal((2, SIZES["max_context"], 16)).astype(np.float32)
    angles = rng.standard_normal((2, total, 16)).astype(np.float32)
    keys = np.zeros((SIZES["num_blocks"], 2, 32, 16), np.float32)
    values = np.zeros((SIZES["num_blocks"], 2, 16, 32), np.float32)
    layer = attention.layer(shape, keys, values, table[0], table[1])
    out = np.zeros((total, shape.out_width), np.float32)
    start = 0
    for count in chunks:
        rows = slice(start, start + count)
        step = attention.step(
            positions=np.arange(rows.start, rows.stop, dtype=np.int32),
            query_starts=np.array([0, count], np.int32),
            context_lens=np.array([rows.stop], np.int32),
            block_tables=np.arange(SIZES["num_blocks"], dtype=np.int32)[None],
            angles=(np.ascontiguousarray(angles[0, rows]), np.ascontiguousarray(angles[1, rows])) if turned else None,
            ends_seen=None if ends is None else ends[rows],
        )
        part = np.zeros((count, shape.out_width), np.float32)
        layer.run(np.ascontiguousarray(qkv[rows]), part, step)
        out[rows] = part
        start = rows.stop
    return out


def ends_with_pictures(total: int, pictures: list[tuple[int, int]]) -> np.ndarray:
    ends = np.arange(1, total + 1, dtype=np.int32)
    for first, end in pictures:
        ends[first:end] = end
    return ends


@pytest.mark.parametrize("window", [0, 24])
@pytest.mark.parametrize("chunks", [[1100], [40, 300, 460, 300]])
def test_native_rows_are_those_of_numpy(window: int, chunks: list[int]) -> None:
    ends = ends_with_pictures(1100, [(7, 30), (60, 330), (500, 790)])
    options: dict[str, Any] = {"window": window, "chunks": chunks, "ends": ends, "turned": True}
    native, plain = computed(native=True, **options), computed(native=False, **options)
    np.testing.assert_allclose(native, plain, rtol=0, atol=TOLERANCE)
    whole = computed(native=True, **{**options, "chunks": [1100]})
    np.testing.assert_array_equal(native, whole, err_msg="chunks that cut no picture change no bit")
    causal = computed(native=True, **{**options, "ends": None})
    assert np.abs(native - causal).max() > 0.1
    level = computed(native=True, **{**options, "turned": False})
    assert np.abs(native - level).max() > 0.1


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("ends", [[1, 2, 2], [1, 2, 4], [3, 2, 3], [1, 2]])
def test_ends_that_cannot_be_are_refused(native: bool, ends: list[int]) -> None:
    with pytest.raises(ValueError, match=r"see|every row"):
        make_attention(**SIZES, native=native).step(
            positions=np.arange(3, dtype=np.int32),
            query_starts=np.array([0, 3], np.int32),
            context_lens=np.array([3], np.int32),
            block_tables=np.zeros((1, 1), np.int32),
            ends_seen=np.array(ends, np.int32),
        )


@pytest.mark.parametrize("native", [True, False])
def test_angles_of_other_rows_or_widths_are_refused(native: bool) -> None:
    attention = make_attention(**SIZES, native=native)
    arrays = {
        "positions": np.arange(3, dtype=np.int32),
        "query_starts": np.array([0, 3], np.int32),
        "context_lens": np.array([3], np.int32),
        "block_tables": np.zeros((1, 1), np.int32),
    }
    with pytest.raises(ValueError, match="every row must have its angles"):
        attention.step(**arrays, angles=(np.zeros((2, 16), np.float32), np.zeros((2, 16), np.float32)))
    narrow = attention.step(**arrays, angles=(np.zeros((3, 8), np.float32), np.zeros((3, 8), np.float32)))
    shape = AttentionShape(num_heads=4, num_kv_heads=2, head_dim=32, rotary_dim=32, scale=1.0)
    keys, values = np.zeros((80, 2, 32, 16), np.float32), np.zeros((80, 2, 16, 32), np.float32)
    layer = attention.layer(shape, keys, values, np.zeros((1280, 16), np.float32), np.zeros((1280, 16), np.float32))
    with pytest.raises(ValueError, match="another number of rotating dimensions"):
        layer.run(np.zeros((3, shape.qkv_width), np.float32), np.zeros((3, shape.out_width), np.float32), narrow)
