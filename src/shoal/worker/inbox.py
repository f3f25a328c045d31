"""The head's messages to a worker, in order."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.comm.links.link import Link
from shoal.errors import WorkerLost
from shoal.protocol.codec import Message, decode
from shoal.protocol.language_messages import Step, StepMasks

_IDLE_WAIT_S = 30.0


class Inbox:
    """Messages of the head. A message that arrives instead of an expected one is kept for the next call."""

    def __init__(self, control: Link) -> None:
        """`control`: from the head; only this object receives from it."""
        self._control = control
        self._next: Message | None = None

    def take(self) -> Message:
        """The next message, however long it takes. Raises WorkerLost if the head is gone; RemoteProtocolError."""
        while (message := self._look(_IDLE_WAIT_S)) is None:
            pass
        self._next = None
        return message

    def masks_of(self, step: Step, *, timeout_s: float) -> Sequence[bytes]:
        """What the step's guided samples may draw, which the head sends directly after the step.

        Raises:
            WorkerLost: the head sends something else, because it has given up the step, or sends nothing, or is gone.
            RemoteProtocolError: the message is malformed.
        """
        match message := self._look(timeout_s):
            case StepMasks(step_id=step.step_id, generation=step.generation):
                self._next = None
                return message.allowed
            case None:
                raise WorkerLost(f"no masks for step {step.step_id} within {timeout_s:.0f} s")
            case _:
                name = type(message).__name__
                raise WorkerLost(f"the head sent {name} in the place of masks for step {step.step_id}")

    def _look(self, timeout_s: float) -> Message | None:
        if self._next is None:
            frame = self._control.receive(timeout_s=timeout_s)
            self._next = None if frame is None else decode(frame)
        return self._next
