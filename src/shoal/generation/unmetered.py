"""A data plane of which nothing is counted."""

from __future__ import annotations

from collections.abc import Callable


class Unmetered:
    """Implements `seams.Meter` and `seams.Timer`."""

    last_token_s: float | None = None
    """not known, or when a canary came"""

    def timer(self, num_prompt_tokens: int, arrival_s: float, clock: Callable[[], float]) -> Unmetered:
        """One for all requests."""
        return self

    def count_refusal(self, reason: str) -> None:
        """Nobody counts."""

    def token(self) -> None:
        """Nobody counts."""

    def finish(self, reason: str) -> None:
        """Nobody counts."""
