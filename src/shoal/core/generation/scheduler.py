"""The scheduler of one replica of a language model: events in, effects out. No I/O, no clock, no randomness.

A request's life: `RequestAdded` -> waiting -> admitted with KV blocks (waiting_queue.py, kv_cache.py) -> its prompt
rows are sent in one or more steps (step_forming.py) -> each `StepCompleted` brings tokens, and full blocks enter the
prefix index (answers.py) -> decode rows, one per step -> a reason to finish -> its blocks are released (endings.py). A
request with beam search has a sequence for each live hypothesis; its outputs are sent once the best one is known.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import assert_never

from shoal.core.generation.answers import check_answers, take_answer
from shoal.core.generation.endings import finish, finish_search, give_up, refusal
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
from shoal.core.sequences.request import Clip, RequestId, RequestProgress
from shoal.core.sequences.sequence import Sequence
from shoal.core.sequences.strikes import failure_message, is_given_up
from shoal.core.speed.routing import ReplicaLoad, ReplicaSpeed
from shoal.errors import ShoalError
from shoal.protocol.worker_messages import Generation


class Scheduler:
    """Decides what one replica computes next. All changes go through `handle`."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self._state = SchedulerState(config)

    def successor(self, config: SchedulerConfig) -> Scheduler:
        """A scheduler for new workers of the replica with other limits, which continues this one's ids and counters."""
        assert not self.has_unfinished, "requests must be handed over first"
        successor = Scheduler(config)
        successor.state.count_on(self._state)
        return successor

    @property
    def state(self) -> SchedulerState:
        """The state itself, read-only for callers: the fleet, the simulator and tests."""
        return self._state

    @property
    def generation(self) -> Generation:
        """The generation of the workers whose results count."""
        return self._state.generation

    @property
    def has_unfinished(self) -> bool:
        """Whether a request is unfinished or a step in flight."""
        return bool(self._state.sequences or self._state.in_flight)

    def stats(self) -> SchedulerStats:
        """Counts for metrics."""
        return take_stats(self._state)

    def load(
        self,
        new_prefill_tokens: int = 0,
        num_new_decoding: int = 0,
        *,
        speed: ReplicaSpeed | None = None,
        is_slow: bool = False,
    ) -> ReplicaLoad:
        """The remaining work and the speed of the replica; see `measure_load`."""
        return measure_load(self._state, new_prefill_tokens, num_new_decoding, speed=speed, is_slow=is_slow)

    def cached_tokens(self, digests: Seq[bytes], clip: Clip | None = None) -> int:
        """The number of cached leading tokens of a prompt, given by the digests of its blocks, plus the rows of its
        clip that need not be encoded again."""
        kv = self._state.kv
        num_encoded = clip.num_rows - kv.rows_to_encode(clip) if clip is not None else 0
        return len(kv.cached_blocks(digests)) * self.config.block_size + num_encoded

    def handle(self, events: Seq[Event], now_s: float) -> list[Effect]:
        """Take in all events since the last turn, then form as many steps as may be in flight.

        Requests that arrive in the same turn are divided evenly among the micro-batches.

        Args:
            events: what happened, in order; may be empty.
            now_s: the time on any monotonic clock; a request's time of arrival.

        Returns:
            Effects to carry out in order: steps come first, so that the workers start before outputs are passed on.

        Raises:
            RemoteProtocolError: a result does not fit its step. Nothing has changed; the workers must be fenced.
        """
        check_answers(self._state, events)
        for event in events:
            self._take_in(event, now_s)
        state = self._state
        effects: list[Effect] = []
        while not state.is_fenced and len(state.in_flight) < self.config.num_micro_batches:
            work = form_step(state)
            if work is None:
                break
            effects.append(SendStep(work=work))
        effects.extend(state.outputs)
        state.outputs = []
        return effects

    def _take_in(self, event: Event, now_s: float) -> None:
        match event:
            case StepCompleted(result=result):
                take_answer(self._state, result)
            case RequestAdded():
                self._add(event, now_s)
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

    def _add(self, added: RequestAdded, now_s: float) -> None:
        state, request, progress = self._state, added.request, added.progress
        assert request.request_id not in state.sequences, f"request id {request.request_id} is in use"
        try:
            check_request(self.config, request)
        except ShoalError as error:
            state.outputs.append(refusal(request, progress, str(error)))
            return
        max_tokens = output_limit(self.config, request)
        added_s = progress.added_s if progress else now_s
        sequence = Sequence(request, arrival=(added_s, state.next_arrival), added_s=added_s, max_tokens=max_tokens)
        sequence.digests.extend(added.digests)
        state.next_arrival += 1
        state.sequences[request.request_id] = sequence
        if progress:
            self._resume(sequence, progress)
        else:
            state.waiting.append(sequence)

    def _resume(self, sequence: Sequence, progress: RequestProgress) -> None:
        """Queue a sequence from another replica by its age. It may already have more tokens than fit here."""
        sequence.resume(progress)
        if sequence.is_suspect:
            self._state.suspects.append(sequence)
        if sequence.beams is not None and len(sequence.beams.live[0].token_ids) >= sequence.max_tokens:
            finish_search(self._state, sequence)
        elif sequence.num_outputs >= sequence.max_tokens:
            finish(self._state, sequence, "length")
        else:
            self._state.waiting.put_back(sequence)

    def _withdraw(self, request_id: RequestId) -> None:
        sequence = self._state.sequences.get(request_id)
        if sequence is None:
            return
        self._state.waiting.remove(sequence)
        self._state.forget(sequence)
        self._state.outputs.append(HandOver(request=sequence.request, progress=sequence.progress()))

    def _lose_workers(self, lost: WorkersLost) -> None:
        """Queue every request to be computed again, except those that have lost too many workers."""
        state = self._state
        if not lost.on_purpose:
            for sequence in state.sequences.values():
                sequence.num_losses += any(member.num_in_flight for member in sequence.members)
        state.fence()
        for sequence in [one for one in state.waiting if is_given_up(one.num_losses)]:
            state.waiting.remove(sequence)
            finish(state, sequence, "error", failure_message(lost.reason), breaks_workers=True)

    def _cancel(self, request_id: RequestId) -> None:
        state = self._state
        sequence = state.sequences.get(request_id)
        if sequence is None:
            return
        if request_id in state.running:
            give_up(state, sequence, "cancelled")
        else:
            state.waiting.remove(sequence)
            finish(state, sequence, "cancelled")
