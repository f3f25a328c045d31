"""Which of a row's three positions each rotary frequency turns by, as the files of models that see say it."""

from __future__ import annotations

from collections.abc import Sequence


def axes_in_runs(shares: Sequence[int]) -> tuple[int, ...]:
    """`RopeConfig.axes` where neighboring frequencies turn by one axis, then by the next.

    `shares`: of the frequencies, how many turn by each axis. Source: transformers, models/qwen2_vl.
    """
    return tuple(axis for axis, share in enumerate(shares) for _ in range(share))


def axes_in_turn(shares: Sequence[int]) -> tuple[int, ...]:
    """`RopeConfig.axes` where frequencies turn by the three axes in turn, as far as each has a share; those that are
    left turn by time. Source: transformers, models/qwen3_vl."""
    return tuple(place % 3 if place < 3 * shares[place % 3] else 0 for place in range(sum(shares)))
