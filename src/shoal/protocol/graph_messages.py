"""What the head and the workers of an ONNX graph say to each other.

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
    """of the stage's shards; one entry where it is not split further"""
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
    """Head to every worker: run your stage once. Beside it: the graph inputs that this stage takes."""

    batch_id: int
    generation: Generation
    limit_s: float | None = None
    """when to give it up and answer with an error; None: never"""


class StageBatch(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=22):
    """Stage to stage, one shard of each. Beside it: the tensors that this stage produces for that one; none where
    `error` is set."""

    batch_id: int
    generation: Generation
    error: str | None = None


class BatchDone(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=23):
    """Every worker to the head. Beside it, from the first shard of a stage: the graph outputs that this stage produces;
    none where `error` is set."""

    batch_id: int
    generation: Generation
    compute_s: float
    error: str | None = None


class Release(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=24):
    """Receiver to sender: the tensors that came with this token are no longer needed."""

    token: int


TensorMessage = RunBatch | StageBatch | BatchDone | Release


class TensorRef(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One tensor, and where it lies in the shared memory of its sender."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """-1: its bytes are in the envelope"""
    num_bytes: int


class Envelope(msgspec.Struct, frozen=True, kw_only=True, array_like=True, tag=25):
    """A message and the tensors beside it: one frame."""

    message: TensorMessage
    tensors: tuple[TensorRef, ...] = ()
    token: int = -1
    """names the memory of these tensors when it is given back; -1 where there are none"""
    releases: tuple[int, ...] = ()
    """tokens of frames from the other side whose tensors this side has finished with"""
    data: tuple[bytes, ...] = ()
    """the tensors themselves, one each, where the two sides share no memory"""

    @property
    def generation(self) -> Generation | None:
        """The message's; None where it has none."""
        return None if isinstance(self.message, Release) else self.message.generation
