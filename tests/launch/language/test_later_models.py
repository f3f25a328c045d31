"""Language models on machines that other models will use as well."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shoal.config import PlanningConfig
from shoal.core.plan.placement import WorkerPlacement
from shoal.launch.language.auto_plan import AutoPlanner
from shoal.machines.machines import Machines
from shoal.machines.placed_fleet import PlacedFleet
from shoal.measure.measuring import Measuring
from shoal.model.on_disk import ModelOnDisk
from shoal.planner.choice.build_plan import Limits
from tests.model.tiny_models import make_tiny_gguf
from tests.planner.choice.example_fleets import MB, make_class, make_fleet

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny"))


def machines_used(path: Path, later_bytes: tuple[int, ...]) -> set[str | None]:
    """By a plan for three machines of a gigabyte each."""
    fleet = make_fleet(*(make_class(name, slowness={"fp32": 1.0}) for name in NAMES))
    places = tuple((WorkerPlacement(threads=1, cores=(0,), machine=name),) for name in NAMES)
    placed = PlacedFleet(fleet=fleet, places=places)

    def measure(*_: Any, **__: Any) -> PlacedFleet:
        return placed

    auto = AutoPlanner(
        PlanningConfig(objective="throughput", streams=16),
        ModelOnDisk(path, name="tiny"),
        "fp32",
        limits=Limits(block_size=16, max_context=256, max_step_tokens=64, max_seqs=8, kv_memory_bytes=None),
        measuring=Measuring(),
        machines=cast(Machines, SimpleNamespace(measure=measure, later_bytes=later_bytes)),
    ).plan()
    assert auto.placed is placed, "machines that join later find all the memory that there is"
    return {shard.machine for shard in auto.plan.shards}


def test_a_language_model_leaves_machines_to_larger_ones_that_follow(tiny: Path) -> None:
    assert len(machines_used(tiny, ())) == 3
    assert len(machines_used(tiny, (1000 * MB,))) == 2
    assert len(machines_used(tiny, (1000 * MB, 1000 * MB))) == 1
    assert len(machines_used(tiny, (2000 * MB,))) == 3, "no machine holds it anyway"
