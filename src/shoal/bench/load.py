"""What load to put on a server, and the prompts it is made of."""

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
"""Common words that byte-pair tokenisers keep whole, so that a word is about a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A closed loop: `concurrency` clients that each send a request, read the answer and send the next. Or an open one:
    requests come by chance, `request_rate` a second on average, whether those before them are answered or not."""

    base_url: str
    """of the server, with or without /v1"""
    model: str
    concurrency: int | None = None
    """clients of a closed loop, >= 1; None: an open loop"""
    request_rate: float | None = None
    """requests/s of an open loop, > 0; None: a closed loop"""
    num_prompts: int
    prompt_tokens: int = 128
    output_tokens: int = 64
    seed: int = 0
    """prompts are a function of (seed, concurrency or rate, index): no two runs of a sweep share a prefix"""
    prompt_kind: PromptKind = "tokens"
    """tokens: exact length as ids; text: about the length in words, for servers that take no ids"""
    num_warmups: int = 1
    """requests sent before the clock starts"""
    token_id_range: tuple[int, int] = (1000, 20_000)
    """ids are drawn from first <= id < second: inside every common vocabulary, clear of special tokens"""
    api_key: str | None = None
    timeout_s: float = 600.0
    """for one request"""


def prompts(load: Load) -> Sequence[list[int] | str]:
    """Prompts for the warm-up and then for the run, none a prefix of another beyond chance."""
    rng = random.Random(f"{load.seed}/{load.concurrency or load.request_rate}")
    return [_prompt(load, rng) for _ in range(load.num_warmups + load.num_prompts)]


def arrival_times(rate: float, count: int, seed: int) -> list[float]:
    """Seconds from the start at which `count` requests come: a Poisson process of `rate` a second."""
    rng = random.Random(f"{seed}/{rate}/arrivals")
    return list(itertools.accumulate(rng.expovariate(rate) for _ in range(count)))


def _prompt(load: Load, rng: random.Random) -> list[int] | str:
    match load.prompt_kind:
        case "tokens":
            first, end = load.token_id_range
            return [rng.randrange(first, end) for _ in range(load.prompt_tokens)]
        case "text":
            return " ".join(rng.choices(WORDS, k=load.prompt_tokens))
