"""A scheduler's counts for metrics, and its remaining work for routing."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.core.generation.scheduler_state import SchedulerState
from shoal.core.speed.routing import ReplicaLoad, ReplicaSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStats:
    """A snapshot for metrics and tests."""

    num_running: int
    """Sequences that hold KV blocks."""
    num_waiting: int
    """Requests that hold no KV blocks."""
    num_in_flight: int
    """Steps that were sent and not answered."""
    num_free_blocks: int
    """Free KV blocks, including cached ones that can be evicted."""
    kv_usage: float
    """Share of the KV blocks that sequences hold, 0 to 1."""
    prefix_query_tokens: int
    """Prompt tokens of all requests admitted so far."""
    prefix_hit_tokens: int
    """Those of `prefix_query_tokens` that were found in the prefix index."""
    num_preemptions: int
    """The number of times that a running sequence was preempted and released its blocks."""
    num_replays: int
    """The number of times that a started request lost its workers."""
    replayed_tokens: int
    """Tokens that lost workers had computed and that had to be computed again."""


def take_stats(state: SchedulerState) -> SchedulerStats:
    """The counts as they are now."""
    num_free = state.kv.blocks.num_free
    return SchedulerStats(
        num_running=len(state.running),
        num_waiting=len(state.waiting),
        num_in_flight=len(state.in_flight),
        num_free_blocks=num_free,
        kv_usage=1.0 - num_free / state.config.num_blocks,
        prefix_query_tokens=state.prefix_query_tokens,
        prefix_hit_tokens=state.prefix_hit_tokens,
        num_preemptions=state.num_preemptions,
        num_replays=state.num_replays,
        replayed_tokens=state.replayed_tokens,
    )


def measure_load(
    state: SchedulerState,
    new_prefill_tokens: int = 0,
    num_new_decoding: int = 0,
    *,
    speed: ReplicaSpeed | None = None,
    is_slow: bool = False,
) -> ReplicaLoad:
    """The known rows still to be computed, and the outputs still to come. Given outputs (targets) count as known.

    Args:
        state: the scheduler's state.
        new_prefill_tokens: known tokens of requests that the scheduler has not taken in yet.
        num_new_decoding: those of them whose outputs are sampled.
        speed: the replica's speed; None: not known.
        is_slow: whether one of its workers has slowed down.
    """
    prefill_tokens, num_decoding = new_prefill_tokens, num_new_decoding
    for sequence in state.sequences.values():
        request = sequence.request
        prefill_tokens += len(sequence.token_ids) - sequence.num_computed
        for branch in sequence.branches:
            prefill_tokens += len(branch.token_ids) - branch.num_computed
        if request.clip is not None:
            prefill_tokens += state.kv.rows_to_encode(request.clip)
        num_decoding += 0 if request.targets else request.num_places
    return ReplicaLoad(
        prefill_tokens=prefill_tokens,
        num_decoding=num_decoding,
        speed=speed,
        is_slow=is_slow,
        is_overloaded=bool(state.waiting) and _is_overloaded(state),
    )


def _is_overloaded(state: SchedulerState) -> bool:
    """Whether the requests that wait do so for a place or for memory, not just for the next step."""
    return state.num_places >= state.config.max_seqs or state.kv.blocks.num_free <= len(state.running)
