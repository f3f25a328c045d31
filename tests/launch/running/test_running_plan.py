"""The plan as it is: a replica that does without a worker is told as it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NoReturn, cast

import pytest

from shoal.config import LaunchConfig
from shoal.core.plan.language import Plan
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import WorkerLost
from shoal.executor.language_factory import LanguageFactory
from shoal.executor.launcher import Place, Wiring
from shoal.executor.process.message_worker import MessageWorker
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.launch.running.running_plan import ChangeableEngine, LanguagePlanKind, RunningPlan
from shoal.planner.split.machine_places import MachineCores, place_on_machines
from shoal.protocol.worker_messages import Generation
from shoal.router.engine_stats import EngineStats
from tests.log_lines import launch_lines
from tests.model.tiny_models import make_tiny_gguf


class NoLauncher:
    """Implements `WorkerLauncher`: remembers what it was asked for and starts nothing."""

    def __init__(self) -> None:
        self.asked: list[Place] = []

    def start(self, place: Place) -> MessageWorker:
        self.asked.append(place)
        raise WorkerLost("there are no workers here")

    def wire(
        self, places: Sequence[Sequence[Place]], workers: Sequence[Sequence[MessageWorker]], generation: Generation
    ) -> Wiring:
        raise NotImplementedError

    def elsewhere(self, machine: str) -> WorkerPlacement | None:
        return None


class NoEngine:
    """Implements `ChangeableEngine`: nothing of it is used."""

    def __getattr__(self, name: str) -> NoReturn:
        raise NotImplementedError


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> PlannedModel:
    path = make_tiny_gguf(tmp_path_factory.mktemp("model"), quant="F32")
    planned = plan_model(LaunchConfig(model=str(path), split="pp=3", threads=1, kv_memory_bytes=1 << 20))
    machines = [MachineCores(name=name, cores=(0,)) for name in ("h0", "h1", "h2")]
    return replace(planned, plan=place_on_machines(planned.plan, machines, 1))


def machines_of(plan: Plan) -> list[str | None]:
    return [shard.machine for replica in plan.replicas for shard in replica.shards]


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged of plans."""
    with launch_lines() as told:
        yield told


def test_what_could_not_be_started_is_told_and_left_out(planned: PlannedModel, lines: list[str]) -> None:
    launcher = NoLauncher()
    factory = LanguageFactory(planned.model, planned.plan, 0, launcher)
    running = RunningPlan(
        planned.plan, LanguagePlanKind(planned, launcher), cast(ChangeableEngine[EngineStats], NoEngine()), [factory]
    )
    assert running.actual == planned.plan
    with pytest.raises(WorkerLost):
        factory.start(Generation(1), 1, None)
    assert running.plan == planned.plan, "it is what the replica is to have again"
    assert machines_of(running.actual) == ["h0", "h2"]
    assert running.actual.split.startswith("pp=")
    assert len(running.actual.replicas[0].stages) == 2
    split = running.actual.split
    assert lines == [
        f"replica 0 is planned anew as {split} over h0, h2, without stage 1 on h1, which could not be started"
    ]
    with pytest.raises(WorkerLost):
        factory.start(Generation(2), None, None)
    assert running.actual == planned.plan
    assert len(lines) == 1


def test_workers_are_called_by_their_machines(planned: PlannedModel) -> None:
    launcher = NoLauncher()
    factory = LanguageFactory(planned.model, planned.plan, 0, launcher)
    with pytest.raises(WorkerLost):
        factory.start(Generation(0), None, None)
    assert launcher.asked[0].label == "replica 0 stage 0 on h0"
