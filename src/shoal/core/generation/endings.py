"""The ends of requests, and what their clients are told."""

from __future__ import annotations

from shoal.core.generation.scheduler_state import SchedulerState
from shoal.core.sequences.request import FinishReason, Request, RequestFinished, RequestProgress, TokenProduced
from shoal.core.sequences.sequence import Sequence
from shoal.protocol.language_messages import TokenLogprobs


def finish(
    state: SchedulerState,
    sequence: Sequence,
    reason: FinishReason,
    message: str = "",
    *,
    breaks_workers: bool = False,
) -> None:
    """End a request that neither waits nor runs any more.

    Args:
        state: the scheduler's state. Mutates: it forgets the sequence.
        sequence: the request's sequence, or the lead of its beam search.
        reason: the finish reason that its client is told.
        message: what went wrong; empty if nothing did.
        breaks_workers: whether the request is given up because it has cost too many workers.
    """
    state.forget(sequence)
    state.outputs.append(
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


def give_up(state: SchedulerState, lead: Sequence, reason: FinishReason, message: str = "") -> None:
    """End a running request before it is finished. Blocks that steps in flight write to are released behind them.

    Args: see `finish`.
    """
    for member in lead.members:
        member.is_cancelled = True
        state.stop_running(member)
        if not member.num_in_flight:
            state.kv.release(member)
    finish(state, lead, reason, message)


def finish_search(state: SchedulerState, lead: Sequence) -> None:
    """End a beam search that no longer runs; its client is told the best hypothesis."""
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
        state.outputs.append(told)
    finish(state, lead, "stop" if best.token_ids[-1] in lead.request.stop_token_ids else "length")


def refusal(request: Request, progress: RequestProgress | None, message: str) -> RequestFinished:
    """The output for a request that cannot be computed here."""
    return RequestFinished(
        request_id=request.request_id,
        reason="error",
        num_prompt_tokens=len(request.prompt_ids),
        num_output_tokens=len(progress.outputs) if progress else 0,
        message=message,
    )
