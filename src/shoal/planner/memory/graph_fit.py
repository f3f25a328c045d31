"""Whether the copies of a graph fit into this machine's memory."""

from __future__ import annotations

from shoal.errors import CapacityError
from shoal.planner.memory.fit import format_bytes


def check_copies(needed_bytes: int, num_copies: int, available_bytes: int, asked: str) -> None:
    """Check that so many copies of the weights fit. `asked`: the user's option, for the message. Raises
    CapacityError."""
    if num_copies * needed_bytes > available_bytes:
        raise CapacityError(
            f"{asked} needs {format_bytes(num_copies * needed_bytes)} for weights, but {format_bytes(available_bytes)} "
            f"are free; use {'fewer replicas' if num_copies > 1 else 'a machine with more'}"
        )


def num_affordable(copy_bytes: int, available_bytes: int) -> int:
    """The number of copies of the weights that fit."""
    return available_bytes // max(1, copy_bytes)
