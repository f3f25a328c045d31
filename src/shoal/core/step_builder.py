"""Packs rows of several sequences into one step's flat batch."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from shoal.core.sequence import Sequence
from shoal.protocol.messages import Generation, SampleRow, Step, StepId


class Chunk(NamedTuple):
    """Consecutive rows of one sequence within a step."""

    sequence: Sequence
    end: int
    """first row of the sequence after the chunk"""
    num_samples: int


class StepInFlight:
    """What has to be remembered of a step until its result comes."""

    __slots__ = ("chunks", "num_prefill", "num_samples")

    def __init__(self, chunks: list[Chunk], *, num_prefill: int, num_samples: int) -> None:
        self.chunks = chunks
        self.num_prefill = num_prefill
        self.num_samples = num_samples


class StepBuilder:
    """One step under construction. Arrays are int32; the machines Shoal runs on are little-endian, as the wire is."""

    __slots__ = ("_chunks", "_context_lens", "_positions", "_query_starts", "_samples", "_token_ids", "num_prefill")

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._token_ids = array("i")
        self._positions = array("i")
        self._query_starts = array("i", (0,))
        self._context_lens = array("i")
        self._samples: list[SampleRow] = []
        self.num_prefill = 0

    @property
    def num_tokens(self) -> int:
        return len(self._token_ids)

    def add_decode(self, sequence: Sequence) -> None:
        """Append the one row of a decoding sequence. Mutates: its scheduled rows."""
        self._add(sequence, sequence.num_scheduled + 1)

    def add_prefill(self, sequence: Sequence, num_rows: int) -> None:
        """Append the next `num_rows` rows of a prompt. Mutates: its scheduled rows."""
        self._add(sequence, sequence.num_scheduled + num_rows)
        self.num_prefill += num_rows

    def build(self, step_id: StepId, generation: Generation) -> tuple[Step, StepInFlight]:
        """The step to send and the record to keep."""
        step = Step(
            step_id=step_id,
            generation=generation,
            token_ids=self._token_ids.tobytes(),
            positions=self._positions.tobytes(),
            query_starts=self._query_starts.tobytes(),
            context_lens=self._context_lens.tobytes(),
            block_tables=self._pack_block_tables(),
            samples=tuple(self._samples),
        )
        return step, StepInFlight(self._chunks, num_prefill=self.num_prefill, num_samples=len(self._samples))

    def _add(self, sequence: Sequence, end: int) -> None:
        start = sequence.num_scheduled
        self._token_ids.extend(sequence.token_ids[start:end])
        self._positions.extend(range(start, end))
        self._query_starts.append(len(self._token_ids))
        self._context_lens.append(end)
        first_sampled = max(start, sequence.first_sampled_row)
        for row in range(first_sampled, end):
            self._add_sample(sequence, row, row_in_step=len(self._token_ids) - end + row)
        self._chunks.append(Chunk(sequence, end, max(0, end - first_sampled)))
        sequence.num_scheduled = end
        sequence.num_in_flight += 1

    def _add_sample(self, sequence: Sequence, row: int, *, row_in_step: int) -> None:
        request, num_prompt = sequence.request, sequence.num_prompt
        token_index = row - num_prompt + 1
        history = b""
        if request.sampling.needs_history:
            history = sequence.token_ids[num_prompt : num_prompt + token_index].tobytes()
        self._samples.append(
            SampleRow(
                row=row_in_step,
                token_index=token_index,
                sampling=request.sampling,
                history=history,
                target=request.targets[token_index] if request.targets else None,
                want_logits=request.want_logits,
            )
        )

    def _pack_block_tables(self) -> bytes:
        """int32 [B, M], M the longest table of this step."""
        tables = [chunk.sequence.block_table for chunk in self._chunks]
        width = max(map(len, tables))
        packed = array("i", (-1,)) * (len(tables) * width)
        for i, table in enumerate(tables):
            packed[i * width : i * width + len(table)] = array("i", table)
        return packed.tobytes()
