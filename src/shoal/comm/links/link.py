"""The one interface over which bytes move between two processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from typing_extensions import Buffer

MAX_FRAME_BYTES = 1 << 30
"""A frame larger than this is refused before memory is taken for it."""


class Link(Protocol):
    """An ordered, reliable, bounded channel of frames between two processes. One sender, one receiver a direction.

    Every wait has a deadline; a peer that is gone raises `WorkerLost`, a frame that breaks the format
    `RemoteProtocolError`.
    """

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        """Send the concatenation of `parts` as one frame. Raises WorkerLost on a closed peer or after timeout_s."""
        ...

    def receive(self, *, timeout_s: float) -> memoryview | None:
        """The next frame, or None when none came within timeout_s (0 polls).

        Valid until: the next call of `receive` on this link.
        Raises: WorkerLost when the peer has closed.
        """
        ...

    def fileno(self) -> int:
        """A descriptor that is readable when a frame may have come; -1 where there is none (poll instead)."""
        ...

    def close(self) -> None:
        """Close this end. Idempotent."""
        ...
