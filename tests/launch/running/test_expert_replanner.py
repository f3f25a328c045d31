"""When experts move between shards: only for heat that lasts, that is known well enough, and that costs time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from msgspec.structs import replace as replace_load

from shoal.core.plan.language import ReplicaPlan
from shoal.errors import CapacityError
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.launch.running import expert_replanner
from shoal.launch.running.expert_heat import stage_heats
from shoal.launch.running.expert_replanner import ExpertReplanner
from shoal.launch.running.running_plan import Done
from shoal.planner.files.plan_check import check_plan
from shoal.planner.split.hot_experts import row_share
from shoal.protocol.language_messages import ExpertLoad
from shoal.protocol.worker_messages import Generation
from tests.integration.running import tiny_config
from tests.log_lines import launch_lines
from tests.model.tiny_models import make_tiny_model

NUM_LAYERS, NUM_EXPERTS = 4, 8
HOT = (900, 900, 20, 20, 20, 20, 20, 20)
"""Rows of experts: the first two have nearly all of them."""
EVEN = (240,) * NUM_EXPERTS


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> PlannedModel:
    return plan_model(tiny_config(make_tiny_model("mixtral", tmp_path_factory.mktemp("m")), split="ep=1:1"))


class FakeRunning:
    """A running plan whose workers tell what the test says."""

    def __init__(self, planned: PlannedModel) -> None:
        self.plan = planned.plan
        self.loads: dict[int, ExpertLoad] = {}
        self.changes: list[ReplicaPlan] = []
        self.done: Done | None = None
        self.num_running = 8

    def tell(
        self, rows: tuple[int, ...], *, speeds: tuple[float, float] = (1.0, 1.0), layers: int = NUM_LAYERS
    ) -> None:
        """The workers are busy for as long as shards of these speeds are for the rows that they have by the plan, and
        for a third as long beside that."""
        heat = np.array(rows) / sum(rows)
        self.loads = {
            rank: ExpertLoad(
                generation=Generation(0),
                num_rows=1000,
                busy_s=(1 / 6 + row_share(heat, shard.part.experts[0])) / speed,
                expert_rows=(rows,) * layers,
            )
            for rank, (shard, speed) in enumerate(zip(self.plan.shards, speeds, strict=True))
        }

    def stats(self) -> FakeRunning:
        return self

    @property
    def replicas(self) -> list[FakeRunning]:
        return [self]

    @property
    def expert_loads(self) -> Mapping[int, ExpertLoad]:
        return self.loads

    def as_planned(self, index: int) -> FakeRunning:
        return self

    def is_changing(self, index: int) -> bool:
        return self.done is not None

    def change(self, index: int, replica: ReplicaPlan, done: Done) -> None:
        self.changes.append(replica)
        self.done = done

    def made(self) -> None:
        """The change is."""
        done, self.done = self.done, None
        assert done is not None
        self.plan = replace(self.plan, replicas=(self.changes[-1],))
        done(None)


class Watch:
    lines: ClassVar[list[str]]
    """what this test's code has logged"""

    def __init__(self, planned: PlannedModel, running: FakeRunning) -> None:
        self.now_s = 0.0
        self.replanner = ExpertReplanner(running, planned.model, lambda: self.now_s)  # type: ignore[arg-type]

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


def shares(running: FakeRunning, replica: ReplicaPlan) -> tuple[float, ...]:
    """Of the rows that each shard computes."""
    running.plan = replace(running.plan, replicas=(replica,))
    (heat,) = stage_heats(running)  # type: ignore[arg-type]
    return heat.shard_shares


def test_two_hot_experts_of_one_shard_are_parted(planned: PlannedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_replanner, "_COPY_SHARE", 0.0)
    running = FakeRunning(planned)
    watch = Watch(planned, running)
    running.tell(HOT)
    assert shares(running, planned.plan.replicas[0])[0] > 0.9
    watch.for_s(60)
    (moved,) = running.changes
    assert watch.lines[0].startswith("replica 0: moving hot experts between shards; ")
    assert shares(running, moved) == pytest.approx((0.5, 0.5), abs=0.02)
    changed = replace(planned.plan, replicas=(moved,))
    check_plan(changed, num_layers=NUM_LAYERS, atoms=planned.model.atoms)
    before = planned.plan.replicas[0]
    assert [one.weight_bytes for one in moved.shards] == [one.weight_bytes for one in before.shards]
    running.made()
    running.tell(HOT)
    watch.for_s(120)
    assert len(running.changes) == 1, "what is balanced stays"


def test_copies_are_made_where_there_is_memory_and_undone_by_the_next_move(planned: PlannedModel) -> None:
    running = FakeRunning(planned)
    watch = Watch(planned, running)
    running.tell((9000, *(70,) * 7))
    watch.for_s(60)
    (moved,) = running.changes
    assert "and copying 4; " in watch.lines[0]
    assert shares(running, moved) == pytest.approx((0.5, 0.5), abs=0.05)
    check_plan(replace(planned.plan, replicas=(moved,)), num_layers=NUM_LAYERS, atoms=planned.model.atoms)
    running.made()
    running.tell((*(70,) * 7, 9000))
    watch.for_s(120)
    assert len(running.changes) == 2
    held = [[span for span in shard.part.experts[0] if span.num_turns > 1] for shard in running.changes[1].shards]
    assert [[(span.first, span.last) for span in spans] for spans in held] == [[(7, 8)], [(7, 8)]]


@pytest.mark.parametrize(
    ("rows", "layers", "num_running"),
    [(EVEN, NUM_LAYERS, 8), ((60, 60, 1, 1, 1, 1, 1, 1), NUM_LAYERS, 8), (HOT, NUM_LAYERS, 0), (HOT, 3, 8)],
    ids=["even", "too few rows", "no requests", "counts of another stage"],
)
def test_nothing_moves_without_need(
    planned: PlannedModel, rows: tuple[int, ...], layers: int, num_running: int
) -> None:
    running = FakeRunning(planned)
    watch = Watch(planned, running)
    running.num_running = num_running
    running.tell(rows, layers=layers)
    watch.for_s(120)
    assert running.changes == []


def test_a_worker_that_was_just_started_is_not_judged_yet(planned: PlannedModel) -> None:
    running = FakeRunning(planned)
    watch = Watch(planned, running)
    running.tell(HOT)
    new = replace_load(running.loads[1], num_rows=1, expert_rows=((1, 1, 0, 0, 0, 0, 0, 0),) * NUM_LAYERS)
    running.loads[1] = new
    watch.for_s(120)
    assert running.changes == []


def test_a_shard_that_takes_longer_for_its_rows_gets_fewer(planned: PlannedModel) -> None:
    """One is three times as fast, and gets the hot experts."""
    running = FakeRunning(planned)
    watch = Watch(planned, running)
    running.tell((400, 400, 80, 80, 400, 400, 80, 80), speeds=(3.0, 1.0))
    watch.for_s(60)
    (moved,) = running.changes
    assert shares(running, moved)[0] > 0.7


def test_a_move_that_fails_is_told(planned: PlannedModel) -> None:
    running = FakeRunning(planned)
    watch = Watch(planned, running)
    running.tell(HOT)
    watch.for_s(60)
    assert running.done is not None
    done, running.done = running.done, None
    done(CapacityError("no memory"))
    assert watch.lines[-1] == "replica 0 keeps its experts: no memory"


def test_heat_names_the_hottest_experts(planned: PlannedModel) -> None:
    running = FakeRunning(planned)
    running.tell((1, 2, 3, 10, 1, 1, 1, 1))
    (heat,) = stage_heats(running)  # type: ignore[arg-type]
    assert {hot.expert for hot in heat.hottest} == {3}
    assert heat.largest_share == 0.5
    assert heat.num_rows == 20
    assert np.sum(heat.shard_shares) == pytest.approx(1.0)
    running.loads = {}
    assert stage_heats(running) == []  # type: ignore[arg-type]
