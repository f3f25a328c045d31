"""A Ray whose actors answer when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import ray.exceptions

from shoal.machines.ray.on_machine.agent import MachineFacts


@dataclass(eq=False)
class Reference:
    """To one answer."""

    what: str
    arguments: tuple[object, ...] = ()
    is_there: bool = False
    value: Any = None

    def answer(self, value: Any = None) -> None:
        """A value, or an error to raise."""
        self.is_there, self.value = True, value


@dataclass(eq=False)
class FakeAgent:
    """An actor. Calls that `answers` has something for are answered at once, others when a test answers them."""

    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    calls: list[Reference] = field(default_factory=list[Reference])

    def __getattr__(self, what: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: self._call(what, arguments))

    def _call(self, what: str, arguments: tuple[object, ...]) -> Reference:
        reference = Reference(what, arguments)
        self.calls.append(reference)
        if what in self.answers:
            reference.answer(self.answers[what])
        return reference

    def asked(self, what: str) -> list[Reference]:
        return [call for call in self.calls if call.what == what]


class FakeRay(ModuleType):
    """The part of the module that is used of it. `make_agent(node_id)` makes the actor on a node."""

    exceptions = ray.exceptions

    def __init__(self, make_agent: Callable[[str], FakeAgent] = lambda node_id: FakeAgent()) -> None:
        super().__init__("ray")
        strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, soft: node_id)
        self.util = SimpleNamespace(scheduling_strategies=strategies)
        self.killed: list[FakeAgent] = []
        self._make_agent = make_agent

    def remote(self, **options: object) -> Callable[[type], SimpleNamespace]:
        def options_of(scheduling_strategy: str) -> SimpleNamespace:
            return SimpleNamespace(remote=lambda *arguments: self._make_agent(scheduling_strategy))

        return lambda actor: SimpleNamespace(options=options_of)

    def kill(self, agent: FakeAgent) -> None:
        self.killed.append(agent)

    def wait(
        self, references: Sequence[Reference], *, num_returns: int = 1, timeout: float
    ) -> tuple[list[Reference], list[Reference]]:
        return [one for one in references if one.is_there], [one for one in references if not one.is_there]

    def get(self, reference: Reference, *, timeout: float) -> Any:
        assert reference.is_there
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value


def facts(hostname: str, version: str) -> MachineFacts:
    return MachineFacts(hostname=hostname, boot_id=hostname, cores=(0,), free_memory_bytes=1 << 30, version=version)
