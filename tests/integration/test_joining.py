"""Machines that join while a model is served: fakes of machines, whose workers are real processes of this one."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import pytest

from shoal.api.graphs import open_runner
from shoal.config import GraphLaunchConfig, PlanningConfig
from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.core.plan.placement import WorkerPlacement
from shoal.core.recovery.worker_life import Phase
from shoal.errors import CapacityError, ShoalError, WorkerLost
from shoal.executor import launcher
from shoal.executor.local_launcher import LocalLauncher
from shoal.executor.process.worker_process import WorkerProcess
from shoal.launch.graph.launch import launch_graph
from shoal.launch.graph.planning import plan_graph
from shoal.launch.language.auto_plan import AutoPlanner
from shoal.launch.language.planning import PlannedModel
from shoal.launch.language.process_memory import step_rows
from shoal.launch.launch import launch
from shoal.launch.running.growth import Growth
from shoal.launch.running.joining import Joining
from shoal.launch.running.running_plan import ChangeableEngine, LanguagePlanKind, RunningPlan
from shoal.launch.worker_launch import growth_of
from shoal.machines.placed_fleet import PlacedFleet, PlacedGraphFleet, Places
from shoal.measure.graph.fleet import make_graph_fleet
from shoal.measure.graph.profile import GraphSetting
from shoal.measure.measuring import Measuring
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.offline.pull import Chunk
from shoal.planner.choice.build_plan import Limits
from shoal.planner.graph_choice.fleet import GraphWorkerClass
from shoal.planner.split.machine_places import MachineCores
from shoal.router.batch_engine import BatchEngine, InferenceRequest
from shoal.router.engine_stats import EngineStats
from shoal.router.executor import StepReplicaFactory
from tests.executor.graphs import skip_chain
from tests.integration.running import PATIENT, make_requests, transcribe
from tests.log_lines import launch_lines
from tests.planner.choice.example_fleets import SLOW_LINK, make_class, make_fleet

Done = Callable[[ShoalError | None], None]


LanguageRunning = RunningPlan[Plan, ReplicaPlan, EngineStats]


class AllHere(LocalLauncher):
    """Whatever machine a worker is for, it is a process here."""

    def start(self, place: launcher.Place) -> WorkerProcess:
        return super().start(replace(place, machine=None))


class OnMachines(AllHere):
    """The same, as long as the machine is there."""

    def __init__(self, gone: Callable[[], set[str]]) -> None:
        super().__init__()
        self._gone = gone

    def start(self, place: launcher.Place) -> WorkerProcess:
        if place.machine in self._gone():
            raise WorkerLost(f"machine {place.machine} does not answer")
        return super().start(place)


def launcher_for(planned: PlannedModel) -> AllHere:
    return AllHere(step_rows=step_rows(planned.plan), hidden_size=planned.model.config.carried_width)


def growth(planned: PlannedModel) -> Growth[PlacedFleet, ReplicaPlan]:
    assert planned.auto is not None
    return growth_of(planned.auto)


def running_plan(planned: PlannedModel, engine: ChangeableEngine[EngineStats]) -> LanguageRunning:
    return RunningPlan(planned.plan, LanguagePlanKind(planned, launcher_for(planned)), engine)


class FakeMachines:
    """Implements `Machines`: those that are named, all alike, far from each other."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.arriving: list[str] = []
        self.gone: set[str] = set()
        self.trouble: ShoalError | None = None
        self.head_trouble: str | None = None

    def find_joined(self) -> Sequence[str]:
        if self.head_trouble is not None:
            raise WorkerLost(self.head_trouble)
        if self.trouble is not None:
            raise self.trouble
        joined, self.arriving = self.arriving, []
        self.names += [name for name in joined if name not in self.names]
        self.gone -= set(joined)
        return joined

    later_bytes = ()

    def for_another_model(self, later_bytes: Sequence[int] = ()) -> FakeMachines:
        return self

    def living(self) -> frozenset[str]:
        return frozenset(self.names) - self.gone

    def measure(
        self,
        model: ModelOnDisk,
        precisions: Sequence[Precision],
        measuring: Measuring,
        known: PlacedFleet | None = None,
    ) -> PlacedFleet:
        classes = [make_class(name, slowness={"fp32": 1.0}) for name in self.names]
        return PlacedFleet(
            fleet=make_fleet(*classes, link=SLOW_LINK, sums=SLOW_LINK),
            places=self._places(),
        )

    def measure_graph(
        self, setting: GraphSetting, measuring: Measuring, known: PlacedGraphFleet | None = None
    ) -> PlacedGraphFleet:
        nodes = NodeTimes(
            seconds=(1e-3,) * setting.graph.num_nodes,
            kept_values=frozenset(),
            output_bytes=(1 << 20,) * setting.graph.num_nodes,
        )
        classes = [
            GraphWorkerClass(name=name, count=1, threads=1, memory_bytes=1 << 30, node_s=nodes.seconds)
            for name in self.names
        ]
        links = ((SLOW_LINK,) * len(classes),) * len(classes)
        return PlacedGraphFleet(fleet=make_graph_fleet(setting, nodes, classes, links), places=self._places())

    def _places(self) -> Places:
        return tuple((WorkerPlacement(threads=1, cores=(0,), machine=name),) for name in self.names)

    def troubles(self) -> Mapping[str, str]:
        return dict.fromkeys(self.gone, "does not answer")

    def headless(self) -> str | None:
        return self.head_trouble

    def stop_waiting(self) -> None:
        pass

    def cores(self) -> Sequence[MachineCores]:
        return [MachineCores(name=name, cores=(0,)) for name in self.names]

    def free_memory_bytes(self) -> int:
        raise NotImplementedError

    def find_model(self, path: Path) -> None:
        """It is at the same path everywhere."""

    def bring_model(self, plan: Plan | GraphPlan, num_layers: int, on_progress: Callable[[str], None]) -> None:
        """Nobody lacks it."""

    def launcher(self) -> launcher.WorkerLauncher:
        return OnMachines(lambda: self.gone)

    def close(self) -> None:
        """Nothing was started there."""


def plan_on(machines: FakeMachines, path: Path) -> PlannedModel:
    model = ModelOnDisk(path, name="tiny")
    auto = AutoPlanner(
        PlanningConfig(objective="throughput", streams=16),
        model,
        "fp32",
        limits=Limits(block_size=16, max_context=256, max_step_tokens=64, max_seqs=8, kv_memory_bytes=1 << 24),
        measuring=Measuring(),
        machines=machines,
    ).plan()
    return PlannedModel(model=model, plan=auto.plan, in_process=False, auto=auto, replans=True)


@dataclass
class FakeEngine:
    """Shows what it is told to, and remembers what it was asked for."""

    stats_shown: EngineStats
    asked: list[str] = field(default_factory=list)
    done: list[Done | None] = field(default_factory=list)

    def stats(self) -> EngineStats:
        return self.stats_shown

    def replace_replica(self, index: int, factory: StepReplicaFactory, done: Done | None = None) -> None:
        self.asked.append(f"replace {index}")
        self.done.append(done)

    def add_replica(self, factory: StepReplicaFactory, done: Done | None = None) -> None:
        self.asked.append("add")
        self.done.append(done)

    def finish(self, error: ShoalError | None = None) -> None:
        """What was asked for last."""
        done = self.done[-1]
        assert done is not None
        done(error)
        if error is None and self.asked[-1] == "add":
            shown = self.stats_shown
            self.stats_shown = replace(shown, phases=shown.phases * 2, reduced=shown.reduced * 2)


class Watch:
    """A fake engine whose machines are watched."""

    lines: ClassVar[list[str]]
    """what this test's code has logged"""

    def __init__(self, machines: FakeMachines, planned: PlannedModel, *, uses_new: bool = True) -> None:
        with launch(replace(planned, replans=False), launcher=launcher_for(planned)) as loaded:
            self.engine = FakeEngine(loaded.engine.stats())
        self.now_s = 0.0
        self.running = running_plan(planned, self.engine)
        self.joining = Joining(
            machines,
            self.running,
            growth(planned) if uses_new else None,
            wake=lambda: None,
            clock=lambda: self.now_s,
        )

    def turn(self) -> None:
        self.joining.step()
        self.joining.look()


@pytest.fixture
def machines() -> FakeMachines:
    return FakeMachines("a")


@pytest.fixture
def planned(machines: FakeMachines, tiny_model: Path) -> Iterator[PlannedModel]:
    planned = plan_on(machines, tiny_model)
    yield planned
    planned.close()


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[str]]:
    """What is logged of plans and machines."""
    with launch_lines() as told:
        Watch.lines = told
        yield told


def test_a_machine_that_joins_becomes_a_replica_that_serves(
    machines: FakeMachines, planned: PlannedModel, lines: list[str]
) -> None:
    requests = make_requests(6, max_tokens=8)
    with launch(replace(planned, replans=False), launcher=launcher_for(planned)) as loaded:
        running = running_plan(planned, loaded.engine)
        joining = Joining(machines, running, growth(planned), wake=loaded.engine.wake)
        expected = transcribe(loaded.engine, requests)
        machines.arriving = ["b"]
        joining.step()
        joining.look()
        while len(running.plan.replicas) == 1:
            loaded.engine.turn(1.0)
        again = transcribe(loaded.engine, [replace(one, request_id=one.request_id + "-again") for one in requests])
        assert all(one.num_running == 0 for one in loaded.engine.stats().replicas)
        assert loaded.engine.stats().num_replicas == 2
        joining.step()
        joining.look()
    assert {name.removesuffix("-again"): tokens for name, tokens in again.tokens.items()} == expected.tokens
    assert [shard.machine for replica in running.plan.replicas for shard in replica.shards] == ["a", "b"]
    assert running.plan.split == "dp=2"
    assert lines == ["joined: b", lines[1]]
    assert lines[1].startswith("replica 1 is made on b, ")


def serve_once(engine: BatchEngine, count: int) -> dict[str, np.ndarray]:
    """One row each."""
    for index in range(count):
        x = np.full((1, 8), index, np.float32)
        engine.add(InferenceRequest(request_id=str(index), inputs={"x": x}))
    outputs: dict[str, np.ndarray] = {}
    while engine.has_work:
        outputs |= {result.request_id: result.outputs["y"] for result in engine.turn(30.0)}
    return outputs


def test_a_machine_that_joins_a_served_graph_becomes_a_copy_that_serves(
    machines: FakeMachines, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shoal.launch")
    path = skip_chain(tmp_path / "chain.onnx")
    config = GraphLaunchConfig(
        model=str(path), split="auto", planning=PlanningConfig(objective="throughput"), in_process=False
    )
    planned = plan_graph(config, machines=machines)
    with launch_graph(planned, replans=True) as loaded:
        engine = BatchEngine(loaded.executors, loaded.plan.batch, factories=loaded.factories, recovery=loaded.recovery)
        supervisor = loaded.supervise(engine, time.monotonic)
        assert supervisor.joining is not None
        try:
            expected = serve_once(engine, 6)
            machines.arriving = ["b"]
            supervisor.joining.step()
            while engine.stats().num_replicas == 1:
                engine.turn(1.0)
            again = serve_once(engine, 6)
            assert engine.stats().phases == (Phase.SERVING,) * 2
            assert [shard.machine for shard in supervisor.plan.shards] == ["a", "b"]
            assert supervisor.plan.split == "dp=2"
            assert [one["state"] for one in supervisor.describe_machines()] == ["has workers"] * 2
        finally:
            supervisor.close()
            engine.close()
    assert expected.keys() == again.keys()
    for name, y in expected.items():
        np.testing.assert_allclose(again[name], y, rtol=1e-5, atol=1e-6)
    assert "joined: b" in caplog.messages
    assert any(line.startswith("replica 1 is made on b, ") for line in caplog.messages)


def test_a_map_gives_a_replica_its_workers_back_on_a_machine_that_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr("shoal.launch.running.joining._EVERY_S", 0.05)
    machines = FakeMachines("a", "b")
    config = GraphLaunchConfig(model=str(skip_chain(tmp_path / "chain.onnx")), split="dp=2", in_process=False)
    recovery = replace(PATIENT, max_failures=2, crash_loop_s=0.1, backoff_s=0.01)
    with (
        launch_graph(plan_graph(config, machines=machines), recovery=recovery) as loaded,
        open_runner(loaded) as runner,
    ):
        assert [shard.machine for shard in loaded.plan.shards] == ["a", "b"]

        def rows() -> Iterator[Chunk]:
            """As many as it takes until the second replica was given up and serves again."""
            machines.gone = {"b"}
            os.kill(loaded.executors[1].worker_pids()[0], signal.SIGKILL)
            for index in itertools.count():
                phase = runner.stats().phases[1]
                if phase is Phase.GIVEN_UP and machines.gone:
                    machines.arriving = ["b"]
                elif phase is Phase.SERVING and not machines.gone:
                    return
                yield Chunk(index=index, inputs={"x": np.full((1, 8), index, np.float32)})

        results = list(runner.run(rows()))
    assert [result.error for result in results if result.error] == []
    assert sorted(result.index for result in results) == list(range(len(results)))
    assert "joined: b" in lines
    assert "replica 1 is given back its workers on b" in lines


def test_two_that_join_at_once_are_used_one_after_the_other(machines: FakeMachines, planned: PlannedModel) -> None:
    watch = Watch(machines, planned)
    machines.arriving = ["b", "c"]
    watch.turn()
    watch.turn()
    assert watch.engine.asked == ["add"], "one change at a time"
    watch.engine.finish()
    watch.turn()
    assert watch.engine.asked == ["add", "add"]
    assert watch.lines[-1].startswith("replica 2 is made on ")


def test_a_replica_that_cannot_join_is_told_and_not_tried_again(machines: FakeMachines, planned: PlannedModel) -> None:
    watch = Watch(machines, planned)
    machines.arriving = ["b"]
    watch.turn()
    watch.engine.finish(CapacityError("no memory"))
    watch.turn()
    watch.turn()
    assert watch.engine.asked == ["add"]
    assert watch.lines[-1] == "machines that joined are not used: no memory"
    assert len(watch.running.plan.replicas) == 1


def test_a_split_said_by_hand_is_kept(machines: FakeMachines, planned: PlannedModel) -> None:
    watch = Watch(machines, planned, uses_new=False)
    machines.arriving = ["b"]
    watch.turn()
    assert (watch.lines, watch.engine.asked) == (["joined: b"], [])


@pytest.mark.parametrize("state", ["reduced", "given up"])
def test_a_machine_that_comes_back_gives_its_replica_back(
    state: str, machines: FakeMachines, planned: PlannedModel
) -> None:
    watch = Watch(machines, planned)
    shown = watch.engine.stats_shown
    machines.gone = {"a"}
    watch.turn()
    if state == "reduced":
        watch.engine.stats_shown = replace(shown, reduced=(True,))
    else:
        watch.engine.stats_shown = replace(shown, phases=(Phase.GIVEN_UP,))
    watch.turn()
    assert watch.engine.asked == []
    machines.arriving = ["a"]
    watch.turn()
    assert watch.engine.asked == ["replace 0"]
    watch.engine.finish(WorkerLost("gone again"))
    watch.turn()
    assert watch.engine.asked == ["replace 0"], "not at once"
    machines.arriving = ["a"]
    watch.turn()
    assert watch.engine.asked == ["replace 0"] * 2
    assert "replica 0 continues unchanged: gone again" in watch.lines


def test_a_machine_that_never_left_gives_its_replica_back(machines: FakeMachines, planned: PlannedModel) -> None:
    """Workers died there three times while they loaded, and then no more: nobody comes back who could be noticed."""
    watch = Watch(machines, planned)
    watch.engine.stats_shown = replace(watch.engine.stats_shown, reduced=(True,))
    tried_at_s: list[float] = []
    for now_s in (0.0, 9.0, 10.0, 29.0, 30.0, 69.0, 70.0, 149.0, 150.0, 309.0, 310.0, 609.0, 610.0, 909.0, 910.0):
        watch.now_s = now_s
        watch.turn()
        if len(watch.engine.asked) > len(tried_at_s):
            tried_at_s.append(now_s)
            watch.engine.finish(WorkerLost("killed again"))
    assert tried_at_s == [10.0, 30.0, 70.0, 150.0, 310.0, 610.0, 910.0], (
        "twice as late each time, every 5 minutes at least"
    )
    watch.engine.stats_shown = replace(watch.engine.stats_shown, reduced=(False,))
    watch.now_s = 10_000.0
    watch.turn()
    assert len(watch.engine.asked) == len(tried_at_s)


def test_machines_that_are_lost_are_told_once_each(machines: FakeMachines, planned: PlannedModel) -> None:
    watch = Watch(machines, planned)
    machines.gone = {"a"}
    watch.turn()
    watch.turn()
    machines.arriving = ["a"]
    watch.turn()
    machines.gone = {"a"}
    watch.turn()
    assert watch.lines == ["machine a does not answer", "joined: a", "machine a does not answer"]


def test_without_the_clusters_head_this_process_ends_by_itself(machines: FakeMachines, planned: PlannedModel) -> None:
    watch = Watch(machines, planned)
    ends: list[str] = []
    watch.joining.on_headless(ends.append)

    def look(now_s: float, trouble: str | None) -> None:
        watch.now_s, machines.head_trouble = now_s, trouble
        watch.joining.step()

    look(0.0, None)
    assert watch.joining.trouble is None
    look(5.0, "Ray's head does not answer")
    assert watch.joining.trouble == "Ray's head does not answer"
    look(10.0, None)
    look(15.0, "Ray's head does not answer")
    look(25.0, "Ray's head does not answer")
    assert not ends
    look(30.0, "Ray's head does not answer")
    look(35.0, "Ray's head does not answer")
    assert ends == ["Ray's head does not answer"]
    assert [line.partition(":")[0] for line in watch.lines] == [
        "Ray's head does not answer",
        "Ray's head answers again",
        "Ray's head does not answer",
    ]


def test_trouble_is_told_once(machines: FakeMachines, planned: PlannedModel) -> None:
    machines.trouble = WorkerLost("no agent can be started")
    watch = Watch(machines, planned)
    for _ in range(2):
        watch.joining.step()
    machines.trouble = None
    watch.joining.step()
    machines.trouble = WorkerLost("no agent can be started")
    watch.joining.step()
    assert watch.lines == ["machines that joined are not used: no agent can be started"] * 2


def test_whatever_else_is_raised_ends_no_watch(machines: FakeMachines, planned: PlannedModel) -> None:
    watch = Watch(machines, planned)
    machines.trouble = cast(ShoalError, ValueError("not connected\nany more"))
    watch.joining.step()
    machines.trouble = None
    machines.arriving = ["a"]
    watch.joining.step()
    assert watch.lines == ["machines that joined are not used: ValueError: not connected", "joined: a"]
