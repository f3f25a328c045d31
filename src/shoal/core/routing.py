"""Which replica a request goes to: the one that is expected to have finished it first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import CapacityError

OUTPUT_WORK_TOKENS = 200
"""Expected work of one sequence's outputs, in prefill tokens, however many it has produced: where an output ends is not
known in advance (`max_tokens` is a bound that few answers reach), and 128 tokens that cost 1.5 prefill tokens each are
the order of a chat answer. It also keeps requests that come together on one replica, which computes their prompts in
one step; counting down to the limit scattered them (docs/log.md, routing)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What a replica still has to do, and how fast it is."""

    prefill_tokens: int
    """rows of known tokens still to be computed, of running and waiting requests"""
    num_decoding: int
    """unfinished sequences whose outputs are drawn, not forced"""
    relative_speed: float = 1.0
    """any unit that is the same for all replicas, > 0"""
    is_fenced: bool = False
    """its workers are lost and not yet rebuilt"""


def choose_replica(loads: Sequence[ReplicaLoad], *, prompt_tokens: int = 0) -> int:
    """The index of the replica with the earliest expected finish; equal ones: the lowest index.

    Args:
        loads: one a replica.
        prompt_tokens: of the request to be placed. Its own work matters only between replicas of unequal speed.

    Raises:
        CapacityError: every replica is fenced.
    """
    living = [index for index, load in enumerate(loads) if not load.is_fenced]
    if not living:
        raise CapacityError("no replica has all its workers at the moment; try again")
    own_work = _work(prompt_tokens, 1)
    return min(living, key=lambda index: _expected_finish(loads[index], own_work))


def _expected_finish(load: ReplicaLoad, own_work: float) -> float:
    return (_work(load.prefill_tokens, load.num_decoding) + own_work) / load.relative_speed


def _work(prefill_tokens: int, num_decoding: int) -> int:
    return prefill_tokens + OUTPUT_WORK_TOKENS * num_decoding
