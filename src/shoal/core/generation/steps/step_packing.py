"""Packing of a step's chunks into the arrays that workers read: int32, little-endian like the wire."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Seq

from shoal.core.generation.steps.step_in_flight import SequenceChunk
from shoal.core.generation.steps.step_work import GuidedRow
from shoal.core.kv.state_cache import ChunkStates
from shoal.core.sequences.pictures import plain_turns
from shoal.core.sequences.sequence import Sequence
from shoal.protocol.language_messages import Alignment, PictureRows, SampleRow


def pack_samples(chunks: Seq[SequenceChunk]) -> tuple[tuple[SampleRow, ...], tuple[GuidedRow, ...]]:
    """The rows whose next token is sampled, and the guides of those that have one."""
    samples: list[SampleRow] = []
    guided: list[GuidedRow] = []
    row_of_start = 0
    for chunk in chunks:
        for row in range(chunk.end - chunk.num_samples, chunk.end):
            sample, outputs = _sample(chunk.sequence, row, row_in_step=row_of_start + row - chunk.start)
            samples.append(sample)
            if chunk.sequence.request.guide is not None:
                guided.append(GuidedRow(chunk.sequence.request.guide, outputs))
        row_of_start += chunk.end - chunk.start
    return tuple(samples), tuple(guided)


def pack_alignment(chunks: Seq[SequenceChunk]) -> Alignment | None:
    """Which attention to report, if a request wants it; a step has at most one such chunk."""
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


def pack_pictures(chunks: Seq[SequenceChunk]) -> tuple[PictureRows, ...]:
    """Rows of the step whose inputs are vectors of pictures instead of tokens."""
    found: list[PictureRows] = []
    row_in_step = 0
    for chunk in chunks:
        pictures = chunk.sequence.request.pictures
        for span in () if pictures is None else pictures.spans_within(chunk.start, chunk.end):
            row = row_in_step + span.first_row - chunk.start
            found.append(PictureRows(first_row=row, num_rows=span.num_rows, vectors=span.vectors))
        row_in_step += chunk.end - chunk.start
    return tuple(found)


def pack_turns(chunks: Seq[SequenceChunk]) -> bytes:
    """Rotary positions in three dimensions, int32 [T, 3], or b"" if every row is rotated by its plain position."""
    shown = [chunk.sequence.request.pictures for chunk in chunks]
    if not any(one is not None and one.turns is not None for one in shown):
        return b""
    return b"".join(
        (plain_turns(chunk.start, chunk.end) if one is None else one.turns_of(chunk.start, chunk.end)).tobytes()
        for chunk, one in zip(chunks, shown, strict=True)
    )


def pack_ends_seen(chunks: Seq[SequenceChunk]) -> bytes:
    """The end of the rows that each row attends over, int32 [T], or b"" if attention is causal throughout."""
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


def pack_block_tables(chunks: Seq[SequenceChunk]) -> bytes:
    """Block tables, int32 [B, M], padded with -1 to M, the longest table of this step."""
    tables = [chunk.sequence.block_table for chunk in chunks]
    width = max(map(len, tables))
    packed = array("i", (-1,)) * (len(tables) * width)
    for i, table in enumerate(tables):
        packed[i * width : i * width + len(table)] = array("i", table)
    return packed.tobytes()


def pack_saves(states: Seq[ChunkStates]) -> bytes:
    """Snapshots to save, int32 [S, 3]: chunk, row, slot."""
    saves = ((index, rows, slot) for index, one in enumerate(states) for rows, slot in one.saves)
    return array("i", [number for save in saves for number in save]).tobytes()


def _sample(sequence: Sequence, row: int, *, row_in_step: int) -> tuple[SampleRow, array[int]]:
    """A row to sample, with its guide and the outputs so far if it has one."""
    request, num_prompt = sequence.request, sequence.num_prompt
    token_index, outputs = row - num_prompt + 1, array("i")
    if request.sampling.needs_history or request.guide is not None:
        outputs = sequence.token_ids[num_prompt : num_prompt + token_index]
    sample = SampleRow(
        row=row_in_step,
        token_index=token_index,
        sampling=request.sampling,
        history=outputs.tobytes() if request.sampling.needs_history else b"",
        repeated=_repeated(sequence, row + 1) if request.sampling.repetition_penalty != 1.0 else b"",
        forbidden=tuple(sorted(request.stop_token_ids)) if token_index < request.min_tokens else (),
        is_guided=request.guide is not None,
        target=request.targets[token_index] if request.targets else None,
        want_logits=request.want_logits,
        want_hidden=request.want_hidden,
    )
    return sample, outputs


def _repeated(sequence: Sequence, num_tokens: int) -> bytes:
    """The distinct tokens, int32, in the repetition window at the end of the sequence's first `num_tokens`."""
    window = sequence.request.sampling.repetition_window
    first = max(0, num_tokens - window) if window else 0
    return array("i", sorted(set(sequence.token_ids[first:num_tokens]))).tobytes()
