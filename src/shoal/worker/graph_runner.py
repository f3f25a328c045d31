"""What a worker of an ONNX graph computes: one stage, or a shard of it, batch after batch.

If a stage cannot compute a batch, an error travels on through the pipeline instead of tensors. The shards of a stage
take the same tensors and end with the same outputs: each sends them to the shards of later stages that it feeds, and
the first one answers the head.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shoal.arrays import Array
from shoal.comm.groups.switch import SwitchedGroup, measure_switch
from shoal.comm.links.link import Link
from shoal.comm.links.tensor_link import Received, TensorLink
from shoal.comm.links.tensor_port import TensorPort
from shoal.errors import RemoteProtocolError, RequestError, WorkerLost
from shoal.model.file_states import file_states, unchanged
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.stage.session import GraphStage
from shoal.model.graph.stage.shard_session import GraphShard, ShardSegments
from shoal.model.graph.tensor_parallel.shard_model import shard_model
from shoal.model.runtime_sessions import share_pool
from shoal.protocol.graph_messages import BatchDone, Envelope, LoadGraph, RunBatch, StageBatch
from shoal.protocol.stage_interface import HEAD
from shoal.protocol.worker_messages import Wire
from shoal.worker.links import Connector, StageLinks
from shoal.worker.runner import OnProgress, Work

_SEND_TIMEOUT_S = 600.0
_JOIN_TIMEOUT_S = 60.0
"""Time for measuring a group, whose ranks have all loaded."""
_PEER_TIMEOUT_S = 600.0
"""How long a predecessor, or another shard of the stage, may take for one batch before it counts as lost. The head
decides which worker hangs; this bounds the wait if the head itself hangs."""


class Computation(Protocol):
    """A stage, or one shard of it together with the others."""

    def run(self, tensors: Mapping[str, Array], limit_s: float | None = None) -> dict[str, Array]:
        """The stage's outputs. Raises InvalidRequest; DeadlineExceeded if the run takes longer than `limit_s`."""
        ...


class GraphRunner:
    """Implements `worker.runner.Runner`."""

    def __init__(self, load: LoadGraph, control: Link, on_progress: OnProgress) -> None:
        """Load the stage.

        Args:
            load: what to load.
            control: to the head, for results.
            on_progress: called after loading, which counts as one piece.

        Raises:
            ModelLoadError, ConfigError, CapacityError: the stage cannot be loaded.
        """
        self._load = load
        self._control = control
        self._links: StageLinks[TensorLink] = StageLinks()
        self._port: TensorPort | None = None
        """Exchanges tensors between the head and this worker; None before the first wiring."""
        folder = Path(load.model_path).parent
        with unchanged(load.files, lambda: file_states(folder, [file.name for file in load.files])):
            self._part, self.weight_bytes = _open(load)
        self._computation: Computation | None = self._part if isinstance(self._part, GraphStage) else None
        on_progress(1, 1)

    @property
    def note(self) -> str | None:
        """See `Runner.note`."""
        return self._part.note

    def join(self, wire: Wire, connector: Connector) -> float:
        """See `Runner.join`."""
        self._links, self._port = connector.connect_tensors(wire, self._load)
        if isinstance(self._part, ShardSegments):
            self._computation = _joined(self._part, self._links.group)
        return 0.0

    def check(self, work: Work) -> None:
        """See `Runner.check`."""
        if not isinstance(work, Envelope) or not isinstance(work.message, RunBatch):
            what = type(work.message if isinstance(work, Envelope) else work).__name__
            raise RemoteProtocolError(f"a stage of a graph takes no {what}")

    def run(self, work: Work) -> None:
        """See `Runner.run`."""
        assert isinstance(work, Envelope)
        assert self._port is not None
        from_head = self._port.unpack(work)
        assert from_head is not None
        assert isinstance(from_head.message, RunBatch)
        self._run_batch(self._port, from_head.message, from_head)

    def leave(self) -> None:
        """See `Runner.leave`."""
        self._links.close()
        self._links = StageLinks()

    def _run_batch(self, port: TensorPort, batch: RunBatch, from_head: Received) -> None:
        assert self._computation is not None
        sources, load = self._links.sources, self._load
        arrived = {source: _receive_from(source, sources[source], batch) for source in sorted(sources)}
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
                outputs = self._computation.run(tensors, batch.limit_s)
            except RequestError as refusal:
                error = str(refusal)
        compute_s = time.perf_counter() - started_s
        ids = {"batch_id": batch.batch_id, "generation": batch.generation}
        for consumer, link in self._links.consumers:
            link.collect_releases()
            own = _tensors_for(consumer, load, outputs)
            link.send(StageBatch(**ids, error=error), own, timeout_s=_SEND_TIMEOUT_S)
        port.release(from_head)
        answer = _tensors_for(HEAD, load, outputs) if load.rank == 0 else None
        done = BatchDone(**ids, compute_s=compute_s, error=error)
        self._control.send([port.pack(done, answer)], timeout_s=_SEND_TIMEOUT_S)
        for source, received in arrived.items():
            sources[source].release(received)
            sources[source].flush_releases(timeout_s=_SEND_TIMEOUT_S)


def _receive_from(source: int, link: TensorLink, batch: RunBatch) -> Received:
    """The tensors of exactly this batch."""
    received = link.receive(timeout_s=_PEER_TIMEOUT_S)
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


def _open(load: LoadGraph) -> tuple[GraphStage | ShardSegments, int]:
    """The stage, or this worker's shard of it, and the bytes of its weights."""
    graph = open_graph(Path(load.model_path))
    if load.num_shards == 1:
        stage = GraphStage(graph, load.stage, threads=load.threads, device=load.device)
        return stage, stage.weight_bytes
    if load.device is None:
        share_pool(load.threads)
    model = shard_model(graph, load.stage, load.shares, load.rank).model
    segments = ShardSegments(
        model,
        load.stage.inputs,
        load.stage.outputs,
        folder=graph.folder,
        threads=load.threads,
        device=load.device,
    )
    return segments, segments.weight_bytes


def _joined(segments: ShardSegments, group: SwitchedGroup | None) -> GraphShard:
    if group is None:
        raise RemoteProtocolError("one of several shards was wired without its group")
    measure_switch(group, timeout_s=_JOIN_TIMEOUT_S)
    return GraphShard(segments, group, timeout_s=_PEER_TIMEOUT_S)


def _tensors_for(peer: int, load: LoadGraph, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs that a stage or the head takes; empty after an error."""
    return {one.spec.name: outputs[one.spec.name] for one in load.stage.outputs if outputs and peer in one.consumers}
