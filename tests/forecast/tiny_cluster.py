"""A tiny model planned for two workers of this machine, whose speeds are an example's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.forecast.planned_cluster import PlannedCluster
from shoal.launch.language.planning import plan_model
from tests.integration.running import tiny_config
from tests.planner.example_speeds import example_fleet


@contextmanager
def tiny_cluster(model: Path) -> Iterator[PlannedCluster]:
    """`pp=2` of a model."""
    planned = plan_model(tiny_config(model, split="pp=2"))
    yield PlannedCluster(
        model=planned.model,
        plan=planned.plan,
        fleet=example_fleet(),
        worker_classes=(0, 0),
        machines=("a", "b"),
        prices_per_hour={},
        num_cores=2,
    )
    planned.close()
