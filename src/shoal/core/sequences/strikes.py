"""Which request is blamed for the loss of workers.

Workers also die for other reasons, and a long answer survives many losses. A loss therefore counts against a request
only if rows of it were in flight, and a token of it clears the count. After two losses in a row the request is tried
alone: nothing else is in flight, so the third loss can be blamed on nothing else, and an innocent request is cleared by
its first token, within one prefill.
"""

from __future__ import annotations

from shoal.core.recovery.config import MAX_LOSSES


def is_suspect(num_losses: int) -> bool:
    """Whether a request with so many losses in a row must be tried alone before anything else."""
    return num_losses == MAX_LOSSES - 1


def is_given_up(num_losses: int) -> bool:
    """Whether a request with so many losses in a row fails instead of being tried again."""
    return num_losses >= MAX_LOSSES


def failure_message(reason: str) -> str:
    """The message for the client of such a request. `reason`: why the last workers were lost."""
    last = f"; last: {reason}" if reason else ""
    return (
        f"{MAX_LOSSES} replicas in a row were lost while they computed this request, the last time alone, and no token "
        f"came between{last}"
    )
