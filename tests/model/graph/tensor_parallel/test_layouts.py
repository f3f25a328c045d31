"""Who owns what of a split axis."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.plan.share_rounding import round_shares
from shoal.model.graph.tensor_parallel.layouts import AxisSegment, AxisSplit, RankRanges, SplitClasses
from shoal.model.graph.tensor_parallel.shapes.sizes import Size


@st.composite
def splits(draw: st.DrawFn) -> tuple[RankRanges, AxisSplit]:
    """Shares, and an axis of several segments and repeats, some of one class."""
    shares = draw(st.lists(st.integers(1, 20), min_size=1, max_size=16))
    classes = SplitClasses(len(shares))
    atoms = draw(st.lists(st.integers(len(shares), 60), min_size=1, max_size=3))
    known = [(classes.new(count), count) for count in atoms]
    picks = draw(st.lists(st.tuples(st.sampled_from(known), st.integers(1, 9)), min_size=1, max_size=4))
    period = tuple(AxisSegment(split_class, count * atom) for (split_class, count), atom in picks)
    return RankRanges(classes, shares), AxisSplit(axis=0, period=period, repeats=Size(draw(st.integers(1, 3))))


@given(splits())
def test_every_index_is_owned_once_and_every_rank_has_some(made: tuple[RankRanges, AxisSplit]) -> None:
    ranges, split = made
    size = split.size.fixed
    assert size is not None
    owned = [ranges.all_ranges(split, rank) for rank in range(ranges.num_ranks)]
    indices = [index for ranks in owned for first, last in ranks for index in range(first, last)]
    assert sorted(indices) == list(range(size))
    assert all(ranges.period_size(split, rank) > 0 for rank in range(ranges.num_ranks))
    for rank, own in enumerate(owned):
        assert sum(last - first for first, last in own) == ranges.period_size(split, rank) * (split.repeats.fixed or 0)


@given(splits())
def test_segments_of_one_class_are_cut_at_the_same_places(made: tuple[RankRanges, AxisSplit]) -> None:
    ranges, split = made
    for rank in range(ranges.num_ranks):
        starts = [0]
        for segment in split.period:
            starts.append(starts[-1] + segment.length)
        parts: dict[int, set[tuple[float, float]]] = {}
        for segment, start, (first, last) in zip(split.period, starts, ranges.ranges(split, rank), strict=False):
            place = ((first - start) / segment.length, (last - start) / segment.length)
            parts.setdefault(segment.split_class, set()).add((round(place[0], 9), round(place[1], 9)))
        assert all(len(places) == 1 for places in parts.values())


def test_joined_classes_keep_the_atoms_that_both_have() -> None:
    classes = SplitClasses(2)
    first, second = classes.new(12, origin=3), classes.new(32, origin=8)
    assert classes.constrain(pairs=[(first, second)])
    assert classes.num_atoms(first) == classes.num_atoms(second) == 4
    assert classes.origins(second) == {3, 8}
    assert classes.constrain(limits=[(second, 2)])
    assert classes.num_atoms(first) == 2


def test_a_constraint_that_leaves_too_few_atoms_changes_nothing() -> None:
    classes = SplitClasses(3)
    first, second = classes.new(12), classes.new(9)
    assert classes.constrain(pairs=[(first, second)])  # 3 atoms
    other = classes.new(8)
    assert not classes.constrain(limits=[(other, 8)], pairs=[(first, other)])
    assert classes.num_atoms(other) == 8
    assert classes.root(first) != classes.root(other)


@pytest.mark.parametrize("shares", [(3, 1), (1, 1, 1)])
def test_shares_are_rounded_to_whole_atoms(shares: tuple[int, ...]) -> None:
    classes = SplitClasses(len(shares))
    ranges = RankRanges(classes, shares)
    split = AxisSplit(axis=1, period=(AxisSegment(classes.new(9), 9 * 64),))
    edges = [first for rank in range(len(shares)) for first, _ in ranges.ranges(split, rank)] + [9 * 64]
    assert tuple((b - a) // 64 for a, b in pairwise(edges)) == round_shares(9, shares, at_least=1)
