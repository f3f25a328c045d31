"""Building a step: the rows of several sequences are packed into one flat batch."""

from __future__ import annotations

from array import array

from shoal.core.generation.steps.step_in_flight import SequenceChunk, StepInFlight
from shoal.core.generation.steps.step_packing import (
    pack_alignment,
    pack_block_tables,
    pack_ends_seen,
    pack_pictures,
    pack_samples,
    pack_saves,
    pack_turns,
)
from shoal.core.generation.steps.step_work import GuidedRow, StepWork
from shoal.core.kv.memory_slots import MemorySlots
from shoal.core.kv.state_cache import ChunkStates, StateCache
from shoal.core.sequences.request import NO_ADAPTER
from shoal.core.sequences.sequence import Sequence
from shoal.core.speed.step_times import StepShape
from shoal.protocol.language_messages import Encoding, Step, StepId
from shoal.protocol.worker_messages import Generation


class StepBuilder:
    """One step under construction."""

    __slots__ = (
        "_chunk_states",
        "_chunks",
        "_copies",
        "_encodings",
        "_memories",
        "_packs",
        "_reports_attention",
        "_states",
        "num_prefill",
        "num_tokens",
    )

    def __init__(
        self, states: StateCache | None = None, memories: MemorySlots | None = None, *, packs: bool = True
    ) -> None:
        """`states`, `memories`: slots for recurrent states and for an encoder's outputs; None: the model has none.
        `packs`: see `SchedulerConfig.packs_steps`."""
        self._states, self._memories, self._packs = states, memories, packs
        self._encodings: list[Encoding] = []
        self._chunk_states: list[ChunkStates] = []
        self._chunks: list[SequenceChunk] = []
        self._copies = array("i")
        self._reports_attention = False
        self.num_tokens = 0
        self.num_prefill = 0

    @property
    def is_laden(self) -> bool:
        """Whether the step encodes a clip or reports attention over one; a second of those would make it too long."""
        return self._reports_attention or bool(self._encodings)

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
        shape = StepShape.of(
            [(chunk.end - chunk.start, chunk.end) for chunk in chunks],
            [encoding.num_rows for encoding in self._encodings],
        )
        num_samples = sum([chunk.num_samples for chunk in chunks])
        if self._packs:
            step, guided = self._pack(step_id, generation, adapters)
        else:
            step, guided = Step.without_contents(step_id, generation), ()
        in_flight = StepInFlight(
            chunks,
            num_prefill=self.num_prefill,
            num_samples=num_samples,
            num_attention_bytes=step.alignment.num_bytes if step.alignment else 0,
        )
        return StepWork(step=step, shape=shape, num_samples=num_samples, guided=guided), in_flight

    def _pack(self, step_id: StepId, generation: Generation, adapters: bytes) -> tuple[Step, tuple[GuidedRow, ...]]:
        """The step for the workers, and the guides of its guided rows."""
        chunks = self._chunks
        token_ids, positions = array("i"), array("i")
        query_starts, context_lens = array("i", (0,)), array("i")
        for chunk in chunks:
            token_ids.extend(chunk.sequence.token_ids[chunk.start : chunk.end])
            positions.extend(range(chunk.start, chunk.end))
            query_starts.append(len(token_ids))
            context_lens.append(chunk.end)
        samples, guided = pack_samples(chunks)
        step = Step(
            step_id=step_id,
            generation=generation,
            token_ids=token_ids.tobytes(),
            positions=positions.tobytes(),
            query_starts=query_starts.tobytes(),
            context_lens=context_lens.tobytes(),
            block_tables=pack_block_tables(chunks),
            block_copies=self._copies.tobytes(),
            samples=samples,
            state_slots=array("i", [slot for one in self._chunk_states for slot in (one.read, one.slot)]).tobytes(),
            state_saves=pack_saves(self._chunk_states),
            memory_slots=self._memory_slots(),
            encodings=tuple(self._encodings),
            adapters=adapters,
            alignment=pack_alignment(chunks),
            pictures=pack_pictures(chunks),
            turns=pack_turns(chunks),
            ends_seen=pack_ends_seen(chunks),
        )
        return step, guided

    def _sort_by_adapter(self) -> bytes:
        """Sort the chunks by adapter, whose rows are computed together. Returns their adapters, int32 [B], or b"" if no
        sequence has one."""
        adapters = [chunk.sequence.request.adapter for chunk in self._chunks]
        if adapters.count(NO_ADAPTER) == len(adapters):
            return b""
        order = sorted(range(len(adapters)), key=adapters.__getitem__)
        self._chunks = [self._chunks[i] for i in order]
        if self._states is not None:
            self._chunk_states = [self._chunk_states[i] for i in order]
        return array("i", [adapters[i] for i in order]).tobytes()

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
        if sequence.request.attention is not None:
            self._reports_attention = True
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
