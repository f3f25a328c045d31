"""What the planner would choose for a graph on other machines."""

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
    """`GraphFleet.weight_bytes` as data that can be sent to other processes. A weight that is read on both sides of a
    place counts on both."""

    before: Mapping[int, int]
    """Bytes of all weights before a place, by its node."""

    def __call__(self, first: int, last: int) -> int:
        """Bytes of a stage's weights, from its first and last (exclusive) node."""
        return self.before[last] - self.before[first]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTable:
    """`GraphFleet.shard_work` as data."""

    works: Mapping[int, ShardWork]

    def __call__(self, num_shards: int) -> ShardWork | None:
        """The division among so many shards; None: not possible."""
        return self.works.get(num_shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlanQuestion:
    """The input of the choice of a graph's plan, kept so that the choice can be repeated, also in another process."""

    fleets: tuple[GraphFleet, ...]
    """The fleets that the machines can form; a plan uses one of them."""
    goal: Goal
    is_one_machine: bool
    """Whether all workers of a fleet share one machine; otherwise each is on a machine of its own."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of machines that a change may use."""
        return (THIS_MACHINE,) if self.is_one_machine else tuple({one.name: None for one in self.fleets[0].classes})

    def answer(self) -> GraphChoice[FleetCandidate]:
        """Choose the best plan. Raises CapacityError or ConfigError if there is none."""
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
        """The question after a change of the machines. Raises ConfigError if the change names unknown ones."""
        check_named(change, self.class_names)
        fleets = (changed_fleet(fleet, change, is_one_machine=self.is_one_machine) for fleet in self.fleets)
        return replace(self, fleets=tuple(fleets))


def ask_of_machines(fleet: GraphFleet, goal: Goal) -> GraphPlanQuestion:
    """The question that a plan for several machines answers."""
    return GraphPlanQuestion(fleets=(_as_data(fleet),), goal=goal, is_one_machine=False)


def ask_of_this_machine(speeds: GraphSpeeds, goal: Goal) -> GraphPlanQuestion:
    """The question that a plan for this machine answers: fleets for each measured number of workers and for each number
    of shards into which they can be grouped."""
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
            head_bytes=speeds.head_bytes,
            near=frozenset({0}),
        )
        for layout in speeds.layouts
        for num_shards in groups
        if layout.num_workers % num_shards == 0
    ]
    return GraphPlanQuestion(fleets=tuple(fleets), goal=goal, is_one_machine=True)


def _workers(speeds: GraphSpeeds, layout: LayoutSpeed, num_shards: int) -> GraphWorkerClass:
    """The workers of a layout as a class; with several shards, each group of shards counts as one worker."""
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
    """The fleet as data without the graph itself, with the divisions for all numbers of shards that it may use."""
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
