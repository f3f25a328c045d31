"""Messages with tensors beside them, between two processes of one machine.

The message goes as a small frame over a link that can be waited on; the tensors lie in shared memory and are read where
they are. The receiver says when it has finished with them (`release`); the memory is the sender's again once that word
has come, on the next frame of that direction or by itself (`flush_releases`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shoal.comm.links.arena import ALIGNMENT_BYTES, ReceivingArena, SendingArena
from shoal.comm.links.link import Link
from shoal.errors import LocalProtocolError, RemoteProtocolError
from shoal.protocol.graph_messages import GraphMessage, Release
from shoal.protocol.tensor_codec import (
    Array,
    Envelope,
    TensorRef,
    decode_envelope,
    dtype_name,
    encode_envelope,
    from_bytes,
    to_bytes,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One message and its tensors."""

    message: GraphMessage
    tensors: dict[str, Array]
    """Read-only. Valid until: `TensorLink.release` of this object."""
    token: int


class TensorLink:
    """One end. Either arena may be missing: that direction then carries no tensors."""

    def __init__(self, link: Link, *, outgoing: SendingArena | None, incoming: ReceivingArena | None) -> None:
        self._link = link
        self._outgoing = outgoing
        self._incoming = incoming
        self._finished: list[int] = []
        """tokens to tell the other end of"""

    def send(self, message: GraphMessage, tensors: Mapping[str, Array] | None = None, *, timeout_s: float) -> None:
        """Write the tensors, then send the message. Raises WorkerLost, CapacityError, LocalProtocolError."""
        token, refs = self._write(tensors) if tensors else (-1, ())
        releases, self._finished = tuple(self._finished), []
        frame = encode_envelope(Envelope(message=message, tensors=refs, token=token, releases=releases))
        self._link.send([frame], timeout_s=timeout_s)

    def receive(self, *, timeout_s: float) -> Received | None:
        """The next message, None when none came within timeout_s. Raises WorkerLost, RemoteProtocolError."""
        while (frame := self._link.receive(timeout_s=timeout_s)) is not None:
            envelope = decode_envelope(frame)
            for token in envelope.releases:
                self._free(token)
            match envelope.message:
                case Release(token=token):
                    self._free(token)
                case message:
                    tensors = {ref.name: self._read(ref) for ref in envelope.tensors}
                    return Received(message=message, tensors=tensors, token=envelope.token)
        return None

    def release(self, received: Received) -> None:
        """Its tensors are no longer read; the other end learns of it with the next `send` or `flush_releases`."""
        if received.token >= 0:
            self._finished.append(received.token)

    def flush_releases(self, *, timeout_s: float) -> None:
        """Tell the other end now, on a link that sends nothing else. Raises WorkerLost."""
        tokens, self._finished = self._finished, []
        for token in tokens:
            self._link.send([encode_envelope(Envelope(message=Release(token=token)))], timeout_s=timeout_s)

    def collect_releases(self) -> None:
        """Take in what came back, on a link that receives nothing else. Raises WorkerLost, RemoteProtocolError."""
        if (received := self.receive(timeout_s=0.0)) is not None:
            raise RemoteProtocolError(f"{type(received.message).__name__} came against the direction of the link")

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        return self._link.fileno()

    def close(self) -> None:
        """Close this end. Idempotent."""
        self._link.close()

    def _write(self, tensors: Mapping[str, Array]) -> tuple[int, tuple[TensorRef, ...]]:
        if self._outgoing is None:
            raise LocalProtocolError("this direction of the link carries no tensors")
        flat = {name: to_bytes(array) for name, array in tensors.items()}
        token, memory = self._outgoing.allocate(sum(_aligned(data.size) for data in flat.values()))
        target = np.frombuffer(memory, np.uint8)
        refs: list[TensorRef] = []
        position = 0
        for name, data in flat.items():
            target[position : position + data.size] = data
            array = tensors[name]
            place = token + position
            refs.append(
                TensorRef(name=name, dtype=dtype_name(array), shape=array.shape, offset=place, num_bytes=data.size)
            )
            position += _aligned(data.size)
        return token, tuple(refs)

    def _read(self, ref: TensorRef) -> Array:
        if self._incoming is None:
            raise RemoteProtocolError("this direction of the link carries no tensors")
        return from_bytes(self._incoming.view(ref.offset, ref.num_bytes), ref)

    def _free(self, token: int) -> None:
        if self._outgoing is None:
            raise RemoteProtocolError("this direction of the link carries no tensors")
        self._outgoing.free(token)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
