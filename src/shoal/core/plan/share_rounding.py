"""Rounding of shares: how many indivisible atoms each worker gets."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from shoal.errors import CapacityError, ConfigError

_BISECTIONS = 64
"""Bisection steps for the common load, more than the 53 bits of a double can distinguish."""


def round_shares(
    num_atoms: int, shares: Sequence[float], *, at_least: int = 0, caps: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Divide atoms among workers so that the largest load (atoms / share) is as small as possible.

    The result is exact, in rational numbers: each atom goes to the worker whose load with it would be least; ties go to
    the smaller share, then to the lower index. Only the last few atoms are assigned one by one; the others follow from
    a load that all workers have in common.

    Args:
        num_atoms: the number of atoms, all of which are assigned.
        shares: the share of each worker, positive, in any unit.
        at_least: atoms that every worker gets, whatever its share.
        caps: the most atoms that each worker may get; None: no limit.

    Raises:
        CapacityError: the caps allow fewer than num_atoms in all, or fewer than at_least for some worker.
        ConfigError: there are fewer than at_least atoms for each worker, or a share is not positive.

    Source: D'Hondt's rule, which minimizes the largest ratio of seats to votes; Gross's greedy algorithm for separable
    convex costs shows that this also holds under bounds (Ibaraki and Katoh, Resource Allocation Problems, 1988).
    """
    highs = [num_atoms] * len(shares) if caps is None else [min(cap, num_atoms) for cap in caps]
    _check(num_atoms, shares, at_least, highs)
    exact = [Fraction(share) for share in shares]
    counts = _certain_counts(num_atoms, shares, at_least, highs)
    for _ in range(num_atoms - sum(counts)):
        loads = [(Fraction(n + 1) / exact[i], exact[i], i) for i, n in enumerate(counts) if n < highs[i]]
        counts[min(loads)[2]] += 1
    return tuple(counts)


def ranges_of(counts: Sequence[int], *, atom: int = 1, total: int | None = None) -> tuple[tuple[int, int], ...]:
    """Contiguous [first, last) ranges, in units, of `counts` atoms each; the last atom may be smaller.

    Args:
        counts: atoms of each worker.
        atom: units in an atom.
        total: units in all, if the last atom is not whole.
    """
    ranges: list[tuple[int, int]] = []
    first = 0
    limit = sum(counts) * atom if total is None else total
    for count in counts:
        last = min(first + count * atom, limit)
        ranges.append((first, last))
        first = last
    return tuple(ranges)


def _check(num_atoms: int, shares: Sequence[float], at_least: int, highs: Sequence[int]) -> None:
    if any(share <= 0 for share in shares):
        raise ConfigError(f"shares must be positive, but they are {':'.join(map(str, shares))}")
    if num_atoms < at_least * len(shares):
        raise ConfigError(f"{num_atoms} parts are too few for {len(shares)} workers with at least {at_least} each")
    if min(highs) < at_least or sum(highs) < num_atoms:
        raise CapacityError(f"{len(shares)} workers with room for {sum(highs)} parts cannot hold {num_atoms}")


def _certain_counts(num_atoms: int, shares: Sequence[float], at_least: int, highs: Sequence[int]) -> list[int]:
    """Counts at the largest common load that needs at most num_atoms, less one where floating point may have erred."""

    def counts_at(load: float) -> list[int]:
        return [min(high, max(at_least, int(load * share))) for share, high in zip(shares, highs, strict=True)]

    low, high = 0.0, (num_atoms + 1) / min(shares)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if sum(counts_at(middle)) <= num_atoms:
            low = middle
        else:
            high = middle
    return [max(at_least, count - 1) for count in counts_at(low)]
