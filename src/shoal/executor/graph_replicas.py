"""Replicas of an ONNX graph: spelled out from a split, and started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from shoal.core.batching.events import BatchLimits
from shoal.core.plan.graph import GraphReplicaPlan, GraphShardPlan, GraphStagePlan, SplitReport
from shoal.core.plan.graph_wire import load_message
from shoal.executor.graph_local import LocalGraphExecutor
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import StageInterface, stage_interfaces
from shoal.model.graph.stage.stage_model import weight_bytes
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from shoal.planner.split.split_spec import SplitSpec
from shoal.protocol.messages import FileState, Generation
from shoal.router.graph_executor import GraphExecutor


def spell_replicas(
    graph: GraphFile,
    spec: SplitSpec,
    boundaries: Sequence[int],
    *,
    threads: int,
    cores: Sequence[tuple[int, ...]],
    stage_s: Sequence[float] | None = None,
) -> tuple[GraphReplicaPlan, ...]:
    """Every stage with the tensors at its border, every worker with its cores.

    Args:
        graph: the file.
        spec: the split.
        boundaries: nodes with which stages begin, the first stage's left out.
        threads: of every worker.
        cores: of every worker, replica by replica, stage by stage, rank by rank.
        stage_s: seconds of each stage for the sample run; None where they are not known.
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


class GraphFactory:
    """Child processes on this machine, all of them new. Implements `router.executor.ReplicaFactory`."""

    def __init__(self, path: Path, replica: GraphReplicaPlan, index: int, files: tuple[FileState, ...] = ()) -> None:
        """Start nothing yet.

        Args:
            path: of the graph's file, which must be there at every start.
            replica: what its workers load.
            index: of the replica.
            files: the graph's, as they were when it was opened.
        """
        self._files = files
        self._path = path
        self._replica = replica
        self._index = index

    def start(
        self, generation: Generation, without: int | None, previous: GraphExecutor | None
    ) -> tuple[BatchLimits, LocalGraphExecutor]:
        """See `ReplicaFactory.start`. All workers are new, and none can be done without."""
        num_stages = len(self._replica.stages)
        stages = [
            [
                load_message(
                    stage,
                    rank,
                    model_path=str(self._path),
                    stage_index=position,
                    num_stages=num_stages,
                    generation=generation,
                    files=self._files,
                )
                for rank in range(len(stage.shards))
            ]
            for position, stage in enumerate(self._replica.stages)
        ]
        return BatchLimits(num_stages=num_stages), LocalGraphExecutor(f"replica {self._index}", stages)


def graph_factories(graph: GraphFile, replicas: Sequence[GraphReplicaPlan]) -> list[GraphFactory]:
    """One a replica."""
    return [GraphFactory(graph.path, replica, index, graph.files) for index, replica in enumerate(replicas)]


def start_replicas(
    factories: Sequence[GraphFactory], on_loaded: Callable[[], None] = lambda: None
) -> tuple[LocalGraphExecutor, ...]:
    """Start all workers and wait until they are loaded; `on_loaded` is called for each.

    Raises:
        ModelLoadError: a stage cannot be loaded.
        WorkerLost: a worker died while loading.
    """
    with ExitStack() as on_failure:
        executors: list[LocalGraphExecutor] = []
        for factory in factories:
            _, executor = factory.start(Generation(0), None, None)
            on_failure.callback(executor.close)
            executors.append(executor)
        for executor in executors:
            executor.wait_until_loaded(on_loaded)
        on_failure.pop_all()
    return tuple(executors)


def _shard_figures(
    graph: GraphFile, interface: StageInterface, shares: tuple[int, ...]
) -> tuple[SplitReport | None, Sequence[int]]:
    """What is split, None for a single shard; and the bytes of weights that each shard holds."""
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
    """Takes as many of `cores` as the stage has shards."""
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
