"""Messages between the head and the workers of an ONNX graph.

Tensors travel beside these messages, in an `Envelope`. Like steps, batches go to every worker of a replica at once and
workers keep nothing between them.
"""

from __future__ import annotations

import msgspec

from shoal.protocol.stage_interface import HEAD, StageInterface
from shoal.protocol.worker_messages import Generation, WorkerLoad


class LoadGraph(WorkerLoad, frozen=True, kw_only=True, array_like=True, tag=20):
    """The first message to a worker of a graph: what to load and where its tensors come from and go to."""

    stage: StageInterface
    shares: tuple[int, ...]
    """The relative shares of the stage's shards; one entry if it is not split further."""
    threads: int

    @property
    def num_shards(self) -> int:
        """Workers of this stage."""
        return len(self.shares)

    @property
    def sources(self) -> tuple[int, ...]:
        """Stages that feed this one, ascending."""
        return tuple(sorted({one.source for one in self.stage.inputs} - {HEAD}))


class RunBatch(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=21):
    """Head to every worker: run the stage once. Tensors: the graph inputs that the stage takes."""

    batch_id: int
    generation: Generation
    limit_s: float | None = None
    """Seconds after which the worker gives up and answers with an error; None: never."""


class StageBatch(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=22):
    """Stage to stage, from one shard to another. Tensors: what the stage produces for the other; none with `error`."""

    batch_id: int
    generation: Generation
    error: str | None = None


class BatchDone(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=23):
    """Every worker to the head. Tensors, from the first shard of a stage: the graph outputs that the stage produces;
    none with `error`."""

    batch_id: int
    generation: Generation
    compute_s: float
    error: str | None = None


class Release(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=24):
    """Receiver to sender: the tensors that were sent with this token are no longer needed."""

    token: int


TensorMessage = RunBatch | StageBatch | BatchDone | Release


class TensorRef(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A tensor and its place in the shared memory of its sender."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """The offset in bytes; -1: its bytes are in the envelope."""
    num_bytes: int


class Envelope(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=25):
    """A message with its tensors: one frame."""

    message: TensorMessage
    tensors: tuple[TensorRef, ...] = ()
    token: int = -1
    """The token with which the memory of these tensors is released; -1: there is none."""
    releases: tuple[int, ...] = ()
    """Tokens of frames from the other side whose tensors this side no longer needs."""
    data: tuple[bytes, ...] = ()
    """The bytes of each tensor, if the two sides share no memory."""

    @property
    def generation(self) -> Generation | None:
        """The generation of the message; None if it has none."""
        return None if isinstance(self.message, Release) else self.message.generation
