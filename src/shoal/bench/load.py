"""The load to put on a server, and its prompts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PromptKind = Literal["tokens", "text"]

WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company", "system",
    "program", "question", "work", "government", "number", "night", "point",
)  # fmt: skip
"""Common words that byte-pair tokenizers keep whole, so that a word is about one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A closed loop of `concurrency` clients, each of which sends its next request after the last answer, or an open
    loop: requests arrive at random, `request_rate` per second on average, regardless of earlier answers."""

    base_url: str
    """The server's base URL, with or without /v1."""
    model: str
    concurrency: int | None = None
    """Clients of a closed loop, >= 1; None: an open loop."""
    request_rate: float | None = None
    """Requests/s of an open loop, > 0; None: a closed loop."""
    num_prompts: int
    prompt_tokens: int = 128
    output_tokens: int = 64
    seed: int = 0
    """Prompts depend on (seed, concurrency or rate, index), so that the runs of a sweep share no prefixes."""
    prompt_kind: PromptKind = "tokens"
    """tokens: ids of the exact length; text: words of about the length, for servers that accept no ids."""
    num_warmups: int = 1
    """Requests sent before the measurement starts."""
    token_id_range: tuple[int, int] = (1000, 20_000)
    """Range [first, second) of random ids, inside every common vocabulary and without special tokens."""
    api_key: str | None = None
    timeout_s: float = 600.0
    """Seconds for one request."""


def prompts(load: Load) -> Sequence[list[int] | str]:
    """Random prompts for the warm-up, then for the run."""
    rng = random.Random(f"{load.seed}/{load.concurrency or load.request_rate}")
    return [_prompt(load, rng) for _ in range(load.num_warmups + load.num_prompts)]


def arrival_times(rate: float, count: int, seed: int) -> list[float]:
    """Arrival times of `count` requests in seconds from the start: a Poisson process of `rate` per second."""
    rng = random.Random(f"{seed}/{rate}/arrivals")
    return list(itertools.accumulate(rng.expovariate(rate) for _ in range(count)))


def _prompt(load: Load, rng: random.Random) -> list[int] | str:
    match load.prompt_kind:
        case "tokens":
            first, end = load.token_id_range
            return [rng.randrange(first, end) for _ in range(load.prompt_tokens)]
        case "text":
            return " ".join(rng.choices(WORDS, k=load.prompt_tokens))
