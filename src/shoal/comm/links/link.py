"""The interface by which bytes move between two processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from typing_extensions import Buffer

MAX_FRAME_BYTES = 1 << 30
"""A larger frame is refused before memory is allocated for it."""


class Link(Protocol):
    """An ordered, reliable, bounded channel of frames between two processes, with one sender and one receiver for each
    direction.

    Every wait has a deadline; a peer that is gone raises `WorkerLost`, a malformed frame raises `RemoteProtocolError`.
    """

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """Send the concatenation of `parts` as one frame. Raises WorkerLost if the peer has closed, or after
        timeout_s."""
        ...

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """The next frame; None if none arrives within timeout_s (0 polls).

        Valid until: the next call of `receive` on this link.
        Raises: WorkerLost if the peer has closed.
        """
        ...

    def fileno(self) -> int:
        """A descriptor that is readable when a frame may have arrived; -1: there is none, so poll with `receive`."""
        ...

    def close(self) -> None:
        """Close this end. Idempotent."""
        ...
