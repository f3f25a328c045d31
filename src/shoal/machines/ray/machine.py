"""One machine of a Ray cluster, and what to call it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.machines.ray.on_machine.agent import MachineFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class RayMachine:
    """One machine that is part of the cluster."""

    node_id: str
    """Ray's, another one each time that the machine joins"""
    name: str
    address: str
    raylet_port: int
    """at which Ray's own process listens there"""
    facts: MachineFacts
    agent: Any
    """handle of the actor"""


def name_of_joined(joined: RayMachine, known: Sequence[RayMachine], living: Collection[str]) -> str:
    """The name of the machine that has come back; of one that is new its own, or where that is taken its address.

    Args:
        joined: with any name.
        known: all machines so far.
        living: names of those that are there.
    """
    hostname = joined.facts.hostname
    back = [one.name for one in known if one.address == joined.address]
    back += [one.name for one in known if one.name == hostname and one.name not in living]
    if back:
        return back[0]
    is_taken = any(hostname in (one.name, one.facts.hostname) for one in known)
    return joined.address if is_taken else hostname
