"""Taking the workers' answers to steps: tokens, finished sequences and the progress of beam searches."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from shoal.core.generation.endings import finish, finish_search, give_up
from shoal.core.generation.events import Event, StepCompleted
from shoal.core.generation.scheduler_state import SchedulerState
from shoal.core.generation.steps.step_in_flight import SequenceChunk, StepInFlight
from shoal.core.sequences.request import FinishReason, TokenProduced
from shoal.core.sequences.sequence import Sequence
from shoal.errors import RemoteProtocolError
from shoal.protocol.language_messages import NO_TOKEN, SampledToken, StepResult

NO_NUMBERS = (
    "the model computes no numbers for this request (NaN or infinity): its weights are damaged, or a value has "
    "overflowed"
)


def check_answers(state: SchedulerState, events: Seq[Event]) -> None:
    """Check that answers fit their steps, before anything changes. Late and repeated answers pass.

    Raises:
        RemoteProtocolError: a result does not fit its step.
    """
    in_flight = state.in_flight
    expected = iter(in_flight)
    for event in events:
        if not isinstance(event, StepCompleted):
            continue
        result = event.result
        if result.generation != state.generation or result.step_id not in in_flight:
            continue
        if result.step_id != next(expected, None):
            raise RemoteProtocolError(f"step {result.step_id} was answered out of order")
        _check_answer(in_flight[result.step_id], result)


def _check_answer(step: StepInFlight, result: StepResult) -> None:
    if len(result.tokens) != step.num_samples:
        raise RemoteProtocolError(
            f"step {result.step_id} asked for {step.num_samples} tokens, its answer has {len(result.tokens)}"
        )
    if len(result.alignment) != step.num_attention_bytes:
        raise RemoteProtocolError(f"step {result.step_id} came back with {len(result.alignment)} B of attention")
    if _lacks_candidates(step, result):
        raise RemoteProtocolError(f"step {result.step_id} asked for the most likely tokens, its answer has none")


def _lacks_candidates(step: StepInFlight, result: StepResult) -> bool:
    """Whether the answer lacks the candidates for the next token of some beam hypothesis."""
    if all(chunk.sequence.lead.beams is None for chunk in step.chunks):
        return False
    searches = [chunk.sequence.lead.beams is not None for chunk in step.chunks for _ in range(chunk.num_samples)]
    told = zip(searches, result.tokens, strict=True)
    return any(is_search and not _has_candidates(token) for is_search, token in told)


def _has_candidates(token: SampledToken) -> bool:
    """Whether there are some, or it is known that there are none."""
    return token.token_id == NO_TOKEN or (token.logprobs is not None and len(token.logprobs.top_ids) > 0)


def take_answer(state: SchedulerState, result: StepResult) -> None:
    """Give a step's tokens to its sequences. Late results (of an older generation, or repeated) are ignored."""
    if result.generation != state.generation:
        return
    step = state.in_flight.pop(result.step_id, None)
    if step is None:
        return
    first = 0
    for chunk in step.chunks:
        if chunk.sequence.request.attention is not None:
            chunk.sequence.attention.append(result.alignment)
        _complete_chunk(state, chunk, result.tokens[first : first + chunk.num_samples])
        first += chunk.num_samples


def _complete_chunk(state: SchedulerState, chunk: SequenceChunk, tokens: Seq[SampledToken]) -> None:
    sequence = chunk.sequence
    sequence.num_in_flight -= 1
    if sequence.is_cancelled:
        if not sequence.num_in_flight:
            state.kv.release(sequence)
        return
    if any(token.token_id == NO_TOKEN for token in tokens):
        give_up(state, sequence.lead, "error", NO_NUMBERS)
        return
    sequence.num_computed = chunk.end
    state.kv.register(sequence)
    if not tokens:
        return
    if sequence.lead.beams is not None:
        sequence.candidates = tokens[-1].logprobs
        _advance_search(state, sequence.lead)
        return
    for token in tokens:
        _take_token(state, sequence, token)
    reason = _finish_reason(sequence)
    if reason is not None:
        state.stop_running(sequence)
        state.kv.release(sequence)
        finish(state, sequence, reason)
    elif not sequence.request.targets:
        state.ready.append(sequence)


def _take_token(state: SchedulerState, sequence: Sequence, token: SampledToken) -> None:
    _clear_losses(state, sequence)
    sequence.append_output(token.token_id)
    state.outputs.append(
        TokenProduced(
            request_id=sequence.request.request_id,
            token_id=token.token_id,
            logprobs=token.logprobs,
            logits=token.logits,
            hidden=token.hidden,
            attention=tuple(sequence.attention) if sequence.num_outputs == sequence.max_tokens else (),
        )
    )


def _advance_search(state: SchedulerState, lead: Sequence) -> None:
    """Choose the next hypotheses of a search once the candidates of all present ones are known."""
    search, progress = lead.request.beams, lead.beams
    assert search is not None
    assert progress is not None
    _clear_losses(state, lead)
    candidates = [member.candidates for member in lead.members if member.candidates is not None]
    if len(candidates) < len(progress.live):
        return
    lead.beams, parents = search.advance(progress, candidates, lead.request.stop_token_ids)
    if not search.is_over(lead.beams, lead.max_tokens):
        state.follow(lead, parents)
        return
    for member in lead.members:
        state.stop_running(member)
        state.kv.release(member)
    finish_search(state, lead)


def _clear_losses(state: SchedulerState, sequence: Sequence) -> None:
    """Clear a sequence's count of losses: a token has arrived, so it does not break workers."""
    if not sequence.num_losses:
        return
    if sequence.is_suspect:
        state.suspects.remove(sequence)
    sequence.num_losses = 0


def _finish_reason(sequence: Sequence) -> FinishReason | None:
    """Why a sequence ends after its newest output, or None. Given outputs (targets) end only with the last one."""
    request = sequence.request
    if not request.targets and sequence.token_ids[-1] in request.stop_token_ids:
        return "stop"
    return "length" if sequence.num_outputs >= sequence.max_tokens else None
