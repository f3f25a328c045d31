"""Messages with tensors from one worker to another: a link and the port of its end."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.arrays import Array
from shoal.comm.links.link import Link
from shoal.comm.links.tensor_port import Received, TensorPort
from shoal.errors import RemoteProtocolError
from shoal.protocol.graph_messages import TensorMessage
from shoal.protocol.tensor_codec import decode_envelope

__all__ = ["Received", "TensorLink"]


class TensorLink:
    """One end of a link that carries messages with tensors."""

    def __init__(self, link: Link, port: TensorPort) -> None:
        """`link`: owned by this object."""
        self._link = link
        self._port = port

    def send(self, message: TensorMessage, tensors: Mapping[str, Array] | None = None, *, timeout_s: float) -> None:
        """Write the tensors, then send the message. Raises WorkerLost, CapacityError, LocalProtocolError."""
        self._link.send([self._port.pack(message, tensors)], timeout_s=timeout_s)

    def receive(self, *, timeout_s: float) -> Received | None:
        """The next message; None if none arrives within timeout_s. Raises WorkerLost, RemoteProtocolError."""
        while (frame := self._link.receive(timeout_s=timeout_s)) is not None:
            if (received := self._port.unpack(decode_envelope(frame))) is not None:
                return received
        return None

    def release(self, received: Received) -> None:
        """Declare that a message's tensors are no longer read. The other end learns of it with the next `send` or
        `flush_releases`."""
        self._port.release(received)

    def flush_releases(self, *, timeout_s: float) -> None:
        """Tell the other end of releases now, on a link that sends nothing else. Raises WorkerLost."""
        for frame in self._port.release_frames():
            self._link.send([frame], timeout_s=timeout_s)

    def collect_releases(self) -> None:
        """Process releases from the other end, on a link that receives nothing else. Raises WorkerLost,
        RemoteProtocolError."""
        if (received := self.receive(timeout_s=0.0)) is not None:
            raise RemoteProtocolError(f"{type(received.message).__name__} came against the direction of the link")

    def fileno(self) -> int:
        """A descriptor that is readable when `receive` may return something."""
        return self._link.fileno()

    def close(self) -> None:
        """Close this end. Idempotent."""
        self._link.close()
