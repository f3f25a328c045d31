"""What one replica computes next: events in, effects out. No I/O, no clock, no randomness.

A request's way through it: `RequestAdded` -> waiting -> admitted with KV blocks (waiting_queue.py, kv_cache.py) -> its
prompt rows go out in one or more steps (step_forming.py) -> each `StepCompleted` brings tokens, full blocks enter the
prefix index -> decode rows, one a step -> a reason to finish -> its blocks are given back. Under beam search a request
has a sequence for each live hypothesis; its outputs are told when the best is known.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import assert_never

from shoal.core.generation.events import (
    Effect,
    Event,
    HandOver,
    RequestAdded,
    RequestCancelled,
    RequestWithdrawn,
    SendStep,
    StepCompleted,
    WorkersLost,
    WorkersReady,
)
from shoal.core.generation.scheduler_config import SchedulerConfig, check_request, output_limit
from shoal.core.generation.scheduler_state import SchedulerState
from shoal.core.generation.scheduler_stats import SchedulerStats, measure_load, take_stats
from shoal.core.generation.step_forming import form_step
from shoal.core.generation.steps.step_builder import SequenceChunk, StepInFlight
from shoal.core.sequences.request import (
    Clip,
    FinishReason,
    Request,
    RequestFinished,
    RequestId,
    RequestProgress,
    TokenProduced,
)
from shoal.core.sequences.sequence import Sequence
from shoal.core.sequences.strikes import failure_message, is_given_up
from shoal.core.speed.routing import ReplicaLoad
from shoal.errors import RemoteProtocolError, ShoalError
from shoal.protocol.language_messages import SampledToken, StepResult, TokenLogprobs
from shoal.protocol.worker_messages import Generation


class Scheduler:
    """Decides what one replica computes next. All changes go through `handle`."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self._state = SchedulerState(config)
        self._outputs: list[Effect] = []
        """What the turn under way has produced for clients."""

    def successor(self, config: SchedulerConfig) -> Scheduler:
        """A scheduler for other workers of the same replica, with other limits. It counts on where this one stops."""
        assert not self.has_unfinished, "requests must be handed over first"
        successor = Scheduler(config)
        successor.state.count_on(self._state)
        return successor

    @property
    def state(self) -> SchedulerState:
        """The state itself, for the invariant checks of simulator and tests. They only look at it."""
        return self._state

    @property
    def generation(self) -> Generation:
        """The generation of the workers whose results count."""
        return self._state.generation

    @property
    def has_unfinished(self) -> bool:
        """Whether a request is alive or a step in flight."""
        return bool(self._state.sequences or self._state.in_flight)

    def stats(self) -> SchedulerStats:
        """Counts for metrics."""
        return take_stats(self._state)

    def load(self) -> ReplicaLoad:
        """The work still to be done here, at a speed that is not known."""
        return measure_load(self._state)

    def cached_tokens(self, digests: Seq[bytes], clip: Clip | None = None) -> int:
        """How many leading tokens of a prompt, given by the digests of its blocks, are cached here, and rows of
        its clip that need not be encoded."""
        kv = self._state.kv
        num_encoded = clip.num_rows - kv.rows_to_encode(clip) if clip is not None else 0
        return len(kv.cached_blocks(digests)) * self.config.block_size + num_encoded

    def handle(self, events: Seq[Event], now_s: float) -> list[Effect]:
        """One turn: take in everything that has happened, then form as many steps as may be in flight.

        Give it all events that have come since the last turn: a burst of requests taken in together is dealt evenly
        over the micro-batches.

        Args:
            events: in the order in which they happened; may be empty.
            now_s: any monotonic clock; only reported back, as the age of waiting requests.

        Returns:
            Effects to carry out in order: steps first, so that the workers start before outputs are passed on.

        Raises:
            RemoteProtocolError: a result does not answer its step. Nothing has changed; the workers are to be fenced.
        """
        self._check_results(events)
        for event in events:
            self._take_in(event, now_s)
        state = self._state
        effects: list[Effect] = []
        while not state.is_fenced and len(state.in_flight) < self.config.num_micro_batches:
            work = form_step(state)
            if work is None:
                break
            effects.append(SendStep(work=work))
        effects.extend(self._outputs)
        self._outputs = []
        return effects

    def _take_in(self, event: Event, now_s: float) -> None:
        match event:
            case StepCompleted(result=result):
                self._complete(result)
            case RequestAdded(request=request, progress=progress):
                self._add(request, progress, now_s)
            case RequestCancelled(request_id=request_id):
                self._cancel(request_id)
            case RequestWithdrawn(request_id=request_id):
                self._withdraw(request_id)
            case WorkersLost():
                self._lose_workers(event)
            case WorkersReady():
                self._state.is_fenced = False
            case _:
                assert_never(event)

    def _check_results(self, events: Seq[Event]) -> None:
        """Refuse answers that do not fit their steps, before anything changes. Late or repeated ones are no offense."""
        in_flight = self._state.in_flight
        expected = iter(in_flight)
        for event in events:
            if not isinstance(event, StepCompleted):
                continue
            result = event.result
            if result.generation != self._state.generation or result.step_id not in in_flight:
                continue
            if result.step_id != next(expected, None):
                raise RemoteProtocolError(f"step {result.step_id} was answered out of order")
            if len(result.tokens) != in_flight[result.step_id].num_samples:
                raise RemoteProtocolError(
                    f"step {result.step_id} asked for {in_flight[result.step_id].num_samples} tokens, "
                    f"its answer has {len(result.tokens)}"
                )
            if len(result.alignment) != in_flight[result.step_id].num_attention_bytes:
                raise RemoteProtocolError(
                    f"step {result.step_id} came back with {len(result.alignment)} B of attention"
                )
            if _lacks_candidates(in_flight[result.step_id], result):
                raise RemoteProtocolError(
                    f"step {result.step_id} asked for the most likely tokens, its answer has none"
                )

    def _add(self, request: Request, progress: RequestProgress | None, now_s: float) -> None:
        state = self._state
        assert request.request_id not in state.sequences, f"request id {request.request_id} is in use"
        try:
            check_request(self.config, request)
        except ShoalError as error:
            self._outputs.append(_refuse(request, progress, str(error)))
            return
        max_tokens = output_limit(self.config, request)
        added_s = progress.added_s if progress else now_s
        sequence = Sequence(request, arrival=(added_s, state.next_arrival), added_s=added_s, max_tokens=max_tokens)
        state.next_arrival += 1
        state.sequences[request.request_id] = sequence
        if progress:
            self._resume(sequence, progress)
        else:
            state.waiting.append(sequence)

    def _resume(self, sequence: Sequence, progress: RequestProgress) -> None:
        """Let a sequence from elsewhere wait by its age. It may have more tokens already than fit here."""
        sequence.resume(progress)
        if sequence.is_suspect:
            self._state.suspects.append(sequence)
        if sequence.beams is not None and len(sequence.beams.live[0].token_ids) >= sequence.max_tokens:
            self._tell_best(sequence)
        elif sequence.num_outputs >= sequence.max_tokens:
            self._finish(sequence, "length")
        else:
            self._state.waiting.put_back(sequence)

    def _withdraw(self, request_id: RequestId) -> None:
        sequence = self._state.sequences.get(request_id)
        if sequence is None:
            return
        self._state.waiting.remove(sequence)
        self._state.forget(sequence)
        self._outputs.append(HandOver(request=sequence.request, progress=sequence.progress()))

    def _lose_workers(self, lost: WorkersLost) -> None:
        """Every request waits to be computed again, but for those that have lost too many workers."""
        state = self._state
        if not lost.on_purpose:
            for sequence in state.sequences.values():
                sequence.num_losses += any(member.num_in_flight for member in sequence.members)
        state.fence()
        for sequence in [one for one in state.waiting if is_given_up(one.num_losses)]:
            state.waiting.remove(sequence)
            self._finish(sequence, "error", failure_message(lost.reason), breaks_workers=True)

    def _cancel(self, request_id: RequestId) -> None:
        state = self._state
        sequence = state.sequences.get(request_id)
        if sequence is None:
            return
        for member in sequence.members:
            member.is_cancelled = True
        if request_id not in state.running:
            state.waiting.remove(sequence)
        else:
            for member in sequence.members:
                state.stop_running(member)
                if not member.num_in_flight:
                    state.kv.release(member)
        self._finish(sequence, "cancelled")

    def _complete(self, result: StepResult) -> None:
        """Late results (of an older generation, or repeated) are dropped."""
        if result.generation != self._state.generation:
            return
        step = self._state.in_flight.pop(result.step_id, None)
        if step is None:
            return
        first = 0
        for chunk in step.chunks:
            if chunk.sequence.request.attention is not None:
                chunk.sequence.attention.append(result.alignment)
            self._complete_chunk(chunk, result.tokens[first : first + chunk.num_samples])
            first += chunk.num_samples

    def _complete_chunk(self, chunk: SequenceChunk, tokens: Seq[SampledToken]) -> None:
        state, sequence = self._state, chunk.sequence
        sequence.num_in_flight -= 1
        if sequence.is_cancelled:
            if not sequence.num_in_flight:
                state.kv.release(sequence)
            return
        sequence.num_computed = chunk.end
        state.kv.register(sequence)
        if not tokens:
            return
        if sequence.lead.beams is not None:
            sequence.candidates = tokens[-1].logprobs
            self._advance(sequence.lead)
            return
        for token in tokens:
            self._take_token(sequence, token)
        reason = _finish_reason(sequence)
        if reason is not None:
            state.stop_running(sequence)
            state.kv.release(sequence)
            self._finish(sequence, reason)
        elif not sequence.request.targets:
            state.ready.append(sequence)

    def _take_token(self, sequence: Sequence, token: SampledToken) -> None:
        self._clear_losses(sequence)
        sequence.append_output(token.token_id)
        self._outputs.append(
            TokenProduced(
                request_id=sequence.request.request_id,
                token_id=token.token_id,
                logprobs=token.logprobs,
                logits=token.logits,
                hidden=token.hidden,
                attention=tuple(sequence.attention) if sequence.num_outputs == sequence.max_tokens else (),
            )
        )

    def _advance(self, lead: Sequence) -> None:
        """Choose the next hypotheses of a search, if what may follow each of the present ones is known."""
        search, progress = lead.request.beams, lead.beams
        assert search is not None
        assert progress is not None
        self._clear_losses(lead)
        candidates = [member.candidates for member in lead.members if member.candidates is not None]
        if len(candidates) < len(progress.live):
            return
        lead.beams, parents = search.advance(progress, candidates, lead.request.stop_token_ids)
        if not search.is_over(lead.beams, lead.max_tokens):
            self._state.follow(lead, parents)
            return
        for member in lead.members:
            self._state.stop_running(member)
            self._state.kv.release(member)
        self._tell_best(lead)

    def _tell_best(self, lead: Sequence) -> None:
        """End a search, of which nothing runs any more."""
        search, progress = lead.request.beams, lead.beams
        assert search is not None
        assert progress is not None
        best = search.best(progress, lead.request.stop_token_ids)
        lead.beams, lead.branches = None, []
        lead.set_outputs(best.token_ids)
        for token_id, logprob in zip(best.token_ids, best.logprobs, strict=True):
            told = TokenProduced(
                request_id=lead.request.request_id, token_id=token_id, logprobs=TokenLogprobs(logprob=logprob)
            )
            self._outputs.append(told)
        self._finish(lead, "stop" if best.token_ids[-1] in lead.request.stop_token_ids else "length")

    def _clear_losses(self, sequence: Sequence) -> None:
        """A token has come, so the sequence does not break workers."""
        if sequence.is_suspect:
            self._state.suspects.remove(sequence)
        sequence.num_losses = 0

    def _finish(
        self, sequence: Sequence, reason: FinishReason, message: str = "", *, breaks_workers: bool = False
    ) -> None:
        self._state.forget(sequence)
        self._outputs.append(
            RequestFinished(
                request_id=sequence.request.request_id,
                reason=reason,
                num_prompt_tokens=sequence.num_prompt,
                num_output_tokens=sequence.num_told,
                num_cached_tokens=sequence.num_cached_tokens,
                message=message,
                breaks_workers=breaks_workers,
            )
        )


def _finish_reason(sequence: Sequence) -> FinishReason | None:
    """Why a sequence ends after its newest output, or None. Forced outputs end only with the last of them."""
    request = sequence.request
    if not request.targets and sequence.token_ids[-1] in request.stop_token_ids:
        return "stop"
    return "length" if sequence.num_outputs >= sequence.max_tokens else None


def _lacks_candidates(step: StepInFlight, result: StepResult) -> bool:
    """Whether a hypothesis of a search was not told what may follow it."""
    if all(chunk.sequence.lead.beams is None for chunk in step.chunks):
        return False
    searches = [chunk.sequence.lead.beams is not None for chunk in step.chunks for _ in range(chunk.num_samples)]
    told = zip(searches, result.tokens, strict=True)
    return any(is_search and (token.logprobs is None or not token.logprobs.top_ids) for is_search, token in told)


def _refuse(request: Request, progress: RequestProgress | None, message: str) -> RequestFinished:
    return RequestFinished(
        request_id=request.request_id,
        reason="error",
        num_prompt_tokens=len(request.prompt_ids),
        num_output_tokens=len(progress.outputs) if progress else 0,
        message=message,
    )
