"""Steps without decisions, which a simulation takes together.

While every running request has its latest known rows in the only step in flight, and no request waits, each answer
changes every request in the same way: one more token, one more row and now and then one more block. The step in flight
may hold the last rows of prompts; those that follow are decode steps. A simulation may therefore advance to the first
end of a request in one go. The state afterwards equals what `Scheduler.handle` would have made of it step by step
(tests/core/generation/steps/test_steady_steps.py).
"""

from __future__ import annotations

from array import array

from shoal.core.generation.scheduler_state import SchedulerState
from shoal.core.generation.steps.step_in_flight import SequenceChunk, StepInFlight
from shoal.core.kv.kv_cache import KvCache
from shoal.core.sequences.sequence import Sequence
from shoal.protocol.language_messages import StepId


def num_steady_steps(state: SchedulerState) -> int:
    """The number of steps, including the one in flight, until a request ends; only the last answer needs `handle`.

    0 if something else may be decided before: a request waits, prompts have further rows, or memory may run out.
    """
    if len(state.in_flight) != 1 or state.config.num_micro_batches != 1 or state.is_fenced:
        return 0
    (step,) = state.in_flight.values()
    is_steady = (
        len(step.chunks) == len(state.running) == step.num_samples == len(state.sequences)
        and not step.num_attention_bytes
        and state.kv.states is None
        and state.kv.memories is None
    )
    sequences = [chunk.sequence for chunk in step.chunks]
    if not is_steady or any(map(_may_end_early, sequences)):
        return 0
    count = min([one.max_tokens - one.num_outputs for one in sequences])
    needed = sum([_num_new_blocks(state.kv, one, count - 1) for one in sequences])
    return count if needed <= state.kv.blocks.num_free else 0


def advance(state: SchedulerState, count: int, token_id: int) -> StepId:
    """Take `count` answers at once, each with the same token for every request. Returns the id of the step then in
    flight.

    Mutates: `state`, which must have more than `count` steady steps.
    """
    ((step_id, step),) = state.in_flight.items()
    sequences, tokens = [chunk.sequence for chunk in step.chunks], array("i", (token_id,)) * count
    for sequence in sequences:
        sequence.token_ids.extend(tokens)
        sequence.num_outputs += count
        sequence.num_losses = 0
    _move_blocks(state.kv, sequences, count)
    state.next_step_id += count
    following = StepId(step_id + count)
    chunks = [SequenceChunk(one, one.num_scheduled - 1, one.num_scheduled, 1) for one in sequences]
    in_flight = StepInFlight(chunks, num_prefill=0, num_samples=len(chunks), num_attention_bytes=0)
    state.in_flight = {following: in_flight}
    return following


def _move_lone(kv: KvCache, sequence: Sequence, count: int) -> None:
    """`_move_blocks` for a single sequence, without a list of what is due."""
    block_size, rows, table = kv.block_size, sequence.num_scheduled, sequence.block_table
    has_room = True
    if sequence.num_computed // block_size < rows // block_size:
        sequence.num_computed = rows
        kv.register(sequence)
    if len(table) * block_size == rows:
        has_room = kv.grow(sequence)
    for full in range(rows - rows % block_size + block_size, rows + count, block_size):
        sequence.num_computed = sequence.num_scheduled = full
        kv.register(sequence)
        if len(table) * block_size == full:
            has_room = has_room and kv.grow(sequence)
    assert has_room, "memory ran out in steady steps"
    sequence.num_computed, sequence.num_scheduled = rows + count - 1, rows + count


def _may_end_early(sequence: Sequence) -> bool:
    """Whether a sequence may end before its limit, or is a search, cancelled or suspect."""
    request = sequence.request
    by_itself = request.stop_token_ids or request.targets or request.beams is not None
    return bool(by_itself or sequence.is_cancelled or sequence.is_suspect)


def _num_new_blocks(kv: KvCache, sequence: Sequence, count: int) -> int:
    rows = sequence.num_scheduled + count
    return max(0, -(-rows // kv.block_size) - len(sequence.block_table))


def _move_blocks(kv: KvCache, sequences: list[Sequence], count: int) -> None:
    """Register full blocks and allocate new ones in the order of the steps; within a step, full ones come first.

    The first answer means that all rows in flight are computed, each further one that one more row is.
    """
    if len(sequences) == 1:
        _move_lone(kv, sequences[0], count)
        return
    block_size = kv.block_size
    due: list[tuple[int, bool, int]] = []
    in_flight = [one.num_scheduled for one in sequences]
    for place, (sequence, rows) in enumerate(zip(sequences, in_flight, strict=True)):
        if sequence.num_computed // block_size < rows // block_size:
            due.append((1, False, place))
        next_full = -rows % block_size or block_size
        due += [(number, False, place) for number in range(next_full + 1, count + 1, block_size)]
        room = len(sequence.block_table) * block_size
        due += [(number, True, place) for number in range(room - rows + 1, count + 1, block_size)]
    for number, is_new, place in sorted(due):
        sequence = sequences[place]
        sequence.num_computed = sequence.num_scheduled = in_flight[place] + number - 1
        if is_new:
            has_room = kv.grow(sequence)
            assert has_room, "memory ran out in steady steps"
        else:
            kv.register(sequence)
    for sequence, rows in zip(sequences, in_flight, strict=True):
        sequence.num_computed, sequence.num_scheduled = rows + count - 1, rows + count
