"""A worker, on any machine, with which the head exchanges messages over a control link."""

from __future__ import annotations

from shoal.comm.links.link import Link
from shoal.executor.process.child_process import Child
from shoal.executor.process.worker import Worker
from shoal.protocol.codec import Message, decode, encode
from shoal.protocol.worker_messages import Shutdown, StageFailed

_SEND_TIMEOUT_S = 10.0


class MessageWorker(Worker[Message]):
    """A worker to which messages are sent as frames."""

    def __init__(self, child: Child, link: Link) -> None:
        """Owns the child and the link."""
        super().__init__(child, link)
        self._link = link

    def send(self, frame: bytes) -> None:
        """Send one encoded message. Raises WorkerLost, or the error that the worker reported before it ended."""
        self._attempt(lambda: self._link.send([frame], timeout_s=_SEND_TIMEOUT_S))

    def _next(self, timeout_s: float) -> Message | None:
        frame = self._link.receive(timeout_s=timeout_s)
        return None if frame is None else decode(frame)

    def _failure_in(self, received: Message) -> StageFailed | None:
        return received if isinstance(received, StageFailed) else None

    def _say_shutdown(self) -> None:
        self._link.send([encode(Shutdown())], timeout_s=0.0)
