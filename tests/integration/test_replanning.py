"""When layers are moved, and that requests survive the move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.errors import CapacityError, ShoalError
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.launch.launch import launch
from shoal.launch.running.layer_replanner import LayerReplanner
from shoal.launch.running.running_plan import ChangeableEngine, LanguagePlanKind, RunningPlan
from shoal.router.engine import Engine
from shoal.router.engine_stats import EngineStats
from shoal.router.executor import StepReplicaFactory
from tests.integration.running import Transcript, launcher_for, make_requests, tiny_config, transcribe
from tests.log_lines import launch_lines


@pytest.fixture(scope="module")
def planned(tiny_model: Path) -> PlannedModel:
    return plan_model(tiny_config(tiny_model, split="pp=2"))


@dataclass
class FakeEngine:
    """Shows what it is told to, and remembers what it was asked for."""

    stats_shown: EngineStats
    moves: list[int] = field(default_factory=list)
    done: Callable[[ShoalError | None], None] | None = None

    def stats(self) -> EngineStats:
        return self.stats_shown

    def replace_replica(
        self, index: int, factory: StepReplicaFactory, done: Callable[[ShoalError | None], None] | None = None
    ) -> None:
        self.moves.append(index)
        self.done = done

    def add_replica(self, factory: StepReplicaFactory, done: Callable[[ShoalError | None], None] | None = None) -> None:
        raise AssertionError("nobody has joined")

    def show(self, *, slowdowns: tuple[float, ...], stage_s: tuple[float, ...], num_running: int = 8) -> None:
        (replica,) = self.stats_shown.replicas
        self.stats_shown = replace(
            self.stats_shown,
            slowdowns=(slowdowns,),
            stage_s=(stage_s,),
            replicas=(replace(replica, num_running=num_running),),
        )


@pytest.fixture(scope="module")
def stats(planned: PlannedModel) -> EngineStats:
    with launch(planned) as loaded:
        return loaded.engine.stats()


@pytest.fixture
def fake(stats: EngineStats) -> FakeEngine:
    return FakeEngine(stats)


class Watch:
    """A replanner and the clock that it looks at."""

    lines: ClassVar[list[str]]
    """what this test's code has logged"""

    def __init__(self, planned: PlannedModel, engine: ChangeableEngine[EngineStats]) -> None:
        self.now_s = 0.0
        self.watch(planned, engine)

    def watch(self, planned: PlannedModel, engine: ChangeableEngine[EngineStats]) -> None:
        kind = LanguagePlanKind(planned, launcher_for(planned))
        running: RunningPlan[Plan, ReplicaPlan, EngineStats] = RunningPlan(planned.plan, kind, engine)
        self.replanner = LayerReplanner(running, planned.model, lambda: self.now_s)

    def for_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now_s += 1.0
            self.replanner.look()


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[str]]:
    """What is logged of plans and machines."""
    with launch_lines() as told:
        Watch.lines = told
        yield told


def test_layers_move_once_a_slowdown_has_lasted(planned: PlannedModel, fake: FakeEngine) -> None:
    watch = Watch(planned, fake)
    fake.show(slowdowns=(1.0, 1.0), stage_s=(0.01, 0.01))
    watch.for_s(60)
    assert fake.moves == []
    fake.show(slowdowns=(1.0, 4.0), stage_s=(0.01, 0.04))
    watch.for_s(3)
    assert fake.moves == []
    watch.for_s(60)
    assert fake.moves == [0]
    assert watch.lines[0].startswith("replica 0: moving layers from ")
    watch.for_s(60)
    assert fake.moves == [0], "one move at a time"


def test_an_idle_replica_is_left_alone(planned: PlannedModel, fake: FakeEngine) -> None:
    watch = Watch(planned, fake)
    fake.show(slowdowns=(1.0, 4.0), stage_s=(0.01, 0.04), num_running=0)
    watch.for_s(300)
    assert fake.moves == []


def test_a_move_that_fails_is_told_and_may_be_tried_again(planned: PlannedModel, fake: FakeEngine) -> None:
    watch = Watch(planned, fake)
    fake.show(slowdowns=(1.0, 4.0), stage_s=(0.01, 0.04))
    watch.for_s(60)
    assert fake.done is not None
    fake.done(CapacityError("no memory"))
    assert watch.lines[-1] == "replica 0 keeps its layers: no memory"
    watch.for_s(60)
    assert fake.moves == [0, 0]


def test_requests_go_on_through_a_move(tiny_model: Path, planned: PlannedModel) -> None:
    requests = make_requests(4, max_tokens=60)
    with launch(planned) as loaded:
        expected = transcribe(loaded.engine, requests)
    with launch(planned) as loaded:
        shown = FakeEngine(loaded.engine.stats())
        shown.show(slowdowns=(1.0, 4.0), stage_s=(0.01, 0.04))
        moves = _Moving(loaded.engine, shown)
        watch = Watch(planned, shown)
        watch.watch(planned, moves)
        for request in requests:
            loaded.engine.add(request)
        transcript = Transcript()
        transcript.follow(loaded.engine, lambda: len(transcript.tokens.get("request-0", ())) >= 3)
        watch.for_s(60)
        assert moves.num_moves == 1
        transcript.finish(loaded.engine)
        while not moves.is_done:
            loaded.engine.turn(1.0)
        again = transcribe(loaded.engine, [replace(one, request_id=one.request_id + "-again") for one in requests])
    assert transcript.tokens == expected.tokens
    assert list(again.tokens.values()) == list(expected.tokens.values())


class _Moving:
    """The real engine's replacing, with figures that ask for it."""

    def __init__(self, engine: Engine, shown: FakeEngine) -> None:
        self._engine, self._shown = engine, shown
        self.num_moves, self.is_done = 0, False

    def stats(self) -> EngineStats:
        return self._shown.stats()

    def replace_replica(
        self, index: int, factory: StepReplicaFactory, done: Callable[[ShoalError | None], None] | None = None
    ) -> None:
        self.num_moves += 1

        def finished(error: ShoalError | None) -> None:
            assert error is None
            self.is_done = True
            assert done is not None
            done(error)

        self._engine.replace_replica(index, factory, finished)

    def add_replica(self, factory: StepReplicaFactory, done: Callable[[ShoalError | None], None] | None = None) -> None:
        raise AssertionError("nobody has joined")
