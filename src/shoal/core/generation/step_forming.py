"""Forming the next step of a replica.

Decode rows come first, then known rows of the oldest requests that have some, up to the step's budget, cut so that the
micro-batches in flight are equally long (micro_batches.py). When blocks run out, the youngest sequence releases its own
and is recomputed later from its prompt and the outputs so far.

Successive prefill chunks of one prompt may be in flight together: every stage runs the steps in order, so a chunk finds
its predecessor's KV, and one long prompt fills the whole pipeline. A row whose token is not known yet is never sent. A
sequence has one chunk in a step. A sequence that is recomputed is sent like a prompt followed by its outputs.

Encoding a clip costs as much as a long chunk, so a step that encodes one takes no further prompts; decode rows of other
requests go with it. The same holds for a step that reports attention over a clip.

In a beam search each live hypothesis is a sequence, whose next row is sent like any other. When all of them have been
answered, the scheduler chooses the next hypotheses, which share their common blocks (kv_cache.py).

A picture whose rows see all of it stays whole: a chunk ends before it or includes all of it, however long it is.

A suspect, a request that may break workers (core/sequences/strikes.py), is tried before anything else continues: no
other request is admitted, the prompt in progress is finished, steps in flight return, and then its rows are sent alone
until its first token.
"""

from __future__ import annotations

from shoal.core.generation.scheduler_state import SchedulerState
from shoal.core.generation.steps.micro_batches import decode_share, prefill_share
from shoal.core.generation.steps.step_builder import StepBuilder
from shoal.core.generation.steps.step_work import StepWork
from shoal.core.sequences.sequence import Sequence
from shoal.protocol.language_messages import StepId


def form_step(state: SchedulerState) -> StepWork | None:
    """Form the next step, or return None if nothing can be computed now. Mutates: `state`; the step counts as sent."""
    if not (state.ready or state.prefilling or state.waiting):
        return None
    builder = StepBuilder(state.kv.states, state.kv.memories, packs=state.config.packs_steps)
    suspect = state.suspects[0] if state.suspects else None
    if suspect is None or any(sequence.lead is not suspect for sequence in state.prefilling):
        _add_decodes(state, builder)
        _add_prefills(state, builder)
    elif not _others_in_flight(state, suspect):
        _add_trial(state, builder, suspect)
    if not builder.num_tokens:
        return None
    work, in_flight = builder.build(StepId(state.next_step_id), state.generation)
    state.next_step_id += 1
    state.in_flight[work.step.step_id] = in_flight
    return work


def _others_in_flight(state: SchedulerState, suspect: Sequence) -> bool:
    return any(chunk.sequence.lead is not suspect for step in state.in_flight.values() for chunk in step.chunks)


def _add_trial(state: SchedulerState, builder: StepBuilder, suspect: Sequence) -> None:
    """Add the next rows of a suspect. Running sequences pause; they keep their blocks unless it needs them."""
    if suspect.request.request_id not in state.running and not _start_trial(state, suspect):
        return
    budget = state.config.prefill_chunk_tokens
    for sequence in tuple(state.prefilling):
        if budget > 0:
            budget -= _add_rows(state, builder, sequence, budget)


def _start_trial(state: SchedulerState, suspect: Sequence) -> bool:
    """Preempt others until a suspect has room, and start it. Returns False if nothing more can be preempted yet."""
    num_places = state.config.max_seqs - suspect.request.num_places
    while state.num_places > num_places or not state.kv.admit_all(suspect.members, reserve=0):
        if not state.running or not _preempt_youngest(state):
            return False
    state.waiting.remove(suspect)
    _note_admission(state, suspect)
    return True


def _add_decodes(state: SchedulerState, builder: StepBuilder) -> None:
    ready = state.ready
    share = decode_share(state.num_decoding, state.config.num_micro_batches)
    limit = min(share, state.config.max_step_tokens)
    while ready and builder.num_tokens < limit:
        if state.kv.grow(ready[0]):
            builder.add_decode(ready.popleft())
        elif not _preempt_youngest(state):
            return


def _preempt_youngest(state: SchedulerState) -> bool:
    """Preempt the youngest running sequence. Returns False if it has rows in flight, so that its blocks are not
    free."""
    youngest = max(state.running.values(), key=lambda sequence: sequence.arrival).lead
    if any(member.num_in_flight for member in youngest.members):
        return False
    state.put_back(youngest)
    return True


def _add_prefills(state: SchedulerState, builder: StepBuilder) -> None:
    budget = _prefill_budget(state, room=state.config.max_step_tokens - builder.num_tokens)
    under_way = iter(tuple(state.prefilling))
    while budget > 0 and not builder.is_laden:
        sequence = next(under_way, None)
        if sequence is None:
            admitted = _admit(state)
            if admitted is None:
                return
            under_way = iter(admitted.members)
            continue
        num_rows = _add_rows(state, builder, sequence, budget)
        if not num_rows:
            return
        budget -= num_rows


def _add_rows(state: SchedulerState, builder: StepBuilder, sequence: Sequence, limit: int) -> int:
    """Add up to `limit` known rows of a sequence that has some left. Returns how many: 0 if they would cut a picture
    that must stay whole and the step has too little room for all of it."""
    num_rows, pictures = min(limit, sequence.num_unscheduled), sequence.request.pictures
    if pictures is not None:
        room = state.config.max_step_tokens - builder.num_tokens
        num_rows = pictures.rows_at_once(sequence.num_scheduled, num_rows, room)
        if not num_rows:
            return 0
    builder.add_prefill(sequence, num_rows)
    if not sequence.num_unscheduled:
        state.prefilling.remove(sequence)
    return num_rows


def _prefill_budget(state: SchedulerState, *, room: int) -> int:
    """Prefill rows for the step being formed: at most the chunk limit, the room left, and an equal share."""
    config = state.config
    budget = min(room, config.prefill_chunk_tokens)
    if config.num_micro_batches == 1 or budget <= 0:
        return budget
    num_in_flight = sum(step.num_prefill for step in state.in_flight.values())
    num_pending = _count_pending(state, enough=budget * config.num_micro_batches)
    return min(budget, prefill_share(num_pending, num_in_flight, config.num_micro_batches, config.block_size))


def _count_pending(state: SchedulerState, *, enough: int) -> int:
    """The number of prefill rows that come next, counted up to about `enough`."""
    num_pending = sum(sequence.num_unscheduled for sequence in state.prefilling)
    num_places = state.config.max_seqs - state.num_places
    for sequence in state.waiting:
        if num_places <= 0 or num_pending >= enough:
            break
        num_pending += len(sequence.token_ids)
        num_places -= sequence.request.num_places
    return num_pending


def _admit(state: SchedulerState) -> Sequence | None:
    """Start one waiting sequence, if there is a place and memory for it.

    One block per running sequence stays free; otherwise the new sequence would soon be preempted again.
    """
    if state.suspects or not state.waiting:
        return None
    num_places = state.config.max_seqs - state.num_places
    if num_places <= 0:
        return None
    sequence = state.waiting.admit_next(state.kv, num_places=num_places, reserve=len(state.running))
    if sequence is not None:
        _note_admission(state, sequence)
    return sequence


def _note_admission(state: SchedulerState, sequence: Sequence) -> None:
    state.start_running(sequence)
    sequence.is_preempted = False
    if not sequence.was_admitted:
        sequence.was_admitted = True
        sequence.num_cached_tokens = sequence.num_computed
        state.prefix_query_tokens += sequence.num_prompt
        state.prefix_hit_tokens += sequence.num_computed
