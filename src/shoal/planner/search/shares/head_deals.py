"""All ways to deal heads out: there are few heads."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import comb

import numpy as np

from shoal.arrays import I64

_MOST_DEALS = 10_000
"""Ways that are looked at: of 8 heads to 8 members, of 32 to 4. That takes a few milliseconds."""


def are_few(num_heads: int, num_members: int) -> bool:
    """Whether all ways can be looked at."""
    return comb(num_heads + num_members - 1, num_heads) <= _MOST_DEALS


@cache
def all_deals(num_heads: int, num_members: int) -> I64:
    """[X, n]: all ways to write num_heads as an ordered sum, by where the members' shares are parted."""
    parted = list(combinations(range(num_heads + num_members - 1), num_members - 1))
    ends = np.array(parted, np.int64).reshape(len(parted), num_members - 1)
    return np.diff(ends, axis=1, prepend=-1, append=num_heads + num_members - 1) - 1
