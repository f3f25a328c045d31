"""All ways to divide heads among members, feasible because there are few heads."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import comb

import numpy as np

from shoal.arrays import I64

_MOST_DEALS = 10_000
"""The most ways that are tried: enough for 8 heads and 8 members, or 32 and 4. That takes a few milliseconds."""


def are_few(num_heads: int, num_members: int) -> bool:
    """Whether there are few enough ways to try all of them."""
    return comb(num_heads + num_members - 1, num_heads) <= _MOST_DEALS


@cache
def all_deals(num_heads: int, num_members: int) -> I64:
    """[X, n]: all ways to write num_heads as an ordered sum of n numbers (stars and bars)."""
    parted = list(combinations(range(num_heads + num_members - 1), num_members - 1))
    ends = np.array(parted, np.int64).reshape(len(parted), num_members - 1)
    return np.diff(ends, axis=1, prepend=-1, append=num_heads + num_members - 1) - 1
