from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.planner.split.balance import balance_layers, observed_speeds, stage_costs
from tests.planner.example_blocks import make_blocks


def costs_of(block_costs, layers):
    """Cost of each stage, embedding and head included."""
    stages, first = [], 1
    for num_layers in layers:
        stages.append(sum(block_costs[first : first + num_layers]))
        first += num_layers
    stages[0] += block_costs[0]
    stages[-1] += block_costs[-1]
    return stages


def every_split(num_layers, num_stages):
    for cuts in combinations(range(1, num_layers), num_stages - 1):
        ends = (0, *cuts, num_layers)
        yield tuple(last - first for first, last in pairwise(ends))


def test_equal_layers_are_shared_equally():
    assert balance_layers([0.0, *[1.0] * 30, 0.0], 2) == (15, 15)
    assert balance_layers([0.0, *[1.0] * 30, 0.0], 4) in {(8, 8, 7, 7), (8, 7, 8, 7), (7, 8, 8, 7), (8, 7, 7, 8)}


def test_heavy_head_leaves_its_stage_fewer_layers():
    assert balance_layers([0.0, *[1.0] * 30, 6.0], 2) == (18, 12)


def test_heavy_embedding_leaves_the_first_stage_fewer_layers():
    assert balance_layers([4.0, *[1.0] * 30, 0.0], 2) == (13, 17)


def test_stages_below_the_largest_are_equal_too():
    assert balance_layers([0.0, *[1.0] * 9, 10.0], 4) == (3, 3, 2, 1)


def test_one_stage_and_one_layer_a_stage():
    assert balance_layers([1.0, 2.0, 3.0, 4.0], 1) == (2,)
    assert balance_layers([1.0, 2.0, 3.0, 4.0], 2) == (1, 1)


def test_more_stages_than_layers_is_refused():
    with pytest.raises(ConfigError, match="at most pp=2"):
        balance_layers([1.0, 2.0, 3.0, 4.0], 3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 20), min_size=3, max_size=10), st.integers(1, 8))
def test_largest_stage_is_as_small_as_brute_force_finds(block_costs, num_stages):
    num_layers = len(block_costs) - 2
    num_stages = min(num_stages, num_layers)
    layers = balance_layers(block_costs, num_stages)
    assert sum(layers) == num_layers
    assert len(layers) == num_stages
    assert min(layers) >= 1
    found = costs_of(block_costs, layers)
    best = min(
        (max(costs), sum(cost**2 for cost in costs))
        for costs in (costs_of(block_costs, split) for split in every_split(num_layers, num_stages))
    )
    assert (max(found), sum(cost**2 for cost in found)) == best


def test_head_counts_only_for_the_rows_that_are_sampled():
    blocks = make_blocks(num_layers=2, layer_flops=10.0, head_flops=30.0)
    assert stage_costs(blocks) == [0.0, 10.0, 10.0, 10.0]
    assert stage_costs(blocks, prompt_tokens_per_output=0.0)[-1] == 30.0


def test_stages_are_as_unequal_as_their_speeds():
    assert balance_layers([0.0, *[1.0] * 12, 0.0], 2, speeds=[3.0, 1.0]) == (9, 3)
    assert balance_layers([0.0, *[1.0] * 12, 0.0], 3, speeds=[1.0, 4.0, 1.0]) == (2, 8, 2)


def test_observed_speeds_count_the_ends_where_they_lie():
    costs = [1.0, 2.0, 2.0, 2.0, 4.0]
    assert observed_speeds(costs, (1, 2), (1.5, 4.0)) == [2.0, 2.0]
    assert observed_speeds(costs, (3,), (11.0,)) == [1.0]


@given(
    st.lists(st.floats(0.1, 10.0), min_size=3, max_size=8),
    st.lists(st.floats(0.2, 5.0), min_size=1, max_size=3),
)
def test_with_speeds_no_other_cut_has_a_quicker_slowest_stage(costs: list[float], speeds: list[float]):
    num_layers = len(costs) - 2
    if len(speeds) > num_layers:
        return

    def slowest(layers: tuple[int, ...]) -> float:
        return max(
            cost / own for cost, own in zip(observed_speeds(costs, layers, [1.0] * len(layers)), speeds, strict=True)
        )

    cuts = combinations(range(1, num_layers), len(speeds) - 1)
    every = [tuple(last - first for first, last in pairwise((0, *cut, num_layers))) for cut in cuts]
    assert slowest(balance_layers(costs, len(speeds), speeds=speeds)) <= min(map(slowest, every)) * (1 + 1e-6)
