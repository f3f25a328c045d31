"""A link whose incoming frames are written down beforehand and whose outgoing ones are kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from typing_extensions import Buffer

from shoal.errors import WorkerLost
from shoal.protocol.codec import Message, decode, encode


class ScriptedLink:
    """Implements `Link`. After the last scripted frame the peer is gone."""

    def __init__(self, incoming: Iterable[Message | bytes] = ()) -> None:
        self._incoming = deque(frame if isinstance(frame, bytes) else encode(frame) for frame in incoming)
        self.sent: list[bytes] = []
        self.is_closed = False

    @property
    def messages(self) -> list[Message]:
        """What was sent, decoded."""
        return [decode(frame) for frame in self.sent]

    def send(self, parts: Sequence[Buffer], *, timeout_s: float) -> None:
        self.sent.append(b"".join(bytes(part) for part in parts))

    def receive(self, *, timeout_s: float) -> memoryview | None:
        if not self._incoming:
            raise WorkerLost("link closed by the peer")
        return memoryview(self._incoming.popleft())

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self._incoming.clear()
        self.is_closed = True
