"""A graph worker's life: load a stage, then batch after batch until the head says goodbye or is gone.

Batches come from the head in the same order to every worker of a replica, and tensors come from every predecessor in
that order too, so one thread that takes one of each in turn needs no queue and no matching. A batch that a stage cannot
compute goes on through the pipeline as an error in the place of tensors.

The shards of a stage take the same tensors and end with the same outputs: each hands them to those shards of later
stages that it feeds, the first answers the head.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from shoal.comm.groups.shm_group import SharedMemoryGroup
from shoal.comm.groups.switch import measure_switch
from shoal.comm.links.tensor_link import Received, TensorLink
from shoal.core.plan.graph import HEAD
from shoal.core.plan.graph_wire import stage_inputs, stage_outputs
from shoal.errors import RemoteProtocolError, RequestError, WorkerLost
from shoal.model.file_states import file_states, unchanged
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.stage.cuts import StageInterface
from shoal.model.graph.stage.session import GraphStage
from shoal.model.graph.stage.shard_session import GraphShard, ShardSegments
from shoal.model.graph.tensor_parallel.shard_model import shard_model
from shoal.model.runtime_sessions import share_pool
from shoal.protocol.graph_messages import GRAPH_PROTOCOL_VERSION, BatchDone, LoadGraph, RunBatch, StageBatch
from shoal.protocol.messages import Shutdown, StageFailed, StageLoaded
from shoal.protocol.tensor_codec import Array

_IDLE_WAIT_S = 30.0
_SEND_TIMEOUT_S = 30.0
_PEER_TIMEOUT_S = 600.0
"""How long a predecessor, or another shard of the stage, may take for one batch before it counts as lost; one that dies
is noticed at once."""


class Computation(Protocol):
    """A stage, or one shard of it together with the others."""

    def run(self, tensors: Mapping[str, Array], limit_s: float | None = None) -> dict[str, Array]:
        """The stage's outputs. Raises InvalidRequest; DeadlineExceeded where it takes longer than `limit_s`."""
        ...


class GraphWorker:
    """Obeys the head over `control`; tensors come from and go to other stages."""

    def __init__(
        self,
        control: TensorLink,
        sources: Mapping[int, TensorLink],
        consumers: Sequence[tuple[int, TensorLink]],
        group_fd: int | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            control: to the head.
            sources: one shard of each stage that tensors come from, by stage.
            consumers: shards that tensors go to, each with its stage.
            group_fd: memory of the group of shards that this worker belongs to; None where it is a whole stage.
        """
        self._control = control
        self._sources = sources
        self._consumers = consumers
        self._group_fd = group_fd

    def run(self) -> None:
        """Until Shutdown. Raises WorkerLost when the head or a predecessor is gone."""
        load = self._next().message
        if not isinstance(load, LoadGraph):
            raise RemoteProtocolError(f"expected LoadGraph first, got {type(load).__name__}")
        group = self._join_group(load)
        try:
            self._serve(load, self._load(load, group))
        except Exception as error:  # the outermost loop: whatever it is, the head is to hear of it
            name = type(error).__name__
            failed = StageFailed(generation=load.generation, error=name, message=str(error) or name)
            self._control.send(failed, timeout_s=_SEND_TIMEOUT_S)
            raise
        finally:
            if group is not None:
                group.close()

    def _join_group(self, load: LoadGraph) -> SharedMemoryGroup | None:
        if load.num_shards == 1:
            return None
        if self._group_fd is None:
            raise RemoteProtocolError("one of several shards was started without its group")
        return SharedMemoryGroup(self._group_fd, rank=load.rank, size=load.num_shards, generation=load.generation)

    def _load(self, load: LoadGraph, group: SharedMemoryGroup | None) -> Computation:
        if load.version != GRAPH_PROTOCOL_VERSION:
            raise RemoteProtocolError(f"head speaks protocol {load.version}, this worker {GRAPH_PROTOCOL_VERSION}")
        if load.cores:
            os.sched_setaffinity(0, load.cores)
        started_s = time.perf_counter()
        interface = StageInterface(
            first_node=load.first_node,
            last_node=load.last_node,
            inputs=stage_inputs(load),
            outputs=stage_outputs(load),
        )
        folder = Path(load.model_path).parent
        with unchanged(load.files, lambda: file_states(folder, [file.name for file in load.files])):
            computation, weight_bytes = _open(load, interface, group)
        load_s = time.perf_counter() - started_s
        loaded = StageLoaded(weight_bytes=weight_bytes, load_s=load_s)
        self._control.send(loaded, timeout_s=_SEND_TIMEOUT_S)
        return computation

    def _serve(self, load: LoadGraph, stage: Computation) -> None:
        while True:
            received = self._next()
            match received.message:
                case RunBatch():
                    self._run_batch(load, stage, received.message, received)
                case Shutdown():
                    return
                case message:
                    raise RemoteProtocolError(f"a running worker takes no {type(message).__name__}")

    def _run_batch(self, load: LoadGraph, stage: Computation, batch: RunBatch, from_head: Received) -> None:
        arrived = {source: self._receive_from(source, batch) for source in sorted(self._sources)}
        tensors = dict(from_head.tensors)
        error: str | None = None
        for received in arrived.values():
            tensors |= received.tensors
            message = received.message
            error = error or (message.error if isinstance(message, StageBatch) else None)
        started_s = time.perf_counter()
        outputs: dict[str, Array] = {}
        if error is None:
            try:
                outputs = stage.run(tensors, batch.limit_s)
            except RequestError as refusal:
                error = str(refusal)
        compute_s = time.perf_counter() - started_s
        ids = {"batch_id": batch.batch_id, "generation": batch.generation}
        for consumer, link in self._consumers:
            link.collect_releases()
            own = _tensors_for(consumer, load, outputs)
            link.send(StageBatch(**ids, error=error), own, timeout_s=_SEND_TIMEOUT_S)
        self._control.release(from_head)
        answer = _tensors_for(HEAD, load, outputs) if load.rank == 0 else None
        done = BatchDone(**ids, compute_s=compute_s, error=error)
        self._control.send(done, answer, timeout_s=_SEND_TIMEOUT_S)
        for source, received in arrived.items():
            self._sources[source].release(received)
            self._sources[source].flush_releases(timeout_s=_SEND_TIMEOUT_S)

    def _receive_from(self, source: int, batch: RunBatch) -> Received:
        """The tensors of this very batch."""
        received = self._sources[source].receive(timeout_s=_PEER_TIMEOUT_S)
        if received is None:
            raise WorkerLost(f"no tensors from stage {source} within {_PEER_TIMEOUT_S:.0f} s")
        match received.message:
            case StageBatch(batch_id=batch_id, generation=generation) if (batch_id, generation) == (
                batch.batch_id,
                batch.generation,
            ):
                return received
            case message:
                raise RemoteProtocolError(f"stage {source} sent {message!r} for batch {batch.batch_id}")

    def _next(self) -> Received:
        while (received := self._control.receive(timeout_s=_IDLE_WAIT_S)) is None:
            pass
        return received


def _open(load: LoadGraph, interface: StageInterface, group: SharedMemoryGroup | None) -> tuple[Computation, int]:
    """The stage, or this worker's shard of it, and the bytes of its weights."""
    graph = open_graph(Path(load.model_path))
    if group is None:
        stage = GraphStage(graph, interface, threads=load.threads)
        return stage, stage.weight_bytes
    share_pool(load.threads)
    model = shard_model(graph, interface, load.shares, load.rank).model
    segments = ShardSegments(model, interface.inputs, interface.outputs, folder=graph.folder, threads=load.threads)
    measure_switch(group, timeout_s=_PEER_TIMEOUT_S)
    return GraphShard(segments, group, timeout_s=_PEER_TIMEOUT_S), segments.weight_bytes


def _tensors_for(peer: int, load: LoadGraph, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that a stage, or the head, takes; none after an error."""
    return {one.type.name: outputs[one.type.name] for one in load.outputs if outputs and peer in one.peers}
