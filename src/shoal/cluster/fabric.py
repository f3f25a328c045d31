"""How the workers of a pipeline come to be and how they are wired: on this machine, or on several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.errors import ShoalError
from shoal.protocol.messages import Generation, LoadStage, Message


class StageWorker(Protocol):
    """A worker as the head sees it, over its control link."""

    @property
    def name(self) -> str:
        """What to call it in messages."""
        ...

    @property
    def pid(self) -> int:
        """Process id, on its machine."""
        ...

    @property
    def was_killed(self) -> bool:
        """Whether it is known that a signal has ended it."""
        ...

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        ...

    def send(self, frame: bytes) -> None:
        """One encoded message. Raises WorkerLost, or the error that it ended with."""
        ...

    def receive(self, timeout_s: float) -> Message | None:
        """What it says next, None after timeout_s. Raises WorkerLost, or the error that it says it ended with."""
        ...

    def failure(self) -> ShoalError | None:
        """Why it is gone; None: it is not. Whatever else it has said is dropped."""
        ...

    def ask_to_end(self) -> None:
        """Say goodbye, if it still listens. `close` must follow."""
        ...

    def kill(self) -> bool:
        """Make it end, without waiting. Call it again until it says that it has ended."""
        ...

    def close(self, deadline_s: float) -> None:
        """Let it end by itself until deadline_s (time.monotonic), then make it end. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One worker's place in a pipeline."""

    label: str
    """what to call the worker in messages"""
    load: LoadStage
    machine: str | None
    """where it runs; None: here"""
    cpu_quota: float | None = None
    """share of its cores' time that it is held to; None: all"""


class Wiring(Protocol):
    """The links among the workers of one generation."""

    def cut(self) -> None:
        """Cut them all: workers that wait in one learn of it. Idempotent."""
        ...


class Fabric(Protocol):
    """Makes workers, and the links among them."""

    def start(self, place: Place) -> StageWorker:
        """A worker that has been told what to load. Returns before it has. Raises ShoalError."""
        ...

    def wire(self, workers: Sequence[Sequence[StageWorker]], generation: Generation) -> Wiring:
        """Tell workers, stage by stage and rank by rank, who their neighbours are. Raises ShoalError."""
        ...
