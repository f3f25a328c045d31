"""The factory of a planned replica of an ONNX graph, which starts its workers at first and after every loss."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from shoal.core.batching.events import BatchLimits
from shoal.core.plan.graph import GraphReplicaPlan
from shoal.executor.graph_without import replica_without
from shoal.executor.launcher import Place, WorkerLauncher, place_of, replica_elsewhere
from shoal.executor.load_message import graph_load_message
from shoal.executor.local_launcher import LocalLauncher
from shoal.executor.pipeline_executor import PipelineExecutor
from shoal.executor.traffic import BatchTraffic, BatchTrial
from shoal.model.file_states import file_states, unchanged
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.protocol.graph_messages import LoadGraph
from shoal.protocol.worker_messages import FileState, Generation
from shoal.router.graph_executor import Batch, BatchResult, GraphExecutor

_logger = logging.getLogger("shoal.launch")

BatchPipeline = PipelineExecutor[Batch, BatchResult]


class GraphFactory:
    """Starts the workers of one replica; after a loss, only the lost ones.

    Implements `router.executor.ReplicaFactory`.
    """

    def __init__(
        self,
        path: Path,
        replica: GraphReplicaPlan,
        index: int,
        launcher: WorkerLauncher,
        files: tuple[FileState, ...] = (),
        on_progress: Callable[[int], None] | None = None,
        trial: BatchTrial | None = None,
    ) -> None:
        """Prepare starts.

        Args:
            path: the path of the graph's file, which must exist at every start.
            replica: the planned replica.
            index: the index of the replica.
            launcher: makes the workers.
            files: the states of the graph's files when it was opened.
            on_progress: called with a number of workers that have loaded.
            trial: the work that workers compute before they count as ready; None: none.
        """
        self._trial = trial
        self._files = files
        self._path = path
        self._replica = replica
        self._name = f"replica {index}"
        self._launcher = launcher
        self._on_progress = on_progress
        self._latest = replica

    @property
    def latest(self) -> GraphReplicaPlan:
        """The replica as it was last started: as planned, or without a worker. Readable from any thread."""
        return self._latest

    def start(
        self, generation: Generation, without: int | None, previous: GraphExecutor | None
    ) -> tuple[BatchLimits, BatchPipeline]:
        """See `ReplicaFactory.start`. A replica of one worker cannot run without it; it is started on another machine
        if possible, otherwise unchanged."""
        replica = self._replica if without is None else self._plan_without(without) or self._replica
        self._latest = replica
        survivors = previous if isinstance(previous, PipelineExecutor) else None
        executor = start_graph(
            self._places(replica),
            self._launcher,
            generation,
            previous=survivors,
            on_progress=self._on_progress,
            trial=self._trial,
        )
        return BatchLimits(num_stages=executor.num_stages), executor

    def _plan_without(self, worker: int) -> GraphReplicaPlan | None:
        """Plan the replica without a worker. Raises ModelLoadError, and ModelChanged if the file has changed."""
        with unchanged(self._files, lambda: file_states(self._path.parent, [file.name for file in self._files])):
            fewer = replica_without(open_graph(self._path), self._replica, worker)
        lost = [place.label for places in self._places(self._replica) for place in places][worker]
        if fewer is not None:
            _logger.info(
                f"{self._name} is planned anew with {len(fewer.shards)} of {len(self._replica.shards)} workers: "
                f"{lost} could not be started"
            )
            return fewer
        moved = replica_elsewhere(self._replica, self._launcher)
        if moved is not None:
            _logger.info(f"{self._name} continues on {moved.shards[0].machine}: {lost} could not be started")
        return moved

    def _places(self, replica: GraphReplicaPlan) -> list[list[Place]]:
        return [
            [self._place(replica, index, rank) for rank in range(len(stage.shards))]
            for index, stage in enumerate(replica.stages)
        ]

    def _place(self, replica: GraphReplicaPlan, index: int, rank: int) -> Place:
        shard = replica.stages[index].shards[rank]
        files = () if shard.machine else self._files
        load = graph_load_message(self._path, replica, index, rank, files=files)
        return place_of(shard, load, self._name)


def start_graph(
    places: Sequence[Sequence[Place]],
    launcher: WorkerLauncher,
    generation: Generation,
    *,
    previous: BatchPipeline | None = None,
    on_progress: Callable[[int], None] | None = None,
    trial: BatchTrial | None = None,
) -> BatchPipeline:
    """Start the workers of one replica.

    Args:
        places: the places of the shards of each stage, in the order of their ranks; they must load a graph.
        launcher: makes the workers.
        generation: the generation of the links.
        previous: see `PipelineExecutor`.
        on_progress: see `PipelineExecutor`.
        trial: see `PipelineExecutor`.
    """
    loads = [[cast(LoadGraph, place.load) for place in shards] for shards in places]
    traffic = BatchTraffic(loads)
    return PipelineExecutor(
        places, launcher, traffic, generation, previous=previous, on_progress=on_progress, trial=trial
    )


def graph_factories(
    graph: GraphFile,
    replicas: Sequence[GraphReplicaPlan],
    launcher: WorkerLauncher | None = None,
    on_progress: Callable[[int], None] | None = None,
    trial: BatchTrial | None = None,
) -> list[GraphFactory]:
    """Make one factory for each replica. `launcher`: None makes child processes on this machine. For the other
    arguments see `GraphFactory`."""
    launcher = launcher or LocalLauncher()
    return [
        GraphFactory(graph.path, replica, index, launcher, graph.files, on_progress, trial)
        for index, replica in enumerate(replicas)
    ]
