"""Which request is taken to be what breaks workers.

Workers die for reasons of their own, and a long answer lives through many deaths. So losses count against a request
only while they come in a row without a token of it between, and only those that happened while a step with its rows
was out. After two it is tried alone: nothing else is in flight with it, so the third loss can be blamed on nothing
else, and an innocent one is cleared by its first token, within one prefill.
"""

from __future__ import annotations

MAX_LOSSES = 3
"""Source: the number of replicas that a batch of a graph may take down (core/batching/scheduler)."""


def is_suspect(num_losses: int) -> bool:
    """Whether a request with so many losses in a row is to be tried alone before anything else."""
    return num_losses == MAX_LOSSES - 1


def is_given_up(num_losses: int) -> bool:
    """Whether a request with so many losses in a row fails instead of being tried again."""
    return num_losses >= MAX_LOSSES


def failure_message(reason: str) -> str:
    """What the client of such a request is told. `reason` says why the last workers were lost."""
    last = f"; last: {reason}" if reason else ""
    return (
        f"{MAX_LOSSES} replicas in a row were lost while they computed this request, the last time alone, and no token "
        f"came between{last}"
    )
