"""The memory that a chain's values take: estimated, and only as far as a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

_ITEM_BYTES = 32
"""Of a number, or what a text or a list takes besides its content: a CPython object and the pointer to it. Rounded
down."""

_NUMBERS = (float, int, type(None))
"""What most items of large lists are: looked for first."""


def size_of(value: Any, most: int) -> int:
    """Bytes of a value with everything in it, each list and mapping once: they may contain themselves. Counting stops
    above `most`."""
    total, waiting = 0, [value]
    seen: set[int] = set()
    while waiting and total <= most:
        item = waiting.pop()
        total += _ITEM_BYTES
        if isinstance(item, _NUMBERS):
            continue
        if isinstance(item, np.ndarray):
            if item.dtype.hasobject:
                waiting += cast(list[Any], item.reshape(-1).tolist())
            else:
                total += item.nbytes
        elif isinstance(item, str | bytes | bytearray):
            total += len(item)
        elif isinstance(item, Mapping | list | tuple | set | frozenset) and id(cast(object, item)) not in seen:
            seen.add(id(cast(object, item)))
            if isinstance(item, Mapping):
                for pair in cast(Mapping[Any, Any], item).items():
                    waiting += pair
            else:
                waiting += cast(list[Any], item)
    return total
