"""A simulation's workers are looked at before it: with somebody who knows everything at once, and for real."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.forecast.planned_cluster import PlannedCluster
from shoal.forecast.speed_check import check_speeds
from shoal.measure.language.measurer import ClassSpeed, ModelSpeeds
from shoal.measure.language.timed_model import ModelToTime
from shoal.measure.slots import Slot
from tests.forecast.tiny_cluster import tiny_cluster
from tests.integration.leaks import no_leaks
from tests.model.tiny_models import make_tiny_gguf
from tests.planner.example_speeds import example_worker


class FakeMeasurer:
    """Workers are so many times slower than the example."""

    def __init__(self, slowness: float) -> None:
        self._slowness = slowness
        self.asked: list[tuple[str, int]] = []
        self._slots: Sequence[Slot] = ()

    @contextmanager
    def __call__(self, slots: Sequence[Slot]) -> Iterator[Any]:
        self._slots = slots
        yield self

    def again(self, model: ModelToTime) -> ModelSpeeds:
        self.asked.append((model.precision, len(self._slots)))
        speed = example_worker(self._slowness)
        return ModelSpeeds(classes=(ClassSpeed(alone=speed, busy=speed),), others_share=0.0)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlannedCluster]:
    with tiny_cluster(make_tiny_gguf(tmp_path_factory.mktemp("tiny"))) as planned:
        yield planned


def test_slower_workers_are_simulated_slower(cluster: PlannedCluster) -> None:
    fake = FakeMeasurer(1.5)
    checked = check_speeds(cluster, start=fake)
    assert fake.asked == [("fp32", 2)]
    assert checked.drift is not None
    assert (checked.drift.decode, checked.drift.prefill) == pytest.approx((1.5, 1.5))
    before, now = cluster.fleet.classes[0], checked.fleet.classes[0]
    for then_s, now_s in zip(
        before.busy["fp32"].mlp.prefill.seconds, now.busy["fp32"].mlp.prefill.seconds, strict=True
    ):
        assert now_s == pytest.approx(1.5 * then_s)
    assert now.alone == now.busy


def test_what_is_as_fast_is_left_alone(cluster: PlannedCluster) -> None:
    checked = check_speeds(cluster, start=FakeMeasurer(1.02))
    assert checked.fleet == cluster.fleet
    assert checked.drift is not None
    assert checked.drift.error == pytest.approx(0.02)


def test_described_machines_cannot_be_looked_at(cluster: PlannedCluster) -> None:
    described = replace(cluster, num_cores=None)
    assert check_speeds(described, start=FakeMeasurer(9.0)) is described


def test_a_real_look_leaves_nothing_behind(cluster: PlannedCluster, tmp_path: Path) -> None:
    with no_leaks():
        checked = check_speeds(cluster)
    assert checked.drift is not None
    assert min(checked.drift.decode, checked.drift.prefill) > 0
