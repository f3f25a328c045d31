"""How much KV cache a replica is given where nobody has said."""

from __future__ import annotations

KV_SHARE_OF_FREE_MEMORY = 0.5
"""Of the memory that weights leave, what the KV cache may take at most."""
_LONG_SEQS = 4
_USUAL_TOKENS = 1024
"""Judgments: room for all sequences at a usual length, and for a few of the longest. A replica that runs out of it
computes its youngest sequence again later; one that never needs it has reserved address space, and no memory."""


def default_kv_tokens(max_seqs: int, max_context: int, at_least: int = 0) -> int:
    """Tokens of all sequences together that a replica has room for, if memory allows.

    Args:
        max_seqs: sequences that may run at once.
        max_context: tokens of the longest.
        at_least: tokens that the expected load takes.
    """
    return max(at_least, min(max_seqs, _LONG_SEQS) * max_context, max_seqs * min(max_context, _USUAL_TOKENS))


def default_kv_bytes(kv_tokens: int, bytes_per_token: int, *, num_replicas: int, free_bytes: int) -> int:
    """KV memory of all replicas of one machine together.

    Args:
        kv_tokens: what each replica has room for, if memory allows.
        bytes_per_token: of one replica.
        num_replicas: >= 1.
        free_bytes: what the weights leave, which may be less than nothing.
    """
    return min(num_replicas * kv_tokens * bytes_per_token, int(max(0, free_bytes) * KV_SHARE_OF_FREE_MEMORY))
