"""A candidate plan for a graph on several machines, with its predicted speed.

Every replica has as many micro-batches in flight as stages, so its slowest stage sets the pace:

    period = max over stages of (computing + bytes in and out / bandwidth), the head's of the graph's ends included
    rows/s = sum over replicas of rows of a micro-batch / period
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

from shoal.planner.choice.goal import Goal
from shoal.planner.choice.groups import Group
from shoal.planner.choice.kinds import Kind, kind_of_split
from shoal.planner.graph_choice.candidate import RowPrediction
from shoal.planner.graph_choice.fleet import GraphFleet
from shoal.planner.graph_choice.fleet_costs import FleetCosts
from shoal.planner.graph_cut import choose_boundaries, cut_options
from shoal.planner.search.pipeline import Pipeline
from shoal.planner.speeds.speeds import LinkSpeed
from shoal.planner.split.split_text import describe_shares

_MOST_PERMUTED = 4
"""The most stages for which all orders of the groups are tried: 24 cuts of at most a few milliseconds."""
_USUAL_BYTES = 1e6
"""The size of the message by which links are compared: activations of a few rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenGraphStage:
    """A stage of a candidate: its nodes and the machines that hold them."""

    group: Group
    first_node: int
    last_node: int
    """The first node after the stage."""
    shares: tuple[int, ...]
    """The relative share of each member."""
    compute_s: float
    """Seconds of one micro-batch."""
    memory_bytes: tuple[int, ...]
    """Bytes of weights of each member."""


GraphReplica = tuple[ChosenGraphStage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCandidate:
    """A complete plan for a graph on one fleet. Implements `choice.GraphSplit`."""

    fleet: GraphFleet
    replicas: tuple[GraphReplica, ...]
    prediction: RowPrediction

    @property
    def kind(self) -> Kind:
        """The kind of split."""
        return kind_of_split(
            num_replicas=len(self.replicas),
            is_cut=any(len(replica) > 1 for replica in self.replicas),
            is_sharded=any(not stage.group.is_single for replica in self.replicas for stage in replica),
        )

    @property
    def split(self) -> str:
        """The split in words; unlike replicas are joined by a plus."""
        return describe_shares([[stage.shares for stage in replica] for replica in self.replicas])

    @property
    def num_workers(self) -> int:
        """Workers of all replicas."""
        return sum(len(stage.group.members) for replica in self.replicas for stage in replica)

    @property
    def loaded_s(self) -> float:
        """Seconds of a micro-batch while all workers are busy."""
        return self.prediction.loaded_latency_s

    def score(self, goal: Goal) -> float:
        """The score by a goal; higher is better."""
        return self.prediction.score(goal)


def make_fleet_candidate(costs: FleetCosts, pipelines: Sequence[Pipeline]) -> FleetCandidate:
    """Make a candidate from the pipelines that a search found, with cuts improved by the real bytes that cross them."""
    return predict_replicas(costs.fleet, tuple(cut_pipeline(costs, pipeline) for pipeline in pipelines))


def predict_replicas(fleet: GraphFleet, replicas: tuple[GraphReplica, ...]) -> FleetCandidate:
    """Make a candidate from replicas, at least one, with its prediction."""
    predictions = [_predict(fleet, replica) for replica in replicas]
    quickest = min(predictions, key=lambda one: one.latency_s)
    return FleetCandidate(
        fleet=fleet,
        replicas=replicas,
        prediction=RowPrediction(
            rows_per_s=sum(one.rows_per_s for one in predictions),
            latency_s=quickest.latency_s,
            loaded_latency_s=max(one.loaded_latency_s for one in predictions),
            memory_bytes=tuple(size for one in predictions for size in one.memory_bytes),
            bottleneck=max(predictions, key=lambda one: one.rows_per_s).bottleneck,
        ),
    )


def cut_pipeline(costs: FleetCosts, pipeline: Pipeline) -> GraphReplica:
    """The stages as found or, if that is faster, cut again among all places with the groups in any order."""
    groups = [costs.groups[stage.group] for stage in pipeline.stages]
    found = _stages(costs, groups, [costs.edges[stage.first] for stage in pipeline.stages[1:]])
    if len(groups) == 1:
        return found
    orders = dict.fromkeys(permutations(groups)) if len(groups) <= _MOST_PERMUTED else [groups]
    again = [_recut(costs, order, _links(costs.fleet, found)) for order in orders]
    fitting = [one for one in again if all(costs.fits(stage.group, stage.first_node, stage.last_node) for stage in one)]
    return max([found, *fitting], key=lambda one: _predict(costs.fleet, one).rows_per_s)


def _recut(costs: FleetCosts, groups: Sequence[Group], links: Sequence[LinkSpeed]) -> GraphReplica:
    """The best cuts for groups in this order, assuming the slowest link everywhere and a constant speed of each
    group."""
    whole_s = [costs.compute_s(group, 0, costs.fleet.num_nodes) for group in groups]
    slowest = max(links, key=lambda link: link.seconds(_USUAL_BYTES))
    mean_s = len(groups) / sum(1.0 / seconds for seconds in whole_s)
    node_s = costs.fleet.classes[groups[0].members[0]].node_s
    scale = mean_s / sum(node_s)
    boundaries = choose_boundaries(
        [scale * seconds for seconds in node_s],
        cut_options(costs.fleet.places, mean_s / len(groups)),
        len(groups),
        shares=[1.0 / seconds for seconds in whole_s],
        bytes_per_s=slowest.bytes_per_s,
        latency_s=slowest.latency_s,
    )
    return _stages(costs, groups, boundaries)


def _stages(costs: FleetCosts, groups: Sequence[Group], boundaries: Sequence[int]) -> GraphReplica:
    edges = (0, *boundaries, costs.fleet.num_nodes)
    return tuple(
        ChosenGraphStage(
            group=group,
            first_node=first,
            last_node=last,
            shares=costs.shares(group),
            compute_s=costs.compute_s(group, first, last),
            memory_bytes=costs.memory_bytes(group, first, last),
        )
        for group, (first, last) in zip(groups, pairwise(edges), strict=True)
    )


def _predict(fleet: GraphFleet, replica: GraphReplica) -> RowPrediction:
    crossing = {place.node: place.num_bytes for place in fleet.places}
    sizes = [crossing[stage.first_node] for stage in replica[1:]]
    links = _links(fleet, replica)
    moved_s = [link.seconds(size) for link, size in zip(links, sizes, strict=True)]
    taken_s, given_s = fleet.taken_s(replica[0].group.members), fleet.given_s(replica[-1].group.members)
    carried_s = [taken_s, *(size / link.bytes_per_s for link, size in zip(links, sizes, strict=True)), given_s]
    loads_s = [stage.compute_s + carried_s[at] + carried_s[at + 1] for at, stage in enumerate(replica)]
    alone_s = sum(stage.compute_s for stage in replica) + sum(moved_s) + fleet.message_s + taken_s + given_s
    period_s = max(loads_s)
    return RowPrediction(
        rows_per_s=fleet.rows / period_s,
        latency_s=alone_s,
        loaded_latency_s=max(alone_s, len(replica) * period_s),
        memory_bytes=tuple(size for stage in replica for size in stage.memory_bytes),
        bottleneck=_bottleneck(fleet, replica, loads_s),
    )


def _links(fleet: GraphFleet, replica: GraphReplica) -> list[LinkSpeed]:
    """The links between stages: each the slowest from a shard of one stage to a shard of the next."""
    return [
        max(
            (fleet.links[sender][taker] for sender in one.group.members for taker in other.group.members),
            key=lambda link: link.seconds(_USUAL_BYTES),
        )
        for one, other in pairwise(replica)
    ]


def _bottleneck(fleet: GraphFleet, replica: GraphReplica, loads_s: Sequence[float]) -> str:
    slowest = replica[loads_s.index(max(loads_s))]
    names = ", ".join(dict.fromkeys(fleet.classes[index].name for index in slowest.group.members))
    doing = "computing" if slowest.compute_s >= 0.5 * max(loads_s) else "moving tensors"
    return f"{doing} on {names}"
