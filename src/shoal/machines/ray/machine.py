"""One machine of a Ray cluster, and its name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.machines.ray.on_machine.agent import MachineFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class RayMachine:
    """A machine of the cluster."""

    node_id: str
    """Ray's id of the machine, a new one each time it joins."""
    name: str
    address: str
    raylet_port: int
    """Port at which Ray's process on the machine listens."""
    facts: MachineFacts
    agent: Any
    """Ray's handle of the actor."""


def name_of_joined(joined: RayMachine, known: Sequence[RayMachine], living: Collection[str]) -> str:
    """The name for a machine that has joined: its former name if it was known, otherwise its own, or its address if
    that name is taken.

    Args:
        joined: the machine, with any name.
        known: all machines so far.
        living: names of the machines that are there.
    """
    hostname = joined.facts.hostname
    back = [one.name for one in known if one.address == joined.address]
    back += [one.name for one in known if one.name == hostname and one.name not in living]
    if back:
        return back[0]
    is_taken = any(hostname in (one.name, one.facts.hostname) for one in known)
    return joined.address if is_taken else hostname
