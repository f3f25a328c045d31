"""A check, by a few steps before a simulation, whether workers of this machine are as fast as when it was profiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from shoal.forecast.planned_cluster import PlannedCluster
from shoal.measure.language.fleet import StartMeasuring
from shoal.measure.language.measurer import TeamMeasurer
from shoal.measure.language.timed_model import model_to_time
from shoal.measure.slots import Slot, kinds_of
from shoal.model.weights import Precision
from shoal.planner.speeds.drift import Drift, find_drift, with_drift
from shoal.planner.speeds.speeds import Fleet, WorkerClass


def check_speeds(
    cluster: PlannedCluster,
    on_progress: Callable[[str], None] = lambda what: None,
    *,
    start: StartMeasuring = TeamMeasurer,
) -> PlannedCluster:
    """The cluster with present speeds, if its workers are processors of this machine; otherwise unchanged.

    A profile is taken once and used for months. A machine that was busy at that time, or is busy now, may be slower by
    half or more.

    Args:
        cluster: the planned cluster, with speeds that may be old.
        on_progress: called with what is being measured.
        start: starts the measuring processes.

    Raises:
        WorkerLost, ModelLoadError, CapacityError: as `measure_fleet`.
    """
    shards = cluster.plan.shards
    if cluster.num_cores is None or any(shard.device is not None for shard in shards):
        return cluster
    slots = [Slot(cores=shard.cores, cpu_quota=shard.cpu_quota or 1.0) for shard in shards]
    precisions: set[Precision] = {stage.precision for replica in cluster.plan.replicas for stage in replica.stages}
    classes = [cluster.worker_classes[slots.index(slot)] for slot in kinds_of(slots)]
    on_progress("whether workers are as fast as they were: a few steps")
    fleet, drifts = cluster.fleet, list[Drift]()
    with start(slots) as measurer:
        for precision in sorted(precisions):
            now = measurer.again(model_to_time(cluster.model, precision))
            for index, speed in zip(classes, now.classes, strict=True):
                drifts.append(find_drift(fleet.classes[index].busy[precision], speed.busy))
                fleet = _with_class(fleet, index, _drifted(fleet.classes[index], precision, drifts[-1]))
    return replace(cluster, fleet=fleet, drift=max(drifts, key=lambda one: max(one.error, abs(one.decode - 1.0))))


def _drifted(one: WorkerClass, precision: str, drift: Drift) -> WorkerClass:
    """Correct a class's speeds, alone and busy, by the drift, which is measured for busy workers only."""
    alone, busy = ({**speeds, precision: with_drift(speeds[precision], drift)} for speeds in (one.alone, one.busy))
    return replace(one, alone=alone, busy=busy)


def _with_class(fleet: Fleet, index: int, one: WorkerClass) -> Fleet:
    classes = list(fleet.classes)
    classes[index] = one
    return replace(fleet, classes=tuple(classes))
