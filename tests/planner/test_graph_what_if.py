"""What other machines would change for a graph: more, fewer, and other links."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.choose import choose_graph
from shoal.planner.graph_choice.fleet import HeadBytes, ShardWork
from shoal.planner.graph_choice.fleet_choose import choose_graph_fleet
from shoal.planner.graph_choice.speeds import ShardSpeed
from shoal.planner.graph_what_if import GraphPlanQuestion, ask_of_machines, ask_of_this_machine
from shoal.planner.speeds.speeds import LinkSpeed
from shoal.planner.what_if import Change
from tests.planner.graph_choice.example_graph_fleets import SLOW_LINK, make_graph_fleet
from tests.planner.graph_choice.speeds import MS, layout, make_speeds

GOAL = Goal(objective="throughput")
TWO_CORES = (layout(1, 2, 7 * MS), layout(2, 1, 12 * MS))


def rate(question: GraphPlanQuestion) -> float:
    return question.answer().best.prediction.rows_per_s


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize(
    "shard_work", [None, ShardWork(flops_share=1.0, weight_share=1.0, num_exchanges=2, exchange_bytes=1000.0)]
)
def test_the_question_asks_again_what_was_asked(objective, shard_work: ShardWork | None) -> None:
    fleet = make_graph_fleet(1.0, 0.7, counts=(2, 1), shard_work=shard_work)
    goal = Goal(objective=objective)
    asked: GraphPlanQuestion = pickle.loads(pickle.dumps(ask_of_machines(fleet, goal)))
    assert asked.answer().best.prediction == choose_graph_fleet(fleet, goal).best.prediction


def test_one_machine_more_does_more_and_one_fewer_less() -> None:
    question = ask_of_machines(make_graph_fleet(1.0, 1.0, counts=(2, 1)), GOAL)
    assert question.class_names == ("m0", "m1")
    more, fewer = (question.changed(Change(kind=kind, like="m1")) for kind in ("add", "remove"))
    assert (more.fleets[0].counts, fewer.fleets[0].counts) == ((2, 2), (2,))
    assert rate(more) == pytest.approx(4 / 3 * rate(question))
    assert rate(fewer) == pytest.approx(2 / 3 * rate(question))


def test_links_that_are_slower_make_a_pipeline_slower() -> None:
    """Neither machine holds the whole graph, and 1 MB crosses each cut."""
    fleet = make_graph_fleet(1.0, 1.0, memory_bytes=(8000, 8000), crossing_bytes=[10**6] * 11, link=SLOW_LINK)
    question = ask_of_machines(fleet, GOAL)
    half = question.changed(Change(kind="links", factor=0.5))
    assert half.fleets[0].links[0][1] == LinkSpeed(latency_s=1e-3, bytes_per_s=5e6)
    assert rate(half) == pytest.approx(rate(question) * (6e-3 + 0.1) / (6e-3 + 0.2), rel=0.02)
    with pytest.raises(CapacityError, match="missing"):
        question.changed(Change(kind="remove", like="m0")).answer()


def test_what_cannot_be_asked() -> None:
    question = ask_of_machines(make_graph_fleet(1.0), GOAL)
    with pytest.raises(ConfigError, match="there is no machine 'other'"):
        question.changed(Change(kind="add", like="other"))
    with pytest.raises(ConfigError, match="the only machine"):
        question.changed(Change(kind="remove", like="m0"))


def test_this_machine_twice_does_twice_as_much() -> None:
    speeds = make_speeds(*TWO_CORES)
    question: GraphPlanQuestion = pickle.loads(pickle.dumps(ask_of_this_machine(speeds, GOAL)))
    assert question.class_names == ("this machine",)
    assert rate(question) == pytest.approx(choose_graph(speeds, GOAL).best.prediction.rows_per_s, rel=0.05)
    twice = question.changed(Change(kind="add", like="this machine"))
    assert rate(twice) == pytest.approx(2 * rate(question))
    with pytest.raises(ConfigError, match="the only machine"):
        question.changed(Change(kind="remove", like="this machine"))


def test_shards_that_were_the_best_stay_so() -> None:
    goal = Goal(objective="latency")
    quick = make_speeds(*TWO_CORES, shards={2: ShardSpeed(relative=0.3, weight_share=1.0)})
    now = choose_graph(quick, goal).best
    found = ask_of_this_machine(quick, goal).answer().best
    assert now.kind == "tensor"
    assert found.fleet.classes[0].name.startswith("2 shards of ")
    assert found.prediction.latency_s == pytest.approx(now.prediction.latency_s, rel=0.1)


PICTURE = HeadBytes(taken=600_000, given=4_000)
CRAWLING = LinkSpeed(latency_s=1e-4, bytes_per_s=1e3)


def test_one_more_machine_that_rows_hardly_reach_adds_nothing() -> None:
    question = ask_of_this_machine(replace(make_speeds(*TWO_CORES), head_bytes=PICTURE), GOAL)
    far = question.changed(Change(kind="add", like="this machine", link=CRAWLING))
    assert rate(far) == pytest.approx(rate(question), rel=0.01)


def test_what_rows_weigh_on_the_way_to_one_more_machine_counts() -> None:
    """12 ms a row here on each of two cores; there 6 ms for a picture and 40 us for its answer on top."""
    speeds = make_speeds(*TWO_CORES, num_bytes=10**7)
    question = ask_of_this_machine(replace(speeds, head_bytes=PICTURE), GOAL)
    link = LinkSpeed(latency_s=1e-4, bytes_per_s=1e8)
    more = question.changed(Change(kind="add", like="this machine", link=link))
    own = rate(question) / 2
    assert rate(more) == pytest.approx(rate(question) + 2 / (1 / own + 6.04 * MS))


@pytest.mark.parametrize("near", [(), (0,)])
@pytest.mark.parametrize("back", [CRAWLING, SLOW_LINK])
def test_machines_that_rows_hardly_reach_are_left_out(near: tuple[int, ...], back: LinkSpeed) -> None:
    """One way of the link suffices: answers go back over the other."""
    given = HeadBytes(taken=10, given=60_000)
    fleet = make_graph_fleet(1.0, 1.0, 1.0, crossing_bytes=[60_000] * 11, head_bytes=given, near=near)
    links = (
        (fleet.links[0][0], fleet.links[0][1], fleet.links[0][2]),
        (fleet.links[1][0], fleet.links[1][1], fleet.links[1][2]),
        (back, back, fleet.links[2][2]),
    )
    rates = rate(ask_of_machines(replace(fleet, links=links), GOAL)), rate(ask_of_machines(fleet, GOAL))
    assert rates[0] < 0.9 * rates[1]
    assert rates[0] >= 0.6 * rates[1]


def test_one_more_machine_like_the_heads_own_is_farther_away_than_that() -> None:
    alone = make_graph_fleet(1.0, head_bytes=PICTURE, near=(0,), link=CRAWLING)
    question = ask_of_machines(alone, GOAL)
    more = question.changed(Change(kind="add", like="m0")).changed(Change(kind="add", like="m0"))
    (fleet,) = more.fleets
    assert (fleet.counts, fleet.near, more.class_names) == ((1, 2), {0}, ("m0",))
    assert rate(more) == pytest.approx(rate(question))
    fewer = more.changed(Change(kind="remove", like="m0")).changed(Change(kind="remove", like="m0"))
    assert fewer.fleets[0].counts == (1,)
    assert fewer.fleets[0].near == {0}
    quick = make_graph_fleet(1.0, head_bytes=PICTURE, near=(0,), link=LinkSpeed(latency_s=0.0, bytes_per_s=1e15))
    known = ask_of_machines(quick, GOAL).changed(Change(kind="add", like="m0", link=CRAWLING))
    assert rate(known) == pytest.approx(rate(question)), "the link that was said, where none is known"
