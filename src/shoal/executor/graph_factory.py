"""How the workers of a planned replica of an ONNX graph are started, the first time and after every loss."""

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
    """Workers that a launcher makes, after a loss only those that are gone.

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
        """Start nothing yet.

        Args:
            path: of the graph's file, which must be there at every start.
            replica: what its workers load.
            index: of the replica.
            launcher: makes the workers.
            files: the graph's, as they were when it was opened.
            on_progress: called with a number of workers as they have loaded.
            trial: what its workers compute before they count as ready; None: nothing.
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
        """The replica as it was last started: as it was planned, or without a worker. May be read from any thread."""
        return self._latest

    def start(
        self, generation: Generation, without: int | None, previous: GraphExecutor | None
    ) -> tuple[BatchLimits, BatchPipeline]:
        """See `ReplicaFactory.start`. A replica of one worker cannot do without it: it is started elsewhere, or as it
        is."""
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
        """Raises ModelLoadError; ModelChanged where the file is another by now."""
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
            _logger.info(f"{self._name} goes on on {moved.shards[0].machine}: {lost} could not be started")
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
        places: for each stage its shards, in the order of their ranks; what they load is a graph.
        launcher: makes the workers.
        generation: of the links.
        previous: see `PipelineExecutor`.
        on_progress: likewise.
        trial: likewise.
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
    """One a replica; `launcher`: None makes child processes on this machine. For the rest see `GraphFactory`."""
    launcher = launcher or LocalLauncher()
    return [
        GraphFactory(graph.path, replica, index, launcher, graph.files, on_progress, trial)
        for index, replica in enumerate(replicas)
    ]
