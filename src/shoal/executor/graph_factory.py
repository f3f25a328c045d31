"""How the workers of a planned replica of an ONNX graph are started, the first time and after every loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from shoal.core.batching.events import BatchLimits
from shoal.core.plan.graph import GraphReplicaPlan
from shoal.core.plan.graph_wire import load_message
from shoal.executor.fabric import Fabric, Place
from shoal.executor.local_fabric import LocalFabric
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.executor.traffic import BatchTraffic
from shoal.model.graph.file.graph_file import GraphFile
from shoal.protocol.graph_messages import LoadGraph
from shoal.protocol.messages import FileState, Generation
from shoal.router.graph_executor import Batch, BatchResult, GraphExecutor

BatchPipeline = PipelineExecutor[Batch, BatchResult]


class GraphFactory:
    """Workers that a fabric makes, after a loss only those that are gone.

    Implements `router.executor.ReplicaFactory`.
    """

    def __init__(
        self,
        path: Path,
        replica: GraphReplicaPlan,
        index: int,
        fabric: Fabric,
        files: tuple[FileState, ...] = (),
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            path: of the graph's file, which must be there at every start.
            replica: what its workers load.
            index: of the replica.
            fabric: makes the workers.
            files: the graph's, as they were when it was opened.
            on_progress: called with a number of workers as they have loaded.
        """
        self._files = files
        self._path = path
        self._replica = replica
        self._name = f"replica {index}"
        self._fabric = fabric
        self._on_progress = on_progress

    def start(
        self, generation: Generation, without: int | None, previous: GraphExecutor | None
    ) -> tuple[BatchLimits, BatchPipeline]:
        """See `ReplicaFactory.start`. None of the workers can be done without."""
        survivors = previous if isinstance(previous, PipelineExecutor) else None
        executor = start_graph(
            self._name, self._loads(), self._fabric, generation, previous=survivors, on_progress=self._on_progress
        )
        return BatchLimits(num_stages=executor.num_stages), executor

    def _loads(self) -> list[list[LoadGraph]]:
        num_stages = len(self._replica.stages)
        return [
            [
                load_message(
                    stage,
                    rank,
                    model_path=str(self._path),
                    stage_index=position,
                    num_stages=num_stages,
                    files=self._files,
                )
                for rank in range(len(stage.shards))
            ]
            for position, stage in enumerate(self._replica.stages)
        ]


def start_graph(
    name: str,
    stages: Sequence[Sequence[LoadGraph]],
    fabric: Fabric,
    generation: Generation,
    *,
    previous: BatchPipeline | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> BatchPipeline:
    """Start the workers of one replica.

    Args:
        name: of the replica, for messages.
        stages: for each stage what its shards load, in the order of their ranks.
        fabric: makes the workers.
        generation: of the links.
        previous: see `PipelineExecutor`.
        on_progress: likewise.
    """
    places = [[Place(label=f"{name} {_label(load)}", load=load, machine=None) for load in loads] for loads in stages]
    return PipelineExecutor(
        places, fabric, BatchTraffic(stages), generation, previous=previous, on_progress=on_progress
    )


def graph_factories(
    graph: GraphFile,
    replicas: Sequence[GraphReplicaPlan],
    fabric: Fabric | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[GraphFactory]:
    """One a replica; `fabric`: None makes child processes on this machine."""
    fabric = fabric or LocalFabric()
    return [
        GraphFactory(graph.path, replica, index, fabric, graph.files, on_progress)
        for index, replica in enumerate(replicas)
    ]


def _label(load: LoadGraph) -> str:
    return f"stage {load.stage_index}" + (f" shard {load.rank}" if load.num_shards > 1 else "")
