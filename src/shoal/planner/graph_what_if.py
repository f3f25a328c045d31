"""What the planner would choose for a graph if the machines were others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from shoal.errors import CapacityError
from shoal.planner.choice.goal import Goal
from shoal.planner.graph_choice.choice import GraphChoice
from shoal.planner.graph_choice.fleet import GraphFleet, GraphWorkerClass, ShardWork
from shoal.planner.graph_choice.fleet_candidate import FleetCandidate
from shoal.planner.graph_choice.fleet_choose import MOST_SHARDS, choose_graph_fleet
from shoal.planner.graph_choice.speeds import GraphSpeeds, LayoutSpeed
from shoal.planner.graph_cut import LINK
from shoal.planner.what_if import THIS_MACHINE, Change, changed_fleet, check_named


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightTable:
    """`GraphFleet.weight_bytes` of stages between places where a graph can be cut, as data that goes to other
    processes. A weight that is read on both sides of a place counts on both."""

    before: Mapping[int, int]
    """bytes of all weights before a place, by its node"""

    def __call__(self, first: int, last: int) -> int:
        """Of a stage, from its first and last (exclusive) node."""
        return self.before[last] - self.before[first]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTable:
    """`GraphFleet.shard_work` as data."""

    works: Mapping[int, ShardWork]

    def __call__(self, num_shards: int) -> ShardWork | None:
        """By the number of shards."""
        return self.works.get(num_shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlanQuestion:
    """All that the choice of a graph's plan is asked, to be asked again, also in another process."""

    fleets: tuple[GraphFleet, ...]
    """what can be made of the machines; a plan uses one of them"""
    goal: Goal
    is_one_machine: bool
    """whether all workers of a fleet share one machine, in the place of being one each"""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Kinds of machines that a change may name; of one machine, its own."""
        return (THIS_MACHINE,) if self.is_one_machine else tuple(one.name for one in self.fleets[0].classes)

    def answer(self) -> GraphChoice[FleetCandidate]:
        """What is best. Raises CapacityError, ConfigError: nothing is."""
        choices: list[GraphChoice[FleetCandidate]] = []
        problem: CapacityError | None = None
        for fleet in self.fleets:
            try:
                choices.append(choose_graph_fleet(fleet, self.goal))
            except CapacityError as error:
                problem = problem or error
        if not choices:
            assert problem is not None
            raise problem
        return max(choices, key=lambda one: one.best.score(self.goal))

    def changed(self, change: Change) -> GraphPlanQuestion:
        """The question for other machines. Raises ConfigError: there are no such ones."""
        check_named(change, self.class_names)
        fleets = (changed_fleet(fleet, change, is_one_machine=self.is_one_machine) for fleet in self.fleets)
        return replace(self, fleets=tuple(fleets))


def ask_of_machines(fleet: GraphFleet, goal: Goal) -> GraphPlanQuestion:
    """The question to which a plan for several machines was the answer."""
    return GraphPlanQuestion(fleets=(_as_data(fleet),), goal=goal, is_one_machine=False)


def ask_of_this_machine(speeds: GraphSpeeds, goal: Goal) -> GraphPlanQuestion:
    """The question to which a plan for this machine was the answer: its workers as those of a fleet, for each number
    of them that was measured, and for each number of shards that they can be put together as."""
    weights = _weight_table(speeds.weight_bytes, [place.node for place in speeds.places], speeds.num_nodes)
    groups = [1, *(number for number, shard in speeds.shards.items() if not isinstance(shard, str))]
    fleets = [
        GraphFleet(
            model=speeds.model,
            rows=speeds.rows,
            classes=(_workers(speeds, layout, num_shards),),
            links=((LINK,),),
            places=speeds.places,
            weight_bytes=weights,
            shard_work=ShardTable(works={}),
            message_s=layout.message_s,
        )
        for layout in speeds.layouts
        for num_shards in groups
        if layout.num_workers % num_shards == 0
    ]
    return GraphPlanQuestion(fleets=tuple(fleets), goal=goal, is_one_machine=True)


def _workers(speeds: GraphSpeeds, layout: LayoutSpeed, num_shards: int) -> GraphWorkerClass:
    """The workers of a layout, or groups of so many shards, in a micro-batch's place of one each."""
    shard = speeds.shards.get(num_shards)
    relative = 1.0 if shard is None or isinstance(shard, str) else shard.relative
    whole_s = layout.compute_s * relative + layout.turn_s
    node_s = speeds.node_s.get(layout.threads) or (1.0,) * speeds.num_nodes
    scale = whole_s / (sum(node_s) or 1.0)
    threads = f"{layout.threads} thread{'' if layout.threads == 1 else 's'}"
    count = layout.num_workers // num_shards
    return GraphWorkerClass(
        name=f"workers of {threads}" if num_shards == 1 else f"{num_shards} shards of {threads}",
        count=count,
        threads=layout.threads,
        memory_bytes=speeds.available_bytes // count,
        node_s=tuple(scale * seconds for seconds in node_s),
    )


def _as_data(fleet: GraphFleet) -> GraphFleet:
    """The same without anything that holds a graph: shards as many as its machines could be, which were asked for."""
    nodes = [place.node for place in fleet.places]
    numbers = range(2, max(2, min(MOST_SHARDS, sum(fleet.counts))) + 1) if fleet.shard_work(2) is not None else ()
    works = {number: work for number in numbers if (work := fleet.shard_work(number)) is not None}
    return replace(
        fleet,
        weight_bytes=_weight_table(fleet.weight_bytes, nodes, fleet.num_nodes),
        shard_work=ShardTable(works=works),
    )


def _weight_table(weight_bytes: Callable[[int, int], int], places: Sequence[int], num_nodes: int) -> WeightTable:
    before = {0: 0}
    for first, last in pairwise((0, *places, num_nodes)):
        before[last] = before[first] + weight_bytes(first, last)
    return WeightTable(before=before)
