"""Nodes of a graph that are moved while it is served, and that every request survives the move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from shoal.config import GraphLaunchConfig
from shoal.core.plan.graph import GraphPlan, GraphReplicaPlan
from shoal.errors import CapacityError
from shoal.executor.local_launcher import LocalLauncher
from shoal.executor.traffic import BatchTrial
from shoal.launch.graph.launch import launch_graph
from shoal.launch.graph.planning import PlannedGraph, plan_graph
from shoal.launch.graph.supervisor import GraphPlanKind
from shoal.launch.running.graph_replanner import GraphReplanner
from shoal.launch.running.running_plan import Done, RunningPlan
from shoal.router.batch_engine import BatchEngine, InferenceRequest, InferenceResult
from shoal.router.batch_stats import BatchStats
from shoal.router.graph_executor import GraphReplicaFactory
from tests.executor.graphs import skip_chain
from tests.log_lines import launch_lines
from tests.plain_runtime import plain_session

TURN_S = 30.0


@pytest.fixture
def planned(tmp_path: Path) -> PlannedGraph:
    path = skip_chain(tmp_path / "chain.onnx")
    return plan_graph(GraphLaunchConfig(model=str(path), split="pp=2", threads=1))


@dataclass
class SlowEngine:
    """An engine that shows other times than its own."""

    engine: BatchEngine
    slowdowns: tuple[float, ...] = (1.0, 1.0)
    stage_s: tuple[float, ...] = (0.01, 0.01)
    num_requests: int = 8
    moves: list[int] = field(default_factory=list)

    def stats(self) -> BatchStats:
        shown = self.engine.stats()
        return replace(
            shown, slowdowns=(self.slowdowns,), stage_s=(self.stage_s,), num_requests=self.num_requests, num_replicas=1
        )

    def replace_replica(self, index: int, factory: GraphReplicaFactory, done: Done | None = None) -> None:
        self.moves.append(index)
        self.engine.replace_replica(index, factory, done)

    def add_replica(self, factory: GraphReplicaFactory, done: Done | None = None) -> None:
        raise NotImplementedError


class Watch:
    """A replanner of a real engine, and the clock that it looks at."""

    lines: ClassVar[list[str]]
    """what this test's code has logged"""

    def __init__(self, planned: PlannedGraph, engine: BatchEngine, told: list[str]) -> None:
        self.told = told
        self.now_s = 0.0
        self.slow = SlowEngine(engine)
        graph, trial = planned.graph, BatchTrial(planned.sample, planned.plan.batch)
        kind = GraphPlanKind(graph.path, graph.files, LocalLauncher(), trial)
        self.running: RunningPlan[GraphPlan, GraphReplicaPlan, BatchStats] = RunningPlan(planned.plan, kind, self.slow)
        self.replanner = GraphReplanner(self.running, planned.graph, lambda: self.now_s)

    def for_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            self.replanner.look()


@pytest.fixture
def watch(planned: PlannedGraph, told: list[str]) -> Iterator[Watch]:
    loaded = launch_graph(planned)
    engine = BatchEngine(
        loaded.executors,
        loaded.plan.batch,
        factories=loaded.factories,
        recovery=loaded.recovery,
    )
    with closing(engine):
        yield Watch(planned, engine, told)


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[str]]:
    """What is logged of plans and machines."""
    with launch_lines() as told:
        Watch.lines = told
        yield told


def rows(index: int) -> np.ndarray:
    return np.random.default_rng(index).standard_normal((3, 8), np.float32)


def finish(engine: BatchEngine) -> list[InferenceResult]:
    results: list[InferenceResult] = []
    while engine.has_work:
        results += engine.turn(TURN_S)
    return results


def test_a_slow_stage_gives_nodes_away_and_no_request_is_lost(watch: Watch, planned: PlannedGraph) -> None:
    engine = watch.slow.engine
    watch.for_s(60)
    assert not watch.slow.moves, "nothing is slow"
    watch.slow.slowdowns, watch.slow.stage_s = (1.0, 4.0), (0.01, 0.04)
    watch.for_s(4)
    assert not watch.slow.moves, "it may be over soon"
    watch.for_s(60)
    assert watch.slow.moves == [0], "once, while it is being made"
    for index in range(20):
        engine.add(InferenceRequest(request_id=str(index), inputs={"x": rows(index)}))
    results = finish(engine)
    while not watch.told:
        results += engine.turn(TURN_S)
    assert watch.told == ["replica 0 continues with new workers"]
    assert engine.stats().num_losses == 0
    whole = plain_session(planned.graph.path)
    assert sorted(int(result.request_id) for result in results) == list(range(20))
    for result in results:
        assert result.error is None
        y = whole.run(["y"], {"x": rows(int(result.request_id))})[0]
        np.testing.assert_allclose(result.outputs["y"], y, rtol=1e-5, atol=1e-6)


def test_a_move_that_fails_is_told_and_tried_again_only_after_a_while(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(index: int, factory: GraphReplicaFactory, done: Done | None = None) -> None:
        watch.slow.moves.append(index)
        raise CapacityError("no memory")

    monkeypatch.setattr(watch.slow, "replace_replica", refuse)
    watch.for_s(60)
    watch.slow.slowdowns, watch.slow.stage_s = (1.0, 4.0), (0.01, 0.04)
    while not watch.slow.moves:
        watch.for_s(1)
    assert watch.lines[-1] == "replica 0 keeps its nodes: no memory"
    watch.for_s(4)
    assert watch.slow.moves == [0]


def test_an_idle_graph_is_left_alone(watch: Watch) -> None:
    watch.slow.num_requests = 0
    watch.slow.slowdowns, watch.slow.stage_s = (1.0, 4.0), (0.01, 0.04)
    watch.for_s(300)
    assert not watch.slow.moves
