"""Who comes when, and what they ask for: what a simulation is driven by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from random import Random

from shoal.core.sequences.request import Request, RequestId

HASHED_TOKENS = 512
"""Prompt tokens that one hash of a Mooncake trace stands for. Source: its README, "block size of 512"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request of the traffic."""

    at_s: float
    """since the beginning"""
    prompt_tokens: int
    """>= 1"""
    output_tokens: int
    """>= 1, all of which are produced"""
    hashes: tuple[int, ...] = ()
    """of the prompt's leading pieces: equal ones stand for equal text; empty: the prompt is like no other"""

    def request(self, number: int) -> Request:
        """The request that the server gets, the `number`th: its tokens are made up, equal where the hashes are."""
        hashes = self.hashes[: -(-self.prompt_tokens // HASHED_TOKENS)]
        ids = tuple(chain.from_iterable(repeat(one, HASHED_TOKENS) for one in hashes))
        ids += (-1 - number,) * (self.prompt_tokens - len(ids))
        return Request(
            request_id=RequestId(f"r{number}"),
            prompt_ids=ids[: self.prompt_tokens],
            max_tokens=self.output_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """A closed loop: each client sends its next request when its last one is answered."""

    count: int
    """>= 1"""
    prompt_tokens: int
    output_tokens: int
    until_s: float
    """no request begins later"""
    num_requests: int | None = None
    """of all clients together; None: any number"""


Traffic = Iterator[Visit] | Clients


def poisson(rate_per_s: float, *, prompt_tokens: int, output_tokens: int, until_s: float, seed: int) -> Iterator[Visit]:
    """An open loop: visitors that come at random times and know nothing of each other.

    Args:
        rate_per_s: requests a second, > 0.
        prompt_tokens: of each request.
        output_tokens: of each request.
        until_s: nobody comes later.
        seed: of the times.
    """
    rng, at_s = Random(seed), 0.0
    while (at_s := at_s + rng.expovariate(rate_per_s)) < until_s:
        yield Visit(at_s=at_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
