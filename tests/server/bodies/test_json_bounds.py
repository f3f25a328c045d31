"""What a JSON text holds is counted as its grammar has it, strings and escapes included."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import InvalidRequest
from shoal.server.bodies import json_bounds
from shoal.server.bodies.json_bounds import JsonBounds, check_json

TEXTS = st.text('a"\\,:[{', max_size=6)
VALUES = st.recursive(
    st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)


def num_values(value: object) -> tuple[int, int, int]:
    """Commas, groups and fields that the text of a value has."""
    if isinstance(value, dict):
        inner, num_fields = list(value.values()), len(value)
    elif isinstance(value, list):
        inner, num_fields = list(value), 0
    else:
        return 0, 0, 0
    counts = [num_values(one) for one in inner]
    commas, groups, fields = (sum(column) for column in zip((0, 0, 0), *counts, strict=True))
    return commas + max(0, len(inner) - 1), groups + 1, fields + num_fields


def check_exact(text: bytes, counts: tuple[int, int, int]) -> None:
    num_items, num_groups, num_fields = counts
    groups = max(num_groups, num_fields)
    check_json(text, JsonBounds(max_items=num_items, max_groups=groups))
    for bounds in (
        JsonBounds(max_items=num_items - 1, max_groups=groups),
        JsonBounds(max_items=num_items, max_groups=groups - 1),
    ):
        with pytest.raises(InvalidRequest, match="at most"):
            check_json(text, bounds)


@given(VALUES)
def test_counts_are_exact(value: object) -> None:
    check_exact(json.dumps([value]).encode(), num_values([value]))


@settings(max_examples=50)
@given(VALUES, st.integers(1, 7))
def test_blocks_do_not_change_them(value: object, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_bounds, "_BLOCK_BYTES", size)
        check_exact(json.dumps([value]).encode(), num_values([value]))


@pytest.mark.parametrize(
    "text", [b"", b'"', b"\\" * 9, bytes(range(256)), np.arange(256, dtype=np.uint8).tobytes() * 9]
)
def test_what_is_no_json_passes(text: bytes) -> None:
    check_json(text, JsonBounds(max_items=1000, max_groups=1000))
