"""A graph worker's life: load a stage, then batch after batch until the head says goodbye or is gone.

Batches come from the head in the same order to every worker of a replica, and tensors come from every predecessor in
that order too, so one thread that takes one of each in turn needs no queue and no matching. A batch that a stage cannot
compute goes on through the pipeline as an error in the place of tensors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from shoal.comm.tensor_link import Received, TensorLink
from shoal.core.graph_plan import HEAD
from shoal.core.graph_wire import stage_inputs, stage_outputs
from shoal.errors import InvalidRequest, RemoteProtocolError, ShoalError, WorkerLost
from shoal.model.graph.cuts import StageInterface
from shoal.model.graph.graph_file import open_graph
from shoal.model.graph.session import GraphStage
from shoal.protocol.graph_messages import GRAPH_PROTOCOL_VERSION, BatchDone, LoadGraph, RunBatch, StageBatch
from shoal.protocol.messages import Shutdown, StageFailed, StageLoaded
from shoal.protocol.tensor_codec import Array

_IDLE_WAIT_S = 30.0
_SEND_TIMEOUT_S = 30.0
_PEER_TIMEOUT_S = 600.0
"""How long a predecessor may take for one batch before it counts as lost; one that dies is noticed at once."""


class GraphWorker:
    """Obeys the head over `control`; `peers` are the stages that tensors come from or go to, by index."""

    def __init__(self, control: TensorLink, peers: Mapping[int, TensorLink]) -> None:
        self._control = control
        self._peers = peers

    def run(self) -> None:
        """Until Shutdown. Raises WorkerLost when the head or a predecessor is gone."""
        load = self._next().message
        if not isinstance(load, LoadGraph):
            raise RemoteProtocolError(f"expected LoadGraph first, got {type(load).__name__}")
        try:
            self._serve(load, self._load(load))
        except (ShoalError, MemoryError) as error:
            name = type(error).__name__
            failed = StageFailed(generation=load.generation, error=name, message=str(error) or name)
            self._control.send(failed, timeout_s=_SEND_TIMEOUT_S)
            raise

    def _load(self, load: LoadGraph) -> GraphStage:
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
        stage = GraphStage(open_graph(Path(load.model_path)), interface, threads=load.threads)
        load_s = time.perf_counter() - started_s
        loaded = StageLoaded(generation=load.generation, weight_bytes=stage.weight_bytes, load_s=load_s)
        self._control.send(loaded, timeout_s=_SEND_TIMEOUT_S)
        return stage

    def _serve(self, load: LoadGraph, stage: GraphStage) -> None:
        while True:
            received = self._next()
            match received.message:
                case RunBatch():
                    self._run_batch(load, stage, received.message, received)
                case Shutdown():
                    return
                case message:
                    raise RemoteProtocolError(f"a running worker takes no {type(message).__name__}")

    def _run_batch(self, load: LoadGraph, stage: GraphStage, batch: RunBatch, from_head: Received) -> None:
        tensors, arrived = dict(from_head.tensors), {}
        error: str | None = None
        for source in sorted({one.peers[0] for one in load.inputs} - {HEAD}):
            arrived[source] = self._receive_from(source, batch)
            message = arrived[source].message
            error = error or (message.error if isinstance(message, StageBatch) else None)
            tensors |= arrived[source].tensors
        started_s = time.perf_counter()
        outputs: dict[str, Array] = {}
        if error is None:
            try:
                outputs = stage.run(tensors)
            except InvalidRequest as refusal:
                error = str(refusal)
        compute_s = time.perf_counter() - started_s
        ids = {"batch_id": batch.batch_id, "generation": batch.generation}
        for consumer in sorted({peer for one in load.outputs for peer in one.peers} - {HEAD}):
            link = self._peers[consumer]
            link.collect_releases()
            own = _tensors_for(consumer, load, outputs)
            link.send(StageBatch(**ids, error=error), own, timeout_s=_SEND_TIMEOUT_S)
        done = BatchDone(**ids, compute_s=compute_s, error=error)
        self._control.release(from_head)
        self._control.send(done, _tensors_for(HEAD, load, outputs), timeout_s=_SEND_TIMEOUT_S)
        for source, received in arrived.items():
            self._peers[source].release(received)
            self._peers[source].flush_releases(timeout_s=_SEND_TIMEOUT_S)

    def _receive_from(self, source: int, batch: RunBatch) -> Received:
        """The tensors of this very batch."""
        received = self._peers[source].receive(timeout_s=_PEER_TIMEOUT_S)
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


def _tensors_for(peer: int, load: LoadGraph, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that a stage, or the head, takes; none after an error."""
    return {one.type.name: outputs[one.type.name] for one in load.outputs if outputs and peer in one.peers}
