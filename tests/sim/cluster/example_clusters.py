"""Clusters whose times can be added up by hand: see tests/planner/example_speeds."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.generation.scheduler_config import SchedulerConfig, prefill_chunk
from shoal.planner.predict.placement import PlacedReplica, PlacedShard, PredictedStage
from shoal.planner.predict.step_seconds import StepSeconds
from shoal.sim.cluster.cluster_scenario import ClusterScenario
from shoal.sim.cluster.predicted_workers import SimulatedReplicaPlan
from shoal.sim.faults import Fault
from shoal.sim.traffic.visit import Traffic
from tests.planner.example_speeds import example_fleet

LOAD_S = 0.8


def make_replica(name: str, *, layers: Sequence[int] = (4,), max_seqs: int = 32) -> SimulatedReplicaPlan:
    """A stage for each number of layers, each on a machine of its own: name-0, name-1, ..."""
    stages = [PredictedStage(num_layers=one, precision="fp32", shards=(PlacedShard(worker_class=0),)) for one in layers]
    return SimulatedReplicaPlan(
        config=SchedulerConfig(
            block_size=16,
            num_blocks=4096,
            max_seqs=max_seqs,
            max_step_tokens=512,
            max_context=2048,
            prefill_chunk_tokens=prefill_chunk(len(layers)),
            num_micro_batches=len(layers),
        ),
        times=StepSeconds(PlacedReplica(stages=tuple(stages)), example_fleet(), hidden_bytes=1.0),
        workers=tuple(f"{name}-{index}" for index in range(len(layers))),
        stage_sizes=(1,) * len(layers),
        worker_load_s=(LOAD_S,) * len(layers),
    )


def make_scenario(traffic: Traffic, *replicas: SimulatedReplicaPlan, faults: Sequence[Fault] = ()) -> ClusterScenario:
    """Without a worker, a replica has one stage less of as many layers as a stage has."""

    def without_worker(index: int, worker: int) -> SimulatedReplicaPlan:
        return make_replica("fewer", layers=(4,) * (len(replicas[index].workers) - 1))

    return ClusterScenario(replicas=replicas, without_worker=without_worker, traffic=traffic, faults=faults)
