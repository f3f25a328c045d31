"""What routing is based on: how much work each replica has, and how fast it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import msgspec

from shoal.errors import ConfigError

Routing = Literal["earliest-finish", "round-robin"]

OUTPUT_TOKENS = 128
"""Outputs still expected of a sequence, however many it has produced: the end of an output is not known in advance (few
answers reach `max_tokens`), and a chat answer has about 128 tokens. It also keeps requests that arrive together on one
replica, which computes their prompts in one step; counting down to the limit scattered them (docs/log.md, routing)."""
OUTPUT_WORK_TOKENS = 200
"""The work of those outputs in prefill tokens, if nothing was measured: an output costs about 1.5 prefill tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpeed:
    """The speed of a replica, measured or predicted, in seconds; each >= 0, the first > 0."""

    prompt_token_s: float
    """Seconds per prompt token, the inverse of the prefill throughput."""
    output_step_s: float
    """The part of the seconds between two tokens of a sequence that does not depend on what runs beside it."""
    output_row_s: float
    """Seconds that each decoding sequence, itself included, adds between two tokens."""

    @classmethod
    def from_prompts(cls, prompt_token_s: float) -> ReplicaSpeed:
        """The speed if only the time of prompts is known."""
        row_s = prompt_token_s * OUTPUT_WORK_TOKENS / OUTPUT_TOKENS
        return cls(prompt_token_s=prompt_token_s, output_step_s=0.0, output_row_s=row_s)


class ReplicaLoad(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's remaining work and its speed."""

    prefill_tokens: int
    """Rows of known tokens still to be computed, of running and waiting requests."""
    num_decoding: int
    """Unfinished sequences whose outputs are sampled, not given."""
    speed: ReplicaSpeed | None = None
    """The speed; None: not known yet."""
    is_slow: bool = False
    """Whether one of the workers has slowed down."""
    is_overloaded: bool = False
    """Whether requests wait here for a place or for memory, so that cached blocks may soon be evicted."""


def parse_routing(text: str) -> Routing:
    """Parse the name of a routing rule. Raises ConfigError if it is unknown."""
    if text not in get_args(Routing):
        raise ConfigError(f"unknown routing {text!r}: use one of {', '.join(get_args(Routing))}")
    return cast(Routing, text)


def next_in_turn(replicas: Sequence[int], previous: int) -> int:
    """Round robin: the position in `replicas` of the one that follows the previous one.

    Args:
        replicas: indices of replicas, ascending, at least one.
        previous: the index of the previous choice, which need not be among them; -1 before the first request.
    """
    return next((place for place, replica in enumerate(replicas) if replica > previous), 0)
