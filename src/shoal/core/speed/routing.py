"""What the choice of a replica for a request goes by: how much each has to do, and how fast it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from shoal.errors import ConfigError

Routing = Literal["earliest-finish", "round-robin"]

OUTPUT_TOKENS = 128
"""Outputs expected of a sequence, however many it has produced: where an output ends is not known in advance
(`max_tokens` is a bound that few answers reach), and 128 tokens are the order of a chat answer. It also keeps requests
that come together on one replica, which computes their prompts in one step; counting down to the limit scattered them
(docs/log.md, routing)."""
OUTPUT_WORK_TOKENS = 200
"""The work of those outputs in prefill tokens, where nothing was measured: one costs 1.5 prefill tokens or so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpeed:
    """Seconds that a replica takes, measured or predicted; each >= 0, the first > 0."""

    prompt_token_s: float
    """Seconds of a prompt token, at the pace at which prompts go through."""
    output_step_s: float
    """Seconds between two tokens of a sequence, whatever runs beside it."""
    output_row_s: float
    """Seconds that each decoding sequence, itself included, adds between two tokens."""

    @classmethod
    def from_prompts(cls, prompt_token_s: float) -> ReplicaSpeed:
        """The time of a prompt where nothing is known of its outputs."""
        row_s = prompt_token_s * OUTPUT_WORK_TOKENS / OUTPUT_TOKENS
        return cls(prompt_token_s=prompt_token_s, output_step_s=0.0, output_row_s=row_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What a replica still has to do, and how fast it is."""

    prefill_tokens: int
    """Rows of known tokens that are still to be computed, of running and waiting requests."""
    num_decoding: int
    """Unfinished sequences whose outputs are drawn and not forced."""
    speed: ReplicaSpeed | None = None
    """What a token takes here; None: not known yet."""
    is_slow: bool = False
    """Whether one of the workers has slowed down."""
    is_overloaded: bool = False
    """Whether requests wait here for a place or for memory, so that what is cached may soon be gone."""


def parse_routing(text: str) -> Routing:
    """Read the name of a rule. Raises ConfigError."""
    if text not in get_args(Routing):
        raise ConfigError(f"unknown routing {text!r}: use one of {', '.join(get_args(Routing))}")
    return cast(Routing, text)


def next_in_turn(replicas: Sequence[int], previous: int) -> int:
    """The place of the one that follows the previous, whatever it has to do: the rule that others are compared with.

    Args:
        replicas: ascending, at least one.
        previous: need not be among them; -1 before the first request.
    """
    return next((place for place, replica in enumerate(replicas) if replica > previous), 0)
