"""Making the replicas of an ONNX graph from a split, and starting them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from shoal.core.plan.graph import GraphReplicaPlan, GraphShardPlan, GraphStagePlan, SplitReport
from shoal.core.recovery.config import RecoveryConfig
from shoal.executor.first_start import FirstStart
from shoal.executor.graph_factory import BatchPipeline, GraphFactory
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from shoal.planner.split.split_spec import SplitSpec
from shoal.protocol.stage_interface import StageInterface

_SILENT_LOAD_S = 100.0
"""The default loading time-out; `FirstStart` multiplies it by six."""


def build_replicas(
    graph: GraphFile,
    spec: SplitSpec,
    boundaries: Sequence[int],
    *,
    threads: int,
    cores: Sequence[tuple[int, ...]],
    stage_s: Sequence[float] | None = None,
) -> tuple[GraphReplicaPlan, ...]:
    """Make the replicas of a split, with the inputs and outputs of every stage and the cores of every worker.

    Args:
        graph: the file.
        spec: the split.
        boundaries: the first node of each stage but the first.
        threads: threads of each worker.
        cores: cores of each worker, replica by replica, stage by stage, rank by rank.
        stage_s: seconds of each stage for the sample run; None: not known.
    """
    interfaces = stage_interfaces(graph, boundaries)
    figures = [_shard_figures(graph, interface, spec.shares) for interface in interfaces]
    seconds = [None] * len(interfaces) if stage_s is None else stage_s
    workers = iter(cores)
    return tuple(
        GraphReplicaPlan(
            stages=tuple(
                _stage_plan(interface, spec.shares, known, compute_s, threads, workers)
                for interface, known, compute_s in zip(interfaces, figures, seconds, strict=True)
            )
        )
        for _ in range(spec.num_replicas)
    )


def start_replicas(
    factories: Sequence[GraphFactory],
    recovery: RecoveryConfig | None = None,
) -> tuple[BatchPipeline, ...]:
    """Start all workers and wait until they are loaded; lost ones are restarted meanwhile.

    Args:
        factories: one for each replica.
        recovery: time-outs; None: minutes, since workers of graphs are silent while they load.

    Raises:
        ModelLoadError: a stage cannot be loaded.
        WorkerLost: a worker was repeatedly lost.
    """
    patient = recovery or RecoveryConfig(load_timeout_s=_SILENT_LOAD_S)
    with ExitStack() as on_failure:
        starts = [FirstStart(factory, patient, on_failure) for factory in factories]
        executors = tuple(start.wait()[1] for start in starts)
        on_failure.pop_all()
    return executors


def _shard_figures(
    graph: GraphFile, interface: StageInterface, shares: tuple[int, ...]
) -> tuple[SplitReport | None, Sequence[int]]:
    """The split report, None for a single shard, and the bytes of weights of each shard."""
    if len(shares) > 1:
        return split_figures(graph, interface, shares)
    return None, (weight_bytes(graph, interface.first_node, interface.last_node),)


def _stage_plan(
    interface: StageInterface,
    shares: tuple[int, ...],
    figures: tuple[SplitReport | None, Sequence[int]],
    compute_s: float | None,
    threads: int,
    cores: Iterator[tuple[int, ...]],
) -> GraphStagePlan:
    """Make a stage. Mutates: takes one item of `cores` for each shard."""
    report, shard_bytes = figures
    return GraphStagePlan(
        first_node=interface.first_node,
        last_node=interface.last_node,
        inputs=interface.inputs,
        outputs=interface.outputs,
        shards=tuple(
            GraphShardPlan(threads=threads, cores=next(cores), weight_bytes=num_bytes) for num_bytes in shard_bytes
        ),
        shares=shares,
        split=report,
        compute_s=compute_s,
    )
