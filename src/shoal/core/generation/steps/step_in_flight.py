"""What a scheduler keeps of a step until its result arrives."""

from __future__ import annotations

import msgspec

from shoal.core.sequences.sequence import Sequence


class SequenceChunk(msgspec.Struct, frozen=True):
    """Consecutive rows of one sequence within a step."""

    sequence: Sequence
    start: int
    end: int
    """First row of the sequence after the chunk."""
    num_samples: int


class StepInFlight:
    """The record of a step, kept until its result arrives."""

    __slots__ = ("chunks", "num_attention_bytes", "num_prefill", "num_samples")

    def __init__(
        self, chunks: list[SequenceChunk], *, num_prefill: int, num_samples: int, num_attention_bytes: int
    ) -> None:
        self.chunks = chunks
        self.num_attention_bytes = num_attention_bytes
        self.num_prefill = num_prefill
        self.num_samples = num_samples
