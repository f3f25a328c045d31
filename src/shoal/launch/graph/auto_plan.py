"""`--split auto` for an ONNX graph: measure this machine with it, choose among all kinds of split, spell it out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shoal.config import PlanningConfig
from shoal.core.plan.graph import BatchAxes, GraphPlan, PredictedRows
from shoal.errors import ConfigError
from shoal.executor.graph_replicas import spell_replicas
from shoal.measure.graph.measurer import GraphMeasurer
from shoal.measure.graph.profile import GraphSetting, measure_graph
from shoal.model.graph.identity import graph_shape
from shoal.planner.choice.goal import Goal, make_goal
from shoal.planner.graph_choice.choose import GraphChoice, choose_graph
from shoal.planner.split.cores import deal_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphAutoPlan:
    """What was chosen, and from what."""

    plan: GraphPlan
    choice: GraphChoice
    rows: int
    """of the micro-batch that it was planned for"""
    goal: Goal
    planning_s: float
    """comparing, measuring excluded"""


def choose_graph_plan(
    planning: PlanningConfig,
    setting: GraphSetting,
    batch: BatchAxes,
    measurer: GraphMeasurer,
    on_progress: Callable[[str], None] = lambda what: None,
) -> GraphAutoPlan:
    """Plan for this machine.

    Args:
        planning: the goal, and whether to measure anew.
        setting: the graph, a micro-batch, the cores.
        batch: where its rows are.
        measurer: for what has not been measured before.
        on_progress: told what is being measured.

    Raises:
        ConfigError: the goal makes no sense, or no split meets the latency target.
        CapacityError: the weights do not fit.
        ModelLoadError, WorkerLost: measuring failed.
    """
    if planning.cluster is not None:
        raise ConfigError("an ONNX graph is planned for this machine: leave the cluster file out")
    goal = make_goal(planning.objective, planning.latency_slo_s)
    speeds = measure_graph(setting, measurer, refresh=planning.refresh, on_progress=on_progress)
    started_s = time.perf_counter()
    choice = choose_graph(speeds, goal)
    planning_s = time.perf_counter() - started_s
    best = choice.best
    threads, cores = deal_cores(setting.cores, best.spec.num_workers, best.threads)
    graph = setting.graph
    plan = GraphPlan(
        model=setting.model,
        split=str(best.spec),
        inputs=graph.inputs,
        outputs=graph.outputs,
        batch=batch,
        replicas=spell_replicas(graph, best.spec, best.boundaries, threads=threads, cores=cores, stage_s=best.stage_s),
        shape=graph_shape(graph),
        predicted=PredictedRows(rows_per_s=best.prediction.rows_per_s, latency_s=best.prediction.latency_s),
    )
    return GraphAutoPlan(plan=plan, choice=choice, rows=setting.rows, goal=goal, planning_s=planning_s)
