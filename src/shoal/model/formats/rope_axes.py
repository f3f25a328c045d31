"""Which of a row's three positions (time, height, width) rotates each frequency, as the files of vision models say
it."""

from __future__ import annotations

from collections.abc import Sequence


def axes_in_runs(shares: Sequence[int]) -> tuple[int, ...]:
    """`RopeConfig.axes` for neighboring frequencies that use one axis, followed by those of the next.

    `shares`: number of frequencies of each axis. Source: transformers, models/qwen2_vl.
    """
    return tuple(axis for axis, share in enumerate(shares) for _ in range(share))


def axes_in_turn(shares: Sequence[int]) -> tuple[int, ...]:
    """`RopeConfig.axes` for frequencies that alternate between the three axes until an axis has its share; the
    remaining ones use time. Source: transformers, models/qwen3_vl."""
    return tuple(place % 3 if place < 3 * shares[place % 3] else 0 for place in range(sum(shares)))
