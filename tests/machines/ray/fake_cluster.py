"""Hosts whose raylets listen, with agents that answer as a test says."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, cast

from shoal.machines.ray.connection import RayConnection
from shoal.machines.ray.on_machine.agent import DISTRIBUTION
from shoal.machines.ray.roster import Roster
from tests.machines.ray.fake_ray import FakeAgent, FakeRay, facts


class FakeCluster:
    """Hosts h0, h1, ... each with a raylet that listens, until it is closed."""

    def __init__(self, count: int, undo: ExitStack) -> None:
        addresses = [f"127.0.0.{index + 1}" for index in range(count)]
        self.raylets = [undo.enter_context(socket.create_server((address, 0))) for address in addresses]
        self.node_ids = [f"node-{index}" for index in range(count)]
        self.present = set(range(count))
        self.ghosts: list[Any] = []
        """nodes that only Ray believes to live"""
        self.agents: dict[str, FakeAgent] = {}
        """latest of each node"""
        self.answers: dict[str, Any] = {
            node_id: facts(f"h{index}", version(DISTRIBUTION)) for index, node_id in enumerate(self.node_ids)
        }
        """what agents tell of themselves, by node; none: they do not answer"""
        self.ray = FakeRay(self._make_agent)
        self.num_closed = 0
        """times that the connection was left"""

    def nodes(self) -> Sequence[Any]:
        return self.ghosts + [
            {
                "NodeID": self.node_ids[index],
                "NodeManagerAddress": self.raylets[index].getsockname()[0],
                "NodeManagerPort": self.raylets[index].getsockname()[1],
                "NodeManagerHostname": f"h{index}",
            }
            for index in sorted(self.present)
        ]

    def connection(self) -> RayConnection:
        return cast(
            RayConnection,
            SimpleNamespace(
                ray=self.ray, nodes=lambda: self.nodes(), node_id=self.node_ids[0], trouble=None, close=self.close
            ),
        )

    def close(self) -> None:
        self.num_closed += 1

    def roster(self) -> Roster:
        return Roster(self.connection(), "", lambda: True)

    def set_answer(self, node_id: str, answer: Any) -> None:
        """None: no answer from now on."""
        self.answers[node_id] = answer
        self.agents[node_id].answers = self._answers_of(answer)

    def _make_agent(self, node_id: str) -> FakeAgent:
        agent = self.agents[node_id] = FakeAgent(self._answers_of(self.answers[node_id]))
        return agent

    @staticmethod
    def _answers_of(answer: Any) -> dict[str, Any]:
        """Every machine has the model."""
        return {} if answer is None else {"facts": answer, "find_model": (True, "/stored")}
