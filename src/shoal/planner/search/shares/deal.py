"""Greedy division of pieces: each goes to the member that would finish first, which minimizes the slowest time.

Source: Gross's greedy for separable convex resource allocation (Ibaraki and Katoh, Resource Allocation Problems,
1988).
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace

_LITTLE = 1e-9
"""A relative error far above that of sums of doubles."""


def deal(
    num_atoms: int, costs: tuple[tuple[float, float], ...], *, at_least: int, caps: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Divide pieces one by one; each goes to the member that would finish first.

    Args:
        num_atoms: the number of pieces.
        costs: for each member: (seconds per piece, fixed seconds).
        at_least: pieces that every member gets.
        caps: the most pieces of each member, sufficient in total; None: no limit.

    Returns:
        The pieces of each member.
    """
    most = [num_atoms] * len(costs) if caps is None else caps
    counts = _first_dealt(num_atoms, costs, at_least=at_least, most=most)
    waiting = [
        (fixed + each * (counts[index] + 1), index)
        for index, (each, fixed) in enumerate(costs)
        if counts[index] < most[index]
    ]
    heapify(waiting)
    for _ in range(num_atoms - sum(counts)):
        index = waiting[0][1]
        counts[index] += 1
        if counts[index] == most[index]:
            heappop(waiting)
        else:
            each, fixed = costs[index]
            heapreplace(waiting, (fixed + each * (counts[index] + 1), index))
    return tuple(counts)


def _level_s(num_atoms: int, costs: Sequence[tuple[float, float]]) -> float:
    """The common finish time if pieces could be divided arbitrarily and without limits; 0 if pieces take no time."""
    rate = sum(1 / each for each, _ in costs if each)
    begun = sum(fixed / each for each, fixed in costs if each)
    return (num_atoms + begun) / rate if rate else 0.0


def _first_dealt(
    num_atoms: int, costs: Sequence[tuple[float, float]], *, at_least: int, most: Sequence[int]
) -> list[int]:
    """What the greedy division gives each member, except for about one piece per member: the pieces that can be
    finished by the latest time at which they are not too many, found by bisection."""

    def done_by(time_s: float) -> list[int]:
        return [
            min(cap, max(at_least, int(min(num_atoms, (time_s - fixed) / each)))) if each else at_least
            for (each, fixed), cap in zip(costs, most, strict=True)
        ]

    low_s, high_s = 0.0, max(fixed + each * num_atoms for each, fixed in costs)
    counts = [at_least] * len(costs)
    guess_s = _level_s(num_atoms, costs) * (1 - _LITTLE)
    if 0.0 < guess_s < high_s and sum(done := done_by(guess_s)) <= num_atoms:
        low_s, counts = guess_s, done
    while num_atoms - sum(counts) > len(costs) and low_s < (middle_s := (low_s + high_s) / 2) < high_s:
        done = done_by(middle_s)
        if sum(done) > num_atoms:
            high_s = middle_s
        else:
            low_s, counts = middle_s, done
    return counts
