"""The meter of a data plane without metrics."""

from __future__ import annotations

from collections.abc import Callable


class Unmetered:
    """A meter that counts nothing. Implements `seams.Meter` and `seams.Timer`."""

    last_token_s: float | None = None
    """The time of the latest token of a canary; None: not known."""

    def timer(self, num_prompt_tokens: int, arrival_s: float, clock: Callable[[], float]) -> Unmetered:
        """Return this object, for all requests."""
        return self

    def count_refusal(self, reason: str) -> None:
        """Do nothing."""

    def token(self) -> None:
        """Do nothing."""

    def finish(self, reason: str) -> None:
        """Do nothing."""
