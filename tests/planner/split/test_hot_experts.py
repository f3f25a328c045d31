"""Hot experts go to fast shards, whole and each on one shard at least."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.core.plan.share_rounding import ranges_of, round_shares
from shoal.planner.split.hot_experts import place_experts, row_share, slowest_shares
from shoal.protocol.stage_config import ExpertSpan, LayerExperts


def contiguous(num_experts: int, shares: list[int], num_layers: int) -> list[list[LayerExperts]]:
    spans = ranges_of(round_shares(num_experts, shares, at_least=1))
    return [[(ExpertSpan(*span),)] * num_layers for span in spans]


def skewed(num_experts: int, seed: int, power: float = 1.0) -> np.ndarray:
    """Zipf's law in a random order."""
    rows = 1.0 / np.arange(1, num_experts + 1) ** power
    return np.random.default_rng(seed).permutation(rows / rows.sum())


def held_counts(experts: LayerExperts) -> int:
    return sum(span.last - span.first for span in experts)


@given(
    st.integers(2, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(n, 24))),
    st.data(),
    st.integers(0, 99),
    st.integers(0, 6),
)
def test_every_row_stays_with_one_shard_and_nothing_gets_slower(sizes, data, seed, room):
    num_shards, num_experts = sizes
    shares = data.draw(st.lists(st.integers(1, 4), min_size=num_shards, max_size=num_shards))
    speeds = data.draw(st.lists(st.floats(0.1, 4.0), min_size=num_shards, max_size=num_shards))
    held = contiguous(num_experts, shares, 2)
    heat = [skewed(num_experts, seed), skewed(num_experts, seed + 1, 0.3)]
    placed = place_experts(heat, held, speeds, [room] * num_shards)
    for layer in range(2):
        turns: dict[int, list[tuple[int, int]]] = {}
        for experts in placed.experts:
            for span in experts[layer]:
                for expert in range(span.first, span.last):
                    turns.setdefault(expert, []).append((span.num_turns, span.turns))
        assert sorted(turns) == list(range(num_experts))
        for own in turns.values():
            ((num_turns,),) = ({count for count, _ in own},)
            assert sum(bits for _, bits in own) == (1 << num_turns) - 1
            assert all(bits > 0 for _, bits in own)
    before, after = slowest_shares(heat, held, speeds), slowest_shares(heat, placed.experts, speeds)
    assert all(new <= old * (1 + 1e-9) for new, old in zip(after, before, strict=True))
    assert placed.slowest == pytest.approx(after)
    extra = [
        sum(map(held_counts, new)) - sum(map(held_counts, old)) for new, old in zip(placed.experts, held, strict=True)
    ]
    assert sum(extra) == placed.num_copies
    assert all(0 <= more <= room for more in extra)


def test_hot_experts_go_to_the_fast_shard_and_cold_ones_to_where_memory_is() -> None:
    """A slow machine with three quarters of the memory: even experts would leave it the most rows."""
    heat = skewed(64, 3)
    held = contiguous(64, [1, 3], 1)
    placed = place_experts([heat], held, [2.0, 1.0], [0, 0])
    assert [held_counts(experts[0]) for experts in placed.experts] == [16, 48]
    assert row_share(heat, placed.experts[0][0]) == pytest.approx(2 / 3, abs=0.01)
    assert slowest_shares([heat], held, [2.0, 1.0])[0] > 1.6 * placed.slowest[0]


def test_one_expert_that_everybody_wants_is_copied_where_there_is_room() -> None:
    heat = np.array([0.79, 0.07, 0.07, 0.07])
    held = contiguous(4, [1, 1], 1)
    without = place_experts([heat], held, [1.0, 1.0], [0, 0])
    assert without.num_copies == 0
    copied = place_experts([heat], held, [1.0, 1.0], [0, 1])
    assert copied.num_copies == 1
    assert copied.slowest[0] < 0.6 < without.slowest[0]


def test_what_is_balanced_stays_where_it_is() -> None:
    held = contiguous(8, [1, 1], 2)
    even = [np.full(8, 1 / 8), np.empty(0)]
    placed = place_experts(even, [[one[0], ()] for one in held], [1.0, 1.0], [4, 4])
    assert placed.experts == (((ExpertSpan(0, 4),), ()), ((ExpertSpan(4, 8),), ()))
    assert placed.num_copies == 0
    assert placed.slowest == (0.5, 0.0)
