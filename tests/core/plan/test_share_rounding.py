"""Share rounding against brute force, and the cases one would ask about."""

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shoal.core.plan.share_rounding import ranges_of, round_shares
from shoal.errors import CapacityError, ConfigError


def largest_load(counts, shares):
    """Most atoms per share."""
    return max(Fraction(count) / Fraction(share) for count, share in zip(counts, shares, strict=True))


@pytest.mark.parametrize(
    ("num_atoms", "shares", "counts"),
    [
        (3, (1, 1), (2, 1)),
        (3, (1, 1, 1), (1, 1, 1)),
        (3, (2, 1), (2, 1)),
        (3, (3, 1), (2, 1)),
        (2, (1, 1, 1), (1, 1, 0)),
        (4, (3, 1), (3, 1)),
        (48, (3, 1), (36, 12)),
        (5, (3, 1), (4, 1)),
        (0, (1, 1), (0, 0)),
        (7, (5,), (7,)),
        (10, (0.1, 0.2, 0.7), (1, 2, 7)),
    ],
)
def test_small_numbers(num_atoms, shares, counts):
    assert round_shares(num_atoms, shares) == counts


@given(st.data())
def test_no_other_counts_are_better(data):
    num_workers = data.draw(st.integers(1, 4))
    share = st.one_of(st.integers(1, 9), st.floats(0.1, 9.0))
    shares = data.draw(st.lists(share, min_size=num_workers, max_size=num_workers))
    num_atoms = data.draw(st.integers(0, 8))
    at_least = data.draw(st.integers(0, num_atoms // num_workers))
    caps = data.draw(st.lists(st.integers(at_least, 9), min_size=num_workers, max_size=num_workers))
    assume(sum(caps) >= num_atoms)
    allowed = [counts for counts in product(*(range(at_least, cap + 1) for cap in caps)) if sum(counts) == num_atoms]
    counts = round_shares(num_atoms, shares, at_least=at_least, caps=caps)
    assert counts in allowed
    assert largest_load(counts, shares) == min(largest_load(other, shares) for other in allowed)
    for giver, taker in product(range(num_workers), repeat=2):
        if counts[giver] > at_least and counts[taker] < caps[taker]:
            more = Fraction(counts[taker] + 1) / Fraction(shares[taker])
            assert Fraction(counts[giver]) / Fraction(shares[giver]) <= more


@given(st.integers(0, 300_000), st.lists(st.integers(1, 10**9), min_size=1, max_size=16))
def test_many_atoms_follow_the_shares(num_atoms, shares):
    counts = round_shares(num_atoms, shares)
    assert sum(counts) == num_atoms
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - Fraction(num_atoms * share, sum(shares))) < len(shares)


@given(st.integers(32, 5000), st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=16), st.integers(0, 2))
def test_everyone_gets_the_least(num_atoms, shares, at_least):
    assert min(round_shares(num_atoms, shares, at_least=at_least)) >= at_least


def test_caps_pass_the_rest_on_by_share():
    assert round_shares(100, (2, 1, 1), caps=(20, 100, 100)) == (20, 40, 40)
    assert round_shares(10, (3, 1), caps=(5, 5)) == (5, 5)


def test_caps_that_do_not_hold_everything():
    with pytest.raises(CapacityError, match="2 workers with room for 9 parts cannot hold 10"):
        round_shares(10, (3, 1), caps=(5, 4))
    with pytest.raises(CapacityError):
        round_shares(10, (1, 1), at_least=1, caps=(10, 0))


def test_what_cannot_mean_anything():
    with pytest.raises(ConfigError, match="3 parts are too few for 2 workers with at least 2 each"):
        round_shares(3, (1, 1), at_least=2)
    with pytest.raises(ConfigError, match="must be positive, but they are 1:0"):
        round_shares(3, (1, 0))


def test_ranges():
    assert ranges_of((2, 0, 1)) == ((0, 2), (2, 2), (2, 3))
    assert ranges_of((2, 1), atom=32, total=80) == ((0, 64), (64, 80))
    assert ranges_of((1, 2, 0), atom=32, total=70) == ((0, 32), (32, 70), (70, 70))
