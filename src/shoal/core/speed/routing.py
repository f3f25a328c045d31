"""Which replica a request goes to: the one that is expected to have finished it first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Literal, cast, get_args

from shoal.errors import CapacityError, ConfigError

Routing = Literal["earliest-finish", "round-robin"]

OUTPUT_TOKENS = 128
"""Outputs expected of a sequence, however many it has produced: where an output ends is not known in advance
(`max_tokens` is a bound that few answers reach), and 128 tokens are the order of a chat answer. It also keeps requests
that come together on one replica, which computes their prompts in one step; counting down to the limit scattered them
(docs/log.md, routing)."""
OUTPUT_WORK_TOKENS = 200
"""The work of those outputs in prefill tokens, where nothing was measured: one costs 1.5 prefill tokens or so."""
_ALIKE = 1.25
"""Replicas whose speeds differ by less count as equally fast: measured speeds of equal machines differed by 17 %, and
to believe it would scatter requests that come together (docs/log.md, routing)."""
_KEPT_SPEEDS = 4
"""Fleets whose levelled speeds are remembered: between two requests, often no replica has answered."""
_TYPICAL_ROWS = 8
"""Sequences that decode together where speeds are compared as such."""


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

    def scaled(self, factor: float) -> ReplicaSpeed:
        """That of a replica which takes `factor` times as long."""
        return ReplicaSpeed(
            prompt_token_s=self.prompt_token_s * factor,
            output_step_s=self.output_step_s * factor,
            output_row_s=self.output_row_s * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLoad:
    """What a replica still has to do, and how fast it is."""

    prefill_tokens: int
    """Rows of known tokens that are still to be computed, of running and waiting requests."""
    num_decoding: int
    """Unfinished sequences whose outputs are drawn and not forced."""
    relative_speed: float = 1.0
    """The speed to assume while none is known, > 0, in any unit that is the same for all replicas."""
    speed: ReplicaSpeed | None = None
    """What a token takes here; None: not known yet."""
    is_fenced: bool = False
    """Whether the workers are lost and not yet rebuilt."""
    is_slow: bool = False
    """Whether one of the workers has slowed down."""
    is_overloaded: bool = False
    """Whether requests wait here for a place or for memory, so that what is cached may soon be gone."""


def parse_routing(text: str) -> Routing:
    """Read the name of a rule. Raises ConfigError."""
    if text not in get_args(Routing):
        raise ConfigError(f"unknown routing {text!r}: use one of {', '.join(get_args(Routing))}")
    return cast(Routing, text)


def choose_replica(
    loads: Sequence[ReplicaLoad],
    *,
    prompt_tokens: int = 0,
    output_tokens: int = OUTPUT_TOKENS,
    cached_tokens: Sequence[int] = (),
) -> int:
    """The index of the replica with the earliest expected finish; equal ones: the lowest index.

    Args:
        loads: one a replica.
        prompt_tokens: of the request to be placed. Its own work matters only between replicas of unequal speed, or of
            which some have cached a part of it.
        output_tokens: that it asks for at most.
        cached_tokens: for each replica, the leading prompt tokens that need not be computed there; empty: none. They
            draw a request to a replica that is well, and to no other.

    Raises:
        CapacityError: every replica is fenced.
    """
    living = _living(loads)
    speeds = _comparable_speeds(tuple((load.speed, load.relative_speed) for load in loads))

    def finish_s(index: int) -> float:
        load, speed = loads[index], speeds[index]
        cached = cached_tokens[index] if cached_tokens and not (load.is_slow or load.is_overloaded) else 0
        prompts_s = (load.prefill_tokens + prompt_tokens - cached) * speed.prompt_token_s
        others_s = load.num_decoding * OUTPUT_TOKENS * speed.output_row_s
        own_s = min(output_tokens, OUTPUT_TOKENS) * (speed.output_step_s + speed.output_row_s)
        return prompts_s + others_s + own_s

    return min(living, key=finish_s)


def next_in_turn(replicas: Sequence[int], previous: int) -> int:
    """The place of the one that follows the previous, whatever it has to do: the rule that others are compared with.

    Args:
        replicas: ascending, at least one.
        previous: need not be among them; -1 before the first request.
    """
    return next((place for place, replica in enumerate(replicas) if replica > previous), 0)


def _living(loads: Sequence[ReplicaLoad]) -> list[int]:
    living = [index for index, load in enumerate(loads) if not load.is_fenced]
    if not living:
        raise CapacityError("no replica has all its workers at the moment; try again")
    return living


@lru_cache(_KEPT_SPEEDS)
def _comparable_speeds(speeds: tuple[tuple[ReplicaSpeed | None, float], ...]) -> Sequence[ReplicaSpeed]:
    """What is not known is taken to be as fast as the fastest that is, so that it is tried and then known.

    Args:
        speeds: of each replica, and its relative speed, see `ReplicaLoad`.
    """
    known = [speed for speed, _ in speeds if speed is not None]
    fastest = min(known, key=_typical_s, default=ReplicaSpeed.from_prompts(1.0))
    return _levelled([speed or fastest.scaled(1.0 / relative) for speed, relative in speeds])


def _levelled(speeds: list[ReplicaSpeed]) -> list[ReplicaSpeed]:
    """Those that are alike, from the fastest on, all have their mean."""
    levelled = list(speeds)
    order = sorted(range(len(speeds)), key=lambda index: _typical_s(speeds[index]))
    while order:
        limit_s = _ALIKE * _typical_s(speeds[order[0]])
        alike = [index for index in order if _typical_s(speeds[index]) <= limit_s]
        mean = _mean([speeds[index] for index in alike])
        for index in alike:
            levelled[index] = mean
        order = order[len(alike) :]
    return levelled


def _mean(speeds: Sequence[ReplicaSpeed]) -> ReplicaSpeed:
    if len(speeds) == 1:
        return speeds[0]
    return ReplicaSpeed(
        prompt_token_s=fmean(speed.prompt_token_s for speed in speeds),
        output_step_s=fmean(speed.output_step_s for speed in speeds),
        output_row_s=fmean(speed.output_row_s for speed in speeds),
    )


def _typical_s(speed: ReplicaSpeed) -> float:
    """Seconds of a prompt token and of an output token."""
    return speed.prompt_token_s + speed.output_step_s + speed.output_row_s * _TYPICAL_ROWS
