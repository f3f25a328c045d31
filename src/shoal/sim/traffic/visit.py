"""The traffic of a simulation: when requests arrive, and how long they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from random import Random

import msgspec

from shoal.core.sequences.request import Request, RequestId
from shoal.protocol.language_messages import Sampling

HASHED_TOKENS = 512
"""Prompt tokens for which one hash of a Mooncake trace stands. Source: its README, "block size of 512"."""
_SAMPLING = Sampling()
"""That of every request, since the tokens themselves do not matter."""


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the traffic."""

    at_s: float
    """Seconds since the beginning."""
    prompt_tokens: int
    """Prompt tokens, >= 1."""
    output_tokens: int
    """Output tokens, >= 1; all of them are produced."""
    hashes: tuple[int, ...] = ()
    """Hashes of the prompt's leading pieces: equal ones stand for equal text. Empty: the prompt is unique."""

    def request(self, number: int) -> Request:
        """Make the `number`th request. Its tokens are artificial, and equal where the hashes are equal."""
        ids: tuple[int, ...] = ()
        if self.hashes:
            hashes = self.hashes[: -(-self.prompt_tokens // HASHED_TOKENS)]
            ids = tuple(chain.from_iterable(repeat(one, HASHED_TOKENS) for one in hashes))
        ids += (-1 - number,) * (self.prompt_tokens - len(ids))
        return Request(
            request_id=RequestId(f"r{number}"),
            prompt_ids=ids[: self.prompt_tokens],
            max_tokens=self.output_tokens,
            sampling=_SAMPLING,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """A closed loop: each client sends its next request when its last one is answered."""

    count: int
    """The number of clients, >= 1."""
    prompt_tokens: int
    output_tokens: int
    until_s: float
    """No request begins later than this."""
    num_requests: int | None = None
    """Requests of all clients together; None: no limit."""


Traffic = Iterator[Visit] | Clients


def poisson(rate_per_s: float, *, prompt_tokens: int, output_tokens: int, until_s: float, seed: int) -> Iterator[Visit]:
    """An open loop: requests arrive independently at random times (a Poisson process).

    Args:
        rate_per_s: requests per second, > 0.
        prompt_tokens: prompt tokens of each request.
        output_tokens: output tokens of each request.
        until_s: no request arrives later than this.
        seed: the seed of the arrival times.
    """
    rng, at_s = Random(seed), 0.0
    while (at_s := at_s + rng.expovariate(rate_per_s)) < until_s:
        yield Visit(at_s=at_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
