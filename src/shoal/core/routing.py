"""Which replica a request goes to: the one that is expected to have finished it first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import CapacityError

DECODE_TOKEN_WEIGHT = 1.5
"""Work of one decode token in prefill tokens. Source: design.md's measurements, llama.cpp on SmolLM2-135M Q4_1 with two
threads: prefill 250 tok/s, decode of 16 streams 169 tok/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What a replica still has to do, and how fast it is."""

    prefill_tokens: int
    """rows of known tokens still to be computed, of running and waiting requests"""
    decode_tokens: int
    """decode rows after those, at most"""
    relative_speed: float = 1.0
    """any unit that is the same for all replicas, > 0"""
    is_fenced: bool = False
    """its workers are lost and not yet rebuilt"""


def choose_replica(loads: Sequence[ReplicaLoad], *, prompt_tokens: int = 0, output_tokens: int = 0) -> int:
    """The index of the replica with the earliest expected finish; equal ones: the lowest index.

    Args:
        loads: one a replica.
        prompt_tokens: of the request to be placed. Its own work matters only between replicas of unequal speed.
        output_tokens: its limit.

    Raises:
        CapacityError: every replica is fenced.
    """
    living = [index for index, load in enumerate(loads) if not load.is_fenced]
    if not living:
        raise CapacityError("no replica has all its workers at the moment; try again")
    own_work = _work(prompt_tokens, output_tokens)
    return min(living, key=lambda index: _expected_finish(loads[index], own_work))


def _expected_finish(load: ReplicaLoad, own_work: float) -> float:
    return (_work(load.prefill_tokens, load.decode_tokens) + own_work) / load.relative_speed


def _work(prefill_tokens: int, decode_tokens: int) -> float:
    return prefill_tokens + DECODE_TOKEN_WEIGHT * decode_tokens
