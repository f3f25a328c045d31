"""How the workers of a pipeline come to be and how they are wired: on this machine, or on several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shoal.executor.process.message_worker import MessageWorker
from shoal.protocol.messages import Generation, LoadStage


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

    def start(self, place: Place) -> MessageWorker:
        """A worker that has been told what to load. Returns before it has. Raises ShoalError."""
        ...

    def wire(self, workers: Sequence[Sequence[MessageWorker]], generation: Generation) -> Wiring:
        """Tell workers, stage by stage and rank by rank, who their neighbours are. Raises ShoalError."""
        ...
