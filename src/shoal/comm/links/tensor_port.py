"""One side of a connection for messages with tensors: packs frames and unpacks them.

Inside a machine the message is a small frame, while tensors lie in memory that both sides map, and are read in place.
The receiver says when it has finished with them (`release`); the sender can reuse the memory when it gets this message,
with the next frame of that direction or in a frame of its own (`release_frames`). Between machines the tensors are in
the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from shoal.comm.links.arena import ALIGNMENT_BYTES, ReceivingArena, SendingArena
from shoal.comm.links.link import MAX_FRAME_BYTES
from shoal.errors import CapacityError, LocalProtocolError, RemoteProtocolError
from shoal.protocol.graph_messages import Envelope, Release, TensorMessage, TensorRef
from shoal.protocol.tensor_codec import Array, dtype_name, encode_envelope, from_bytes, to_bytes

_MAX_ENVELOPE_BYTES = 1 << 20
"""Room in a frame for everything except the tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One message and its tensors."""

    message: TensorMessage
    tensors: dict[str, Array]
    """Read-only. Valid until: `TensorPort.release` of this object."""
    token: int


class TensorPort(Protocol):
    """Packs the frames of one direction and unpacks those of the other."""

    def pack(self, message: TensorMessage, tensors: Mapping[str, Array] | None = None) -> bytes:
        """A frame for a message, after its tensors are written. Raises CapacityError, LocalProtocolError."""
        ...

    def unpack(self, envelope: Envelope) -> Received | None:
        """The received message; None: the frame contains only releases. Raises RemoteProtocolError."""
        ...

    def release(self, received: Received) -> None:
        """Declare that a message's tensors are no longer read. The other side learns of it with the next frame of
        `pack`."""
        ...

    def release_frames(self) -> list[bytes]:
        """Releases as separate frames, for a direction that carries nothing else."""
        ...


class SharedPort:
    """Implements `TensorPort` inside a machine. Without an arena, a direction carries no tensors."""

    def __init__(self, *, outgoing: SendingArena | None, incoming: ReceivingArena | None) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._finished: list[int] = []
        """Tokens of released messages that the other side has not been told of."""

    def close(self) -> None:
        """Release the memory, which stays mapped as long as tensors in it are read. Nothing more can be packed."""
        self._outgoing = self._incoming = None

    def pack(self, message: TensorMessage, tensors: Mapping[str, Array] | None = None) -> bytes:
        """See `TensorPort.pack`."""
        token, refs = self._write(tensors) if tensors else (-1, ())
        releases, self._finished = tuple(self._finished), []
        return encode_envelope(Envelope(message=message, tensors=refs, token=token, releases=releases))

    def unpack(self, envelope: Envelope) -> Received | None:
        """See `TensorPort.unpack`."""
        for token in envelope.releases:
            self._free(token)
        match envelope.message:
            case Release(token=token):
                self._free(token)
                return None
            case message:
                tensors = {ref.name: self._read(ref) for ref in envelope.tensors}
                return Received(message=message, tensors=tensors, token=envelope.token)

    def release(self, received: Received) -> None:
        """See `TensorPort.release`."""
        if received.token >= 0:
            self._finished.append(received.token)

    def release_frames(self) -> list[bytes]:
        """See `TensorPort.release_frames`."""
        tokens, self._finished = self._finished, []
        return [encode_envelope(Envelope(message=Release(token=token))) for token in tokens]

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


class FramePort:
    """Implements `TensorPort` between machines: tensors are copied into the frame and out of it."""

    def pack(self, message: TensorMessage, tensors: Mapping[str, Array] | None = None) -> bytes:
        """See `TensorPort.pack`. Raises CapacityError if the tensors are too large for one frame."""
        flat = {name: to_bytes(array) for name, array in (tensors or {}).items()}
        num_bytes = sum(data.size for data in flat.values())
        if num_bytes > MAX_FRAME_BYTES - _MAX_ENVELOPE_BYTES:
            raise CapacityError(
                f"{num_bytes / 1000000.0:.0f} MB of tensors would go to another machine at once, but at most "
                f"{(MAX_FRAME_BYTES - _MAX_ENVELOPE_BYTES) / 1000000.0:.0f} MB can: use smaller batches"
            )
        refs = tuple(
            TensorRef(
                name=name,
                dtype=dtype_name(array),
                shape=array.shape,
                offset=-1,
                num_bytes=flat[name].size,
            )
            for name, array in (tensors or {}).items()
        )
        data = tuple(cast(bytes, one.data) for one in flat.values())
        return encode_envelope(Envelope(message=message, tensors=refs, data=data))

    def unpack(self, envelope: Envelope) -> Received | None:
        """See `TensorPort.unpack`."""
        if isinstance(envelope.message, Release) or envelope.releases:
            raise RemoteProtocolError("memory was given back over a link that shares none")
        if len(envelope.data) != len(envelope.tensors):
            raise RemoteProtocolError(f"{len(envelope.tensors)} tensors came with the bytes of {len(envelope.data)}")
        pairs = zip(envelope.tensors, envelope.data, strict=True)
        tensors = {ref.name: from_bytes(memoryview(data), ref) for ref, data in pairs}
        return Received(message=envelope.message, tensors=tensors, token=-1)

    def release(self, received: Received) -> None:
        """See `TensorPort.release`. Does nothing, as the receiver has copies."""

    def release_frames(self) -> list[bytes]:
        """See `TensorPort.release_frames`."""
        return []


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
