"""The choice of a split for a graph: against brute force, and what it says of what it did not take."""

from __future__ import annotations

import random
from itertools import combinations, product

import pytest

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.goal import OBJECTIVES, Goal
from shoal.planner.choice.kinds import KINDS
from shoal.planner.graph_choice.candidate import GraphCandidate, make_candidate
from shoal.planner.graph_choice.choice import GraphChoice, GraphSplit
from shoal.planner.graph_choice.choose import choose_graph, consider_all, splits_of_workers
from shoal.planner.graph_choice.speeds import GraphSpeeds, ShardSpeed
from shoal.planner.split.split_spec import SplitSpec
from tests.planner.graph_choice.speeds import MS, layout, make_speeds

THROUGHPUT = Goal(objective="throughput")
TWO_CORES = (layout(1, 2, 7 * MS), layout(2, 1, 12 * MS))


def reasons(choice: GraphChoice[GraphSplit]) -> dict[str, str]:
    return {one.kind: one.reason for one in choice.alternatives}


def every_candidate(speeds: GraphSpeeds) -> list[GraphCandidate]:
    """All products, all cuts."""
    found: list[GraphCandidate] = []
    for one in speeds.layouts:
        for copies, stages, shards in product(range(1, one.num_workers + 1), repeat=3):
            if copies * stages * shards != one.num_workers:
                continue
            spec = SplitSpec(num_replicas=copies, num_stages=stages, shares=(1,) * shards)
            shard = speeds.shards[shards] if shards > 1 else ShardSpeed(relative=1.0, weight_share=0.0)
            assert isinstance(shard, ShardSpeed)
            cuts = combinations([place.node for place in speeds.places], stages - 1)
            found += [make_candidate(speeds, one, spec, boundaries, shard) for boundaries in cuts]
    return found


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(20))
def test_no_other_split_is_much_better(seed: int, objective: str) -> None:
    """2 % for the simpler kind, 2 % for the cut that fewer bytes cross; the bound is above all of them."""
    draw = random.Random(seed)
    speeds = make_speeds(
        *(layout(count, 4 // count, draw.uniform(5, 40) * MS) for count in (1, 2, 4)),
        node_s=tuple(draw.uniform(0.1, 1.0) for _ in range(8)),
        num_bytes=draw.randrange(1_000_000),
        shards={count: ShardSpeed(relative=draw.uniform(0.3, 1.2), weight_share=0.5) for count in (2, 4)},
    )
    goal = Goal(objective=objective)  # type: ignore[arg-type]
    choice = choose_graph(speeds, goal)
    candidates = every_candidate(speeds)

    def score(one: GraphCandidate) -> float:
        return goal.score(one.prediction.rows_per_s, one.prediction.latency_s)

    assert score(choice.best) >= 0.98**2 * max(map(score, candidates)) * (1 - 1e-9)
    assert choice.bound_rows_per_s >= max(one.prediction.rows_per_s for one in candidates) * (1 - 1e-9)
    assert choice.gap == pytest.approx(1 - choice.best.prediction.rows_per_s / choice.bound_rows_per_s)
    assert [one.kind for one in choice.alternatives] == list(KINDS)
    for alternative in choice.alternatives:
        best = max(score(one) for one in candidates if one.kind == alternative.kind)
        assert alternative.candidate is not None
        assert score(alternative.candidate) >= 0.98 * best * (1 - 1e-9)


def test_copies_for_throughput_and_one_worker_for_latency() -> None:
    speeds = make_speeds(*TWO_CORES)
    best = choose_graph(speeds, THROUGHPUT).best
    assert (best.kind, str(best.spec), best.threads) == ("replicas", "dp=2", 1)
    best = choose_graph(speeds, Goal(objective="latency")).best
    assert (best.kind, str(best.spec), best.threads) == ("single", "1", 2)


@pytest.mark.parametrize(("single_s", "kind"), [(5.98 * MS, "single"), (6.1 * MS, "replicas")])
def test_nothing_is_split_for_two_percent(single_s: float, kind: str) -> None:
    speeds = make_speeds(layout(1, 2, single_s), layout(2, 1, 12 * MS))
    assert choose_graph(speeds, THROUGHPUT).best.kind == kind


def test_every_product_of_workers_is_considered() -> None:
    assert sorted(map(str, splits_of_workers(4))) == ["dp=2,pp=2", "dp=2,tp=2", "dp=4", "pp=2,tp=2", "pp=4", "tp=4"]
    assert list(map(str, splits_of_workers(1))) == ["1"]


def test_copies_that_do_not_fit_are_named_with_what_they_need() -> None:
    speeds = make_speeds(*TWO_CORES, bytes_per_node=100 << 20, available_bytes=2 << 30)
    choice = choose_graph(speeds, THROUGHPUT)
    assert choice.best.kind == "pipeline"
    assert reasons(choice)["replicas"] == "dp=2 needs 2.34 GiB for weights; 2.00 GiB are free"


def test_a_graph_that_does_not_fit_once() -> None:
    speeds = make_speeds(*TWO_CORES, bytes_per_node=100 << 20, available_bytes=1 << 30)
    with pytest.raises(
        CapacityError, match=r"needs 1\.17 GiB for its weights, but 1\.00 GiB are free; 176\.00 MiB are mi"
    ):
        choose_graph(speeds, THROUGHPUT)


def test_what_cannot_be_cut_or_split_says_why() -> None:
    speeds = make_speeds(*TWO_CORES, node_s=(1.0,), shards={2: "nothing of this graph can be split over shards"})
    said = reasons(choose_graph(speeds, THROUGHPUT))
    assert said["pipeline"] == "the graph cannot be cut into 2 pipeline stages: it cannot be cut"
    assert said["tensor"] == "nothing of this graph can be split over shards"
    assert said["mixed"].startswith("takes 4 workers; the 2 cores make 2")


def test_one_core_is_one_worker() -> None:
    choice = choose_graph(make_speeds(layout(1, 1, 7 * MS)), THROUGHPUT)
    assert choice.best.kind == "single"
    assert all("the 1 cores make 1" in reason for kind, reason in reasons(choice).items() if kind != "single")


def test_a_latency_target_rules_out_what_is_too_slow() -> None:
    choice = choose_graph(make_speeds(*TWO_CORES), Goal(objective="throughput", latency_slo_s=9 * MS))
    assert choice.best.kind == "single"
    assert reasons(choice)["replicas"] == "a micro-batch takes 0.0125 s, of 0.009 s allowed"


def test_a_latency_target_that_nothing_meets_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"within 0\.001 s; the nearest, --split 1, takes 0\.0075 s"):
        choose_graph(make_speeds(*TWO_CORES), Goal(latency_slo_s=1 * MS))


def test_shards_that_were_not_measured_are_not_considered() -> None:
    speeds = make_speeds(layout(1, 6, 7 * MS), layout(6, 1, 40 * MS), shards={6: "there can be at most 16 shards"})
    considered = set(map(str, consider_all(speeds)))
    assert considered == {"1", "dp=6", "pp=6", "tp=6", "dp=2,pp=3", "dp=3,pp=2"}
