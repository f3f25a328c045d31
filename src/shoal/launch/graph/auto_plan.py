"""`--split auto` for an ONNX graph: measure the machines, choose among all kinds of split, and build the plan."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from shoal.config import PlanningConfig
from shoal.core.plan.graph import BatchAxes, GraphPlan, GraphReplicaPlan, PredictedRows
from shoal.executor.graph_replicas import build_replicas
from shoal.launch.devices import Offer
from shoal.launch.graph.device_plan import choose_placed, measure_devices
from shoal.launch.graph.fleet_replicas import build_fleet_replicas
from shoal.launch.graph.fleets import MakeMeasurer, find_graph_fleet
from shoal.launch.running.growth import Growth
from shoal.machines.machines import Machines
from shoal.machines.placed_fleet import PlacedGraphFleet
from shoal.measure.graph.measurer import GraphMeasurer
from shoal.measure.graph.profile import GraphSetting, measure_graph
from shoal.measure.measuring import Measuring
from shoal.model.graph.identity import graph_shape
from shoal.planner.choice.extend import ExtendedPlan
from shoal.planner.choice.goal import Goal, make_goal
from shoal.planner.graph_choice.candidate import GraphCandidate
from shoal.planner.graph_choice.choice import GraphChoice, GraphSplit, SplitT
from shoal.planner.graph_choice.choose import choose_graph
from shoal.planner.graph_choice.device_choose import GraphDeviceOption
from shoal.planner.graph_choice.fleet_candidate import FleetCandidate, GraphReplica
from shoal.planner.graph_choice.fleet_choose import choose_graph_fleet
from shoal.planner.graph_choice.fleet_extend import extend_graph
from shoal.planner.graph_what_if import GraphPlanQuestion, ask_of_machines, ask_of_this_machine
from shoal.planner.later_models import choose_with_room
from shoal.planner.split.cores import deal_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphAutoPlan(Generic[SplitT]):
    """The chosen plan, and what it was chosen from."""

    plan: GraphPlan
    choice: GraphChoice[SplitT]
    rows: int
    """Rows of the micro-batch for which it was planned."""
    goal: Goal
    planning_s: float
    """Seconds of comparing, without measuring."""
    growth: Growth[PlacedGraphFleet, GraphReplicaPlan] | None = None
    """Plans for machines that join; None: none can join."""
    devices: tuple[GraphDeviceOption, ...] = ()
    """The ways to use the devices of this machine; empty: there are none."""
    question: GraphPlanQuestion | None = None
    """The input of the choice, to repeat it for other machines; None: the plan uses devices."""
    notes: tuple[str, ...] = ()
    """Notes for the user about how devices compute the graph, one line each."""


def choose_graph_plan(
    planning: PlanningConfig,
    setting: GraphSetting,
    batch: BatchAxes,
    make_measurer: MakeMeasurer,
    measuring: Measuring,
    machines: Machines | None = None,
    offer: Offer | None = None,
) -> GraphAutoPlan[GraphSplit]:
    """Plan for this machine, for those of a cluster, or for those of a file.

    Args:
        planning: the goal and the machines.
        setting: the graph, a micro-batch and the cores.
        batch: the batch axes of the graph.
        make_measurer: makes the measurer for what has not been measured before.
        measuring: how to measure.
        machines: the machines to plan for; None: this one, or those of the file.
        offer: the devices of this machine; None: there are none.

    Raises:
        ConfigError: the goal or the file is invalid, or no split meets the latency target.
        CapacityError: the weights do not fit.
        ModelLoadError, WorkerLost: measuring failed.
    """
    goal = make_goal(planning.objective, planning.latency_slo_s)
    if machines is not None or planning.cluster is not None:
        placed = find_graph_fleet(planning.cluster, setting, make_measurer, measuring, machines)
        plan = _on_machines(placed, setting, batch, goal, () if machines is None else machines.later_bytes)
        return plan if machines is None else replace(plan, growth=_growth(plan, placed, setting, machines, measuring))
    measurer = make_measurer(setting.cores)
    if offer is not None and offer.devices:
        return _with_devices(offer, setting, batch, measurer, measuring, goal)
    speeds = measure_graph(setting, measurer, measuring)
    started_s = time.perf_counter()
    choice = choose_graph(speeds, goal)
    planning_s = time.perf_counter() - started_s
    auto = _on_processor(choice, setting, batch, goal, planning_s)
    return replace(auto, question=ask_of_this_machine(speeds, goal))


def _on_processor(
    choice: GraphChoice[GraphCandidate], setting: GraphSetting, batch: BatchAxes, goal: Goal, planning_s: float
) -> GraphAutoPlan[GraphSplit]:
    best, graph = choice.best, setting.graph
    threads, cores = deal_cores(setting.cores, best.spec.num_workers, best.threads)
    replicas = build_replicas(graph, best.spec, best.boundaries, threads=threads, cores=cores, stage_s=best.stage_s)
    plan = _plan(setting, batch, best, replicas)
    return GraphAutoPlan(plan=plan, choice=choice, rows=setting.rows, goal=goal, planning_s=planning_s)


def _with_devices(
    offer: Offer,
    setting: GraphSetting,
    batch: BatchAxes,
    measurer: GraphMeasurer,
    measuring: Measuring,
    goal: Goal,
) -> GraphAutoPlan[GraphSplit]:
    """Plan for the processor, its devices, or both."""
    processor = choose_graph(measure_graph(setting, measurer, measuring), goal) if offer.with_processor else None
    speeds = measure_devices(setting, measurer, measuring, offer.devices, with_processor=offer.with_processor)
    started_s = time.perf_counter()
    taken, placed, options = choose_placed(processor, speeds, goal)
    planning_s = time.perf_counter() - started_s
    if placed is None:
        assert processor is not None
        auto = _on_processor(processor, setting, batch, goal, planning_s)
        return replace(auto, devices=options, notes=speeds.notes)
    assert taken.choice is not None
    best = taken.choice.best
    assert isinstance(best, FleetCandidate)
    plan = _plan(setting, batch, best, build_fleet_replicas(setting.graph, best, placed))
    return GraphAutoPlan(
        plan=plan,
        choice=taken.choice,
        rows=setting.rows,
        goal=goal,
        planning_s=planning_s,
        devices=options,
        notes=speeds.notes,
    )


def _on_machines(
    placed: PlacedGraphFleet, setting: GraphSetting, batch: BatchAxes, goal: Goal, later_bytes: Sequence[int]
) -> GraphAutoPlan[FleetCandidate]:
    started_s = time.perf_counter()
    choice = choose_with_room(
        placed.fleet,
        later_bytes,
        lambda fleet: choose_graph_fleet(fleet, goal),
        lambda choice: choice.best.score(goal),
    )
    planning_s = time.perf_counter() - started_s
    plan = _plan(setting, batch, choice.best, build_fleet_replicas(setting.graph, choice.best, placed))
    return GraphAutoPlan(
        plan=plan,
        choice=choice,
        rows=setting.rows,
        goal=goal,
        planning_s=planning_s,
        question=ask_of_machines(choice.best.fleet, goal),
    )


def _growth(
    auto: GraphAutoPlan[FleetCandidate],
    placed: PlacedGraphFleet,
    setting: GraphSetting,
    machines: Machines,
    measuring: Measuring,
) -> Growth[PlacedGraphFleet, GraphReplicaPlan]:
    quietly = replace(measuring, on_progress=lambda what: None)

    def extend(
        present: tuple[GraphReplica, ...],
        placed: PlacedGraphFleet,
        *,
        idle: Sequence[int],
        open_replicas: Collection[int],
    ) -> ExtendedPlan[GraphReplicaPlan] | None:
        found = extend_graph(present, placed.fleet, idle=idle, open_replicas=open_replicas, goal=auto.goal)
        if found is None:
            return None
        replicas = build_fleet_replicas(setting.graph, found.candidate, placed)
        return ExtendedPlan(replica=replicas[found.replica], extension=found)

    return Growth(
        present=auto.choice.best.replicas,
        placed=placed,
        measure=lambda known: machines.measure_graph(setting, quietly, known),
        extend=extend,
    )


def _plan(
    setting: GraphSetting, batch: BatchAxes, best: GraphSplit, replicas: tuple[GraphReplicaPlan, ...]
) -> GraphPlan:
    graph = setting.graph
    return GraphPlan(
        model=setting.model,
        split=best.split,
        inputs=graph.inputs,
        outputs=graph.outputs,
        batch=batch,
        replicas=replicas,
        shape=graph_shape(graph),
        predicted=PredictedRows(rows_per_s=best.prediction.rows_per_s, latency_s=best.prediction.latency_s),
    )
