"""A tiny stand-in for a language model whose every answer is known in advance.

A token's KV entry is a number chained over all tokens before it, as a real layer's input is; the next token is a hash
over the entries of the whole context. A wrong block, position, or order anywhere changes the answer. What an entry
depends on is the token ids up to its own and nothing else: not who computed it, when, or in which batch.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from shoal.core.generation.scheduler_config import SchedulerConfig, output_limit
from shoal.core.sequences.request import FinishReason, Request
from shoal.protocol.messages import Sampling

VOCAB_SIZE = 61
FIRST_ENTRY = 1
"""what the entry of position 0 is chained to"""
_MASK = (1 << 64) - 1
_MULTIPLIER = 6364136223846793005
"""Source: Knuth, MMIX linear congruential generator."""


def chain_entry(previous: int, token_id: int, position: int) -> int:
    """The KV entry of a token, uint64."""
    return ((previous ^ (token_id + 1)) * _MULTIPLIER + position) & _MASK


def draw_token(entries: array[int], sampling: Sampling, token_index: int, history: bytes) -> int:
    """The next token after a context, keyed like a real draw by seed, token index and, with penalties, the history."""
    key = entries.tobytes() + sampling.seed.to_bytes(8, "little") + token_index.to_bytes(4, "little") + history
    return int.from_bytes(blake2b(key, digest_size=4).digest(), "little") % VOCAB_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedOutcome:
    """What a request ends with when nothing goes wrong."""

    token_ids: tuple[int, ...]
    reason: FinishReason


def undisturbed_outcome(config: SchedulerConfig, request: Request) -> ExpectedOutcome:
    """Run one admissible request alone, without blocks, batches or faults."""
    limit = output_limit(config, request)
    if request.targets:
        return ExpectedOutcome(token_ids=request.targets, reason="length")
    entries = chain_entries(request.prompt_ids)
    tokens: list[int] = []
    while len(tokens) < limit:
        history = array("i", tokens).tobytes() if request.sampling.needs_history else b""
        token = draw_token(entries, request.sampling, len(tokens), history)
        tokens.append(token)
        if token in request.stop_token_ids:
            return ExpectedOutcome(token_ids=tuple(tokens), reason="stop")
        entries.append(chain_entry(entries[-1], token, len(entries)))
    return ExpectedOutcome(token_ids=tuple(tokens), reason="length")


def chain_entries(token_ids: Sequence[int]) -> array[int]:
    """The KV entries of a text from position 0 on, uint64."""
    entries = array("Q")
    previous = FIRST_ENTRY
    for position, token_id in enumerate(token_ids):
        previous = chain_entry(previous, token_id, position)
        entries.append(previous)
    return entries
