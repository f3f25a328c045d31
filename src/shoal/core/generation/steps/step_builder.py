"""Packs rows of several sequences into one step's flat batch."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from shoal.core.generation.steps.step_work import GuidedRow, StepWork
from shoal.core.kv.memory_slots import MemorySlots
from shoal.core.kv.state_cache import ChunkStates, StateCache
from shoal.core.sequences.pictures import plain_turns
from shoal.core.sequences.request import NO_ADAPTER
from shoal.core.sequences.sequence import Sequence
from shoal.protocol.language_messages import Alignment, Encoding, PictureRows, SampleRow, Step, StepId
from shoal.protocol.worker_messages import Generation


class SequenceChunk(NamedTuple):
    """Consecutive rows of one sequence within a step."""

    sequence: Sequence
    start: int
    end: int
    """First row of the sequence after the chunk."""
    num_samples: int


class StepInFlight:
    """The record of a step that is kept until its result comes."""

    __slots__ = ("chunks", "num_attention_bytes", "num_prefill", "num_samples")

    def __init__(
        self, chunks: list[SequenceChunk], *, num_prefill: int, num_samples: int, num_attention_bytes: int
    ) -> None:
        self.chunks = chunks
        self.num_attention_bytes = num_attention_bytes
        self.num_prefill = num_prefill
        self.num_samples = num_samples


class StepBuilder:
    """One step under construction. Arrays are int32; the machines Shoal runs on are little-endian, as the wire is."""

    __slots__ = (
        "_chunk_states",
        "_chunks",
        "_copies",
        "_encodings",
        "_guided",
        "_memories",
        "_samples",
        "_states",
        "num_prefill",
        "num_tokens",
    )

    def __init__(self, states: StateCache | None = None, memories: MemorySlots | None = None) -> None:
        """`states`: of recurrent layers; None: the model has none. `memories`: of an encoder; the same."""
        self._states, self._memories = states, memories
        self._encodings: list[Encoding] = []
        self._chunk_states: list[ChunkStates] = []
        self._chunks: list[SequenceChunk] = []
        self._copies = array("i")
        self._samples: list[SampleRow] = []
        self._guided: list[GuidedRow] = []
        self.num_tokens = 0
        self.num_prefill = 0

    @property
    def is_laden(self) -> bool:
        """Whether the step encodes a clip, or tells of attention over one: more than one of those is too long."""
        return bool(self._encodings) or any(chunk.sequence.request.attention for chunk in self._chunks)

    def add_decode(self, sequence: Sequence) -> None:
        """Append the one row of a decoding sequence. Mutates: its scheduled rows."""
        self._add(sequence, 1)

    def add_prefill(self, sequence: Sequence, num_rows: int) -> None:
        """Append the next `num_rows` known rows of a sequence. Mutates: its scheduled rows."""
        self._add(sequence, num_rows)
        self.num_prefill += num_rows

    def build(self, step_id: StepId, generation: Generation) -> tuple[StepWork, StepInFlight]:
        """The step to send and the record to keep."""
        adapters = self._sort_by_adapter()
        chunks = self._chunks
        token_ids, positions = array("i"), array("i")
        query_starts, context_lens = array("i", (0,)), array("i")
        for chunk in chunks:
            self._add_samples(chunk, row_of_start=len(token_ids))
            token_ids.extend(chunk.sequence.token_ids[chunk.start : chunk.end])
            positions.extend(range(chunk.start, chunk.end))
            query_starts.append(len(token_ids))
            context_lens.append(chunk.end)
        step = Step(
            step_id=step_id,
            generation=generation,
            token_ids=token_ids.tobytes(),
            positions=positions.tobytes(),
            query_starts=query_starts.tobytes(),
            context_lens=context_lens.tobytes(),
            block_tables=_pack_block_tables(chunks),
            block_copies=self._copies.tobytes(),
            samples=tuple(self._samples),
            state_slots=array("i", [slot for one in self._chunk_states for slot in (one.read, one.slot)]).tobytes(),
            state_saves=_pack_saves(self._chunk_states),
            memory_slots=self._memory_slots(),
            encodings=tuple(self._encodings),
            adapters=adapters,
            alignment=_alignment(chunks),
            pictures=_pictures(chunks),
            turns=_turns(chunks),
            ends_seen=_ends_seen(chunks),
        )
        in_flight = StepInFlight(
            chunks,
            num_prefill=self.num_prefill,
            num_samples=len(self._samples),
            num_attention_bytes=step.alignment.num_bytes if step.alignment else 0,
        )
        return StepWork(step=step, guided=tuple(self._guided)), in_flight

    def _sort_by_adapter(self) -> bytes:
        """int32 [B], or nothing where no sequence has one. Rows of one adapter are computed together."""
        if all(chunk.sequence.request.adapter == NO_ADAPTER for chunk in self._chunks):
            return b""
        order = sorted(range(len(self._chunks)), key=lambda i: self._chunks[i].sequence.request.adapter)
        self._chunks = [self._chunks[i] for i in order]
        if self._states is not None:
            self._chunk_states = [self._chunk_states[i] for i in order]
        return array("i", [chunk.sequence.request.adapter for chunk in self._chunks]).tobytes()

    def _add(self, sequence: Sequence, num_rows: int) -> None:
        start = sequence.num_scheduled
        end = start + num_rows
        num_samples = max(0, end - max(start, sequence.first_sampled_row))
        self._chunks.append(SequenceChunk(sequence, start, end, num_samples))
        if self._states is not None:
            self._chunk_states.append(self._states.schedule(sequence, start, end))
        if sequence.block_copy is not None:
            self._copies.extend(sequence.block_copy)
            sequence.block_copy = None
        clip = sequence.request.clip
        if self._memories is not None and clip is not None and self._memories.encode_once(clip.key):
            encoding = Encoding(slot=sequence.memory_slot, num_rows=clip.num_rows, features=clip.features)
            self._encodings.append(encoding)
        sequence.num_scheduled = end
        sequence.num_in_flight += 1
        self.num_tokens += num_rows

    def _memory_slots(self) -> bytes:
        if self._memories is None:
            return b""
        return array("i", [chunk.sequence.memory_slot for chunk in self._chunks]).tobytes()

    def _add_samples(self, chunk: SequenceChunk, *, row_of_start: int) -> None:
        for row in range(chunk.end - chunk.num_samples, chunk.end):
            self._add_sample(chunk.sequence, row, row_in_step=row_of_start + row - chunk.start)

    def _add_sample(self, sequence: Sequence, row: int, *, row_in_step: int) -> None:
        request, num_prompt = sequence.request, sequence.num_prompt
        token_index = row - num_prompt + 1
        history = b""
        if request.sampling.needs_history or request.guide is not None:
            outputs = sequence.token_ids[num_prompt : num_prompt + token_index]
            history = outputs.tobytes() if request.sampling.needs_history else b""
            if request.guide is not None:
                self._guided.append(GuidedRow(request.guide, outputs))
        self._samples.append(
            SampleRow(
                row=row_in_step,
                token_index=token_index,
                sampling=request.sampling,
                history=history,
                repeated=_repeated(sequence, row + 1) if request.sampling.repetition_penalty != 1.0 else b"",
                forbidden=tuple(sorted(request.stop_token_ids)) if token_index < request.min_tokens else (),
                is_guided=request.guide is not None,
                target=request.targets[token_index] if request.targets else None,
                want_logits=request.want_logits,
                want_hidden=request.want_hidden,
            )
        )


def _alignment(chunks: list[SequenceChunk]) -> Alignment | None:
    """Of the one chunk, at most, whose request wants it."""
    first_row = 0
    for chunk in chunks:
        attention, num_rows = chunk.sequence.request.attention, chunk.end - chunk.start
        if attention is not None:
            return Alignment(
                first_row=first_row,
                num_rows=num_rows,
                slot=chunk.sequence.memory_slot,
                num_positions=attention.num_positions,
                heads=attention.heads,
            )
        first_row += num_rows
    return None


def _pictures(chunks: list[SequenceChunk]) -> tuple[PictureRows, ...]:
    """Rows of the step that have vectors of their own."""
    found: list[PictureRows] = []
    row_in_step = 0
    for chunk in chunks:
        pictures = chunk.sequence.request.pictures
        for span in () if pictures is None else pictures.spans_within(chunk.start, chunk.end):
            row = row_in_step + span.first_row - chunk.start
            found.append(PictureRows(first_row=row, num_rows=span.num_rows, vectors=span.vectors))
        row_in_step += chunk.end - chunk.start
    return tuple(found)


def _turns(chunks: list[SequenceChunk]) -> bytes:
    """int32 [T, 3], or nothing where every row turns by its own position."""
    shown = [chunk.sequence.request.pictures for chunk in chunks]
    if not any(one is not None and one.turns is not None for one in shown):
        return b""
    return b"".join(
        (plain_turns(chunk.start, chunk.end) if one is None else one.turns_of(chunk.start, chunk.end)).tobytes()
        for chunk, one in zip(chunks, shown, strict=True)
    )


def _ends_seen(chunks: list[SequenceChunk]) -> bytes:
    """int32 [T], or nothing where no row sees what is behind it."""
    shown = [chunk.sequence.request.pictures for chunk in chunks]
    if not any(
        one is not None and one.sees_whole and one.keys_within(chunk.start, chunk.end)
        for chunk, one in zip(chunks, shown, strict=True)
    ):
        return b""
    return b"".join(
        (
            array("i", range(chunk.start + 1, chunk.end + 1)) if one is None else one.ends_of(chunk.start, chunk.end)
        ).tobytes()
        for chunk, one in zip(chunks, shown, strict=True)
    )


def _repeated(sequence: Sequence, num_tokens: int) -> bytes:
    """The distinct tokens, int32, among the latest of the sequence's first `num_tokens`."""
    window = sequence.request.sampling.repetition_window
    first = max(0, num_tokens - window) if window else 0
    return array("i", sorted(set(sequence.token_ids[first:num_tokens]))).tobytes()


def _pack_block_tables(chunks: list[SequenceChunk]) -> bytes:
    """int32 [B, M], M the longest table of this step."""
    tables = [chunk.sequence.block_table for chunk in chunks]
    width = max(map(len, tables))
    packed = array("i", (-1,)) * (len(tables) * width)
    for i, table in enumerate(tables):
        packed[i * width : i * width + len(table)] = array("i", table)
    return packed.tobytes()


def _pack_saves(states: list[ChunkStates]) -> bytes:
    """int32 [S, 3]"""
    saves = ((index, rows, slot) for index, one in enumerate(states) for rows, slot in one.saves)
    return array("i", [number for save in saves for number in save]).tobytes()
