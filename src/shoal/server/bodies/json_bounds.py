"""The number of values in a JSON text, counted before any of them is created.

A parser creates an object for every value and holds Python's lock meanwhile: two bytes of `[]` cost a third of a
microsecond and 56 bytes, so the size of a body says little about its cost. Counting does not parse, and NumPy counts
without the lock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.errors import InvalidRequest

_BLOCK_BYTES = 1 << 18
"""Bytes that are counted at once; counting needs a few times as much memory."""

Flags = npt.NDArray[np.bool_]

_QUOTE, _BACKSLASH, _COMMA, _COLON = b'"\\,:'
_OPENING = b"[{"


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonBounds:
    """Limits for one body."""

    max_items: int
    """Most elements of lists and fields of objects, all together, >= 1."""
    max_groups: int
    """Most lists and objects, all together, >= 1."""
    max_fields: int | None = None
    """Most fields of all objects; None: as many as there may be lists and objects."""


def check_json(body: bytes | bytearray | memoryview, bounds: JsonBounds) -> None:
    """Raises InvalidRequest if the text contains more. Text that is not JSON passes, because the parser reports it
    better."""
    num_items, num_groups, num_fields = _count(body)
    max_fields = bounds.max_groups if bounds.max_fields is None else bounds.max_fields
    if num_groups > bounds.max_groups or num_fields > max_fields:
        raise InvalidRequest(
            f"the body has {num_groups} lists and objects and {num_fields} fields, but at most {bounds.max_groups} and "
            f"{max_fields} are allowed"
        )
    if num_items > bounds.max_items:
        raise InvalidRequest(f"the body has {num_items} values, but at most {bounds.max_items} are allowed")


def _count(body: bytes | bytearray | memoryview) -> tuple[int, int, int]:
    """Commas, opening brackets and colons outside strings."""
    text = np.frombuffer(body, np.uint8)
    num_items = num_groups = num_fields = 0
    is_inside, num_escapes = False, 0
    for first in range(0, len(text), _BLOCK_BYTES):
        block = text[first : first + _BLOCK_BYTES]
        is_escaped, num_escapes = _escaped(block == _BACKSLASH, num_escapes)
        outside = ~np.bitwise_xor.accumulate((block == _QUOTE) & ~is_escaped) ^ is_inside
        is_inside = not outside[-1]
        num_items += int(np.count_nonzero((block == _COMMA) & outside))
        num_groups += int(np.count_nonzero(((block == _OPENING[0]) | (block == _OPENING[1])) & outside))
        num_fields += int(np.count_nonzero((block == _COLON) & outside))
    return num_items, num_groups, num_fields


def _escaped(is_backslash: Flags, num_before: int) -> tuple[Flags, int]:
    """Whether an odd number of backslashes stands before each byte, and whether one stands before the byte after the
    last: 0 or 1.

    Args:
        is_backslash: for each byte of a block.
        num_before: the second result for the previous block.
    """
    escaped = np.zeros(len(is_backslash), np.bool_)
    if not num_before and not is_backslash.any():
        return escaped, 0
    places = np.arange(len(is_backslash), dtype=np.int32)
    last_other = np.maximum.accumulate(np.where(is_backslash, np.int32(-1 - num_before), places))
    is_odd = ((places - last_other) & 1).astype(np.bool_)
    escaped[0], escaped[1:] = num_before, is_odd[:-1]
    return escaped, int(is_odd[-1])
